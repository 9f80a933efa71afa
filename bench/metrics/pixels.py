"""Metrics that compare pixels with those of a true clip of the same shape."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError
from bench.metrics.base import Frames, check_shapes
from graphs.metrics import psnr

PEAK_DB = 60.0
"""PSNR is capped here: in a mean, two equal pictures would otherwise outweigh everything else."""
SSIM_WINDOW_PX = 11


def capped_psnr_db(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit values over all elements, at most `PEAK_DB`."""
    return min(psnr(got, want), PEAK_DB)


def psnr_db(frames: Frames, truth: Frames) -> float:
    """Mean over frames of the peak signal-to-noise ratio of uint8 `[N, H, W, 3]`, each frame's capped at 60 dB.

    Raises BenchError when the two differ in shape.
    """
    check_shapes(frames, truth)
    return float(np.mean([capped_psnr_db(*pair) for pair in zip(frames, truth, strict=True)]))


def mse(frames: Frames, truth: Frames) -> float:
    """Mean squared error of uint8 `[N, H, W, 3]`, of levels from 0 to 1.

    Raises BenchError when the two differ in shape.
    """
    check_shapes(frames, truth)
    pairs = zip(frames, truth, strict=True)
    return float(np.mean([np.mean((one.astype(np.float64) - other) ** 2) for one, other in pairs])) / 255**2


def ssim(frames: Frames, truth: Frames) -> float:
    """Mean structural similarity of uint8 `[N, H, W, 3]`, from -1 to 1 (Wang et al. 2004, eq. 13), by scikit-image.

    The paper's window (Gaussian, 11 x 11, deviation 1.5) and constants, wherever the window lies inside the picture,
    and each colour separately: in grey, shapes and backgrounds of equal brightness would look the same.
    Raises BenchError when the two differ in shape and for pictures smaller than the window.
    """
    from skimage.metrics import structural_similarity

    check_shapes(frames, truth)
    if min(frames.shape[1:3]) < SSIM_WINDOW_PX:
        raise BenchError(f"ssim: expected at least {SSIM_WINDOW_PX} px on each side, got {list(frames.shape[1:3])}")
    similarity: Any = structural_similarity  # untyped
    paper = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(frames, truth, strict=True)
    return float(np.mean([similarity(*pair, channel_axis=-1, data_range=255, **paper) for pair in pairs]))


def change_db(frames: Frames, truth: Frames) -> float:
    """Temporal consistency of uint8 `[N, H, W, 3]`: PSNR in dB of the changes from frame to frame, at most 60.

    Flicker and stutter are errors of the change, which no single frame shows. Without a bound, a method that repeats
    its keyframe would win by any number of dB in a clip that stands still.
    """
    check_shapes(frames, truth)
    changes = [np.diff(clip.astype(np.float64), axis=0) for clip in (frames, truth)]
    return capped_psnr_db(changes[0], changes[1])
