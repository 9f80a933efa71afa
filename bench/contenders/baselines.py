"""What interpolation is compared with: holding, blending, and ffmpeg's motion-compensated `minterpolate`; and by what.

Each takes keyframes uint8 `[T, H, W, 3]` and makes the `factor * (T-1) + 1` frames at `factor` times their rate; frame
`factor * i` stands at keyframe i.
"""

from collections.abc import Collection
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from ffrt.stages.interpolate import GRAPHS, METHODS, Method

Frames = NDArray[np.uint8]
PEAK_DB = 60.0  # PSNR is capped here: two equal pictures would otherwise outweigh everything in a mean
SSIM_WINDOW = 11  # pixels on a side, with the weights of a Gaussian of standard deviation SSIM_SIGMA_PX
SSIM_SIGMA_PX = 1.5


def methods_of(graphs: Collection[str]) -> tuple[list[Method], list[Method]]:
    """The methods of interpolation that a bundle with these graphs can serve, and those that it cannot."""
    served = [method for method in METHODS if GRAPHS[method] in graphs]
    return served, [method for method in METHODS if method not in served]


def hold(keyframes: Frames, factor: int) -> Frames:
    """Each keyframe shown until the next."""
    return np.repeat(keyframes, factor, axis=0)[: factor * (len(keyframes) - 1) + 1]


def blend(keyframes: NDArray[np.generic], factor: int) -> NDArray[np.float64]:
    """Linear blending of neighbours; for latents `[T, 4, h, w]` as well."""
    position = np.arange(factor * (len(keyframes) - 1) + 1) / factor
    left = np.minimum(position.astype(int), len(keyframes) - 2)
    weight = (position - left).reshape(-1, *[1] * (keyframes.ndim - 1))
    values = keyframes.astype(np.float64)
    blended: NDArray[np.float64] = values[left] * (1 - weight) + values[left + 1] * weight
    return blended


def linear(keyframes: Frames, factor: int) -> Frames:
    """Linear blending of pictures, rounded."""
    return np.rint(blend(keyframes, factor)).astype(np.uint8)


def minterpolate(keyframes: Frames, factor: int, mode: str = "mci") -> Frames:
    """Ffmpeg's `minterpolate` through PyAV's filter graph; `mode` is its `mi_mode` (mci, blend, dup).

    The filter looks two frames behind and ahead, so the clip is held for three frames at both ends; output frames are
    picked by their time stamps, never by counting. Colours pass through 8-bit YUV 4:4:4, which alone costs 53 dB.

    Raises `RuntimeError` when the filter leaves out a frame.
    """
    count, height, width, _ = keyframes.shape
    margin = 3
    held = np.concatenate([keyframes[:1].repeat(margin, 0), keyframes, keyframes[-1:].repeat(margin, 0)])
    graph = Graph()
    pixels = av.VideoFormat("yuv444p", width, height)
    source = graph.add_buffer(width=width, height=height, format=pixels, time_base=Fraction(1))
    chain = graph.add("minterpolate", f"fps={factor}:mi_mode={mode}:scd=none"), graph.add("buffersink")
    source.link_to(chain[0])
    chain[0].link_to(chain[1])
    graph.configure()
    shown: dict[Fraction, av.VideoFrame] = {}

    def collect() -> None:
        while True:
            try:
                frame = graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if frame.pts is not None and frame.time_base is not None:
                shown[Fraction(frame.pts * frame.time_base) - margin] = frame

    for index, picture in enumerate(held):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuv444p")
        frame.pts, frame.time_base = index, Fraction(1)
        graph.vpush(frame)
        collect()
    graph.vpush(None)
    collect()
    times = [Fraction(index, factor) for index in range(factor * (count - 1) + 1)]
    if missing := [str(time) for time in times if time not in shown]:
        raise RuntimeError(f"minterpolate gave no frame at {', '.join(missing)} of {count} keyframes")
    return np.stack([shown[time].to_ndarray(format="rgb24") for time in times])


def pictures(keyframes: Frames, factor: int) -> dict[str, Frames]:
    """All that can be made of the pictures alone, by name."""
    return {
        "hold": hold(keyframes, factor),
        "linear": linear(keyframes, factor),
        "minterpolate": minterpolate(keyframes, factor),
    }


def psnr_db(frames: Frames, truth: Frames) -> float:
    """Mean over frames of the peak signal-to-noise ratio of uint8 `[N, H, W, 3]`, each frame's capped at 60 dB.

    Raises `ValueError` when the two differ in shape.
    """
    _check_shapes(frames, truth)
    error = np.mean((frames.astype(np.float64) - truth) ** 2, axis=(1, 2, 3))
    return float(np.mean([peak_ratio_db(float(frame)) for frame in error]))


def peak_ratio_db(error: float) -> float:
    """Peak signal-to-noise ratio of a mean square error of uint8 values, at most 60 dB."""
    return min(float(10 * np.log10(255.0**2 / max(error, 1e-9))), PEAK_DB)


def ssim(frames: Frames, truth: Frames) -> float:
    """Mean structural similarity of uint8 `[N, H, W, 3]`, from -1 to 1 (Wang et al. 2004, eq. 13).

    The paper's window (Gaussian, 11 x 11, deviation 1.5) and constants (0.01 and 0.03 of 255). It is moved over every
    place where it lies inside the picture, and over each colour by itself: in grey, shapes and backgrounds of equal
    brightness would all be the same.

    Raises `ValueError` when the two differ in shape and for pictures smaller than the window.
    """
    _check_shapes(frames, truth)
    if min(frames.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(f"pictures must be at least {SSIM_WINDOW} px on a side, got {list(frames.shape)}")
    small, smaller = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    x, y = frames.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = _windows(x), _windows(y)
    spread = (_windows(x * x) - mean_x**2) + (_windows(y * y) - mean_y**2)
    common = _windows(x * y) - mean_x * mean_y
    light = (2 * (mean_x * mean_y) + small) / ((mean_x**2 + mean_y**2) + small)
    return float(np.mean(light * (2 * common + smaller) / (spread + smaller)))


def _windows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted mean of `[N, H, W, 3]` in every window of SSIM: `[N, H-10, W-10, 3]`."""
    from_centre_px = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-((from_centre_px / SSIM_SIGMA_PX) ** 2) / 2)
    weights /= weights.sum()
    for axis in (1, 2):
        values = np.lib.stride_tricks.sliding_window_view(values, SSIM_WINDOW, axis) @ weights
    return values


def _check_shapes(frames: Frames, truth: Frames) -> None:
    if frames.shape != truth.shape:
        raise ValueError(f"frames {list(frames.shape)} and truth {list(truth.shape)} differ in shape")
