"""How far an array is from the one it should be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def relative_rms(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Root mean square of `got - want` over that of `want`; if `want` is all zeros, 0 when equal, else inf."""
    difference, scale = float(np.square(got - want).mean()), float(np.square(want).mean())
    if scale == 0:
        return 0.0 if difference == 0 else math.inf
    return math.sqrt(difference / scale)


def psnr(got: NDArray[Any], want: NDArray[Any], peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB over all elements, for values whose largest is `peak`; inf if equal."""
    mean_square = float(np.square(got.astype(np.float64) - want).mean())
    return math.inf if mean_square == 0 else 10 * math.log10(peak**2 / mean_square)
