"""Shares of yes and no, and means, with their confidence intervals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); (0, 1) of nothing."""
    if count == 0:
        return 0.0, 1.0
    share_right, room = right / count, z * z / count
    middle = (share_right + room / 2) / (1 + room)
    half = z / (1 + room) * math.sqrt(share_right * (1 - share_right) / count + room / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(right: Sequence[bool]) -> dict[str, Any]:
    """Count, share and its 95 % interval; the share of nothing is None."""
    low, high = wilson(sum(right), len(right))
    return {
        "right": sum(right),
        "of": len(right),
        "share": sum(right) / len(right) if right else None,
        "low": low,
        "high": high,
    }


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean of one number a clip, its 95 % interval by resampling clips (Efron 1979), and how many; None of nothing."""
    if not values:
        return {"mean": None, "low": None, "high": None, "clips": 0}
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(np.asarray(values)[drawn].mean(axis=1), [0.025, 0.975])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high), "clips": len(values)}
