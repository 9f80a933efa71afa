"""Shares of yes and no, with their confidence intervals."""

import math
from collections.abc import Sequence
from typing import Any


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
