"""Unit quaternions (w, x, y, z): on the way between two, and as matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NEARLY = 0.9995
"""The cosine above which an arc is as good as straight."""


def halfway(first: Floats, last: Floats, share: Floats) -> Floats:
    """A share ``[...]`` of the way along the shortest arc from ``first`` to ``last`` ``[..., 4]`` (slerp)."""
    cosine = (first * last).sum(-1)
    last = np.where(cosine[..., None] < 0, -last, last)
    cosine = np.minimum(np.abs(cosine), 1.0)
    angle = np.arccos(np.minimum(cosine, NEARLY))
    share = np.broadcast_to(share, cosine.shape)
    straight = cosine > NEARLY
    near = np.where(straight, 1 - share, np.sin((1 - share) * angle) / np.sin(angle))
    far = np.where(straight, share, np.sin(share * angle) / np.sin(angle))
    found = near[..., None] * first + far[..., None] * last
    unit: Floats = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return unit


def degrees_between(first: Floats, last: Floats) -> Floats:
    """The angle between rotations ``[..., 4]``."""
    cosine = np.minimum(np.abs((first * last).sum(-1)), 1.0)
    angle: Floats = np.degrees(2 * np.arccos(cosine))
    return angle


def matrices(turns: Floats) -> Floats:
    """Matrices ``[..., 3, 3]`` that turn columns as quaternions ``[..., 4]`` do."""
    w, x, y, z = np.moveaxis(turns, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def hinge(angles: Floats) -> Floats:
    """Matrices ``[N, 3, 3]`` of turns about z, which is to the right of the body; forward is positive."""
    half = angles / 2
    zero = np.zeros_like(half)
    return matrices(np.stack((np.cos(half), zero, zero, np.sin(half)), axis=-1))
