"""Whether what a process takes grows: a line through samples, and how far it can be trusted.

Samples follow one another, so the interval of the line comes from means over pieces of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError

PIECES = 20
Z = 2.1
"""Of Student's distribution for so many pieces, 95 %."""


def grown(samples: Sequence[Mapping[str, Any]], name: str, value: str, since_s: float) -> dict[str, float]:
    """How one number of a process changed from then on: its slope, and the first and the last quarter."""
    times = np.array([one["at_s"] for one in samples])
    values = np.array([one[name][value] for one in samples], np.float64)
    kept = times >= since_s
    slope, half = line(times[kept], values[kept])
    quarters = np.array_split(values[kept], 4)
    return {
        "per_hour": 3600 * slope,
        "noise_per_hour": 3600 * half,
        "first_quarter": float(quarters[0].mean()),
        "last_quarter": float(quarters[-1].mean()),
        "largest": float(values.max()),
    }


def line(times: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float]:
    """Slope of a line through the means of pieces, and the half-width of its 95 % interval.

    Raises BenchError for fewer than four samples.
    """
    count = min(PIECES, len(times) // 2)
    if count < 2:
        raise BenchError(f"soak: expected at least 4 samples after warm-up, got {len(times)}; give it more minutes")
    x = np.array([piece.mean() for piece in np.array_split(times, count)])
    y = np.array([piece.mean() for piece in np.array_split(values, count)])
    x0 = x - x.mean()
    slope = float(x0 @ y / (x0 @ x0))
    rest = y - y.mean() - slope * x0
    error = float(np.sqrt(rest @ rest / max(1, count - 2) / (x0 @ x0)))
    least = float(np.ptp(times)) ** -1  # one byte, file or thread over the whole time is no growth
    return slope, max(Z * error, least)
