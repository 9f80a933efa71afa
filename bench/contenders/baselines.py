"""What interpolation is compared with: holding, blending, and ffmpeg's motion-compensated `minterpolate`.

Each takes keyframes uint8 `[T, H, W, 3]` and returns the `factor * (T-1) + 1` frames at `factor` times their rate;
frame `factor * i` is keyframe i.
"""

from collections.abc import Collection
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from bench.harness.record import BenchError
from bench.metrics.base import Frames
from ffrt.stages.interpolate import GRAPHS, METHODS, Method


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
    picked by their time stamps, never by counting. Colours pass through 8-bit YUV 4:4:4.

    Raises BenchError when the filter leaves out a frame.
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
        raise BenchError(f"minterpolate: expected a frame at every time, got none at {', '.join(missing)}")
    return np.stack([shown[time].to_ndarray(format="rgb24") for time in times])


def pictures(keyframes: Frames, factor: int) -> dict[str, Frames]:
    """Every baseline that needs the pictures alone, by name."""
    return {
        "hold": hold(keyframes, factor),
        "linear": linear(keyframes, factor),
        "minterpolate": minterpolate(keyframes, factor),
    }
