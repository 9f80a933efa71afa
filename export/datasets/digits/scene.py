"""Two digits that bounce between opposite edges of a black frame of 64 x 64 px, drawn at any time in seconds.

A digit touches the edge itself: what bounces is its glyph, without the black around it. Each way there and back takes
the same time, so every clip goes on for ever, and a video of any length has a truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from export.datasets.digits import words
from export.datasets.digits.pictures import Digits
from export.errors import SceneError

FRAME_PX = 64
MARGIN_PX = 1.0
"""Between the glyph and the edge where it turns round."""
MOTIONS = words.MOTION_NAMES
PERIOD_S = (4.0, 7.5)
"""Seconds there and back: at 2 fps at least eight keyframes, and every clip of 16 shows both edges."""


@dataclass(frozen=True)
class Body:
    """One digit: which picture of it, and how it moves.

    ``phase`` is its place in the period at t = 0: 0 at the left or upper edge, 0.5 at the other. ``across`` is where it
    stands on the other axis, from 0 to 1 of the room that it has there.
    """

    digit: int
    motion: str
    row: int
    period_s: float
    phase: float
    across: float

    def __post_init__(self) -> None:
        if self.motion not in MOTIONS:
            raise SceneError(f"motion must be one of {MOTIONS}, got {self.motion!r}")
        if not 0 <= self.digit <= 9:
            raise SceneError(f"digit must be 0 to 9, got {self.digit}")
        if not self.period_s > 0:
            raise SceneError(f"period_s must be positive, got {self.period_s}")

    def corners(
        self, times: NDArray[np.float64], height: int, width: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Left and upper edge of its glyph at each time, in px, ``[N]`` each."""
        turn = np.mod(self.phase + times / self.period_s, 1.0)
        along = np.minimum(2 * turn, 2 - 2 * turn)
        still = np.full_like(along, self.across)
        x, y = (still, along) if self.motion == MOTIONS[0] else (along, still)
        left, top = (MARGIN_PX + way * (FRAME_PX - 2 * MARGIN_PX - side) for way, side in ((x, width), (y, height)))
        return left, top


@dataclass(frozen=True)
class BouncingClip:
    """Two digits; the brighter of them is seen where they cross."""

    bodies: tuple[Body, Body]


def draw(
    clip: BouncingClip, digits: Digits, times_s: NDArray[np.floating] | Sequence[float], size_px: int = FRAME_PX
) -> Tensor:
    """Draw a clip at times ``[N]`` in seconds: float32 ``[N, 3, size_px, size_px]`` in -1..1.

    Pictures are interpolated bilinearly, so that a digit moves smoothly. Raises SceneError below 64 px.
    """
    if size_px < FRAME_PX:
        raise SceneError(f"size_px must be {FRAME_PX} or more, which the pictures are made for, got {size_px}")
    times = np.asarray(times_s, dtype=np.float64)
    light = torch.zeros(len(times), 1, size_px, size_px)
    for body in clip.bodies:
        glyph = torch.from_numpy(digits.glyph(body.row).astype(np.float32) / 255)
        light = torch.maximum(light, placed(glyph, *body.corners(times, glyph.shape[0], glyph.shape[1]), size_px))
    return (light * 2 - 1).expand(-1, 3, -1, -1).contiguous()


def placed(glyph: Tensor, left: NDArray[np.float64], top: NDArray[np.float64], size_px: int) -> Tensor:
    """A glyph ``[h, w]`` with its corner at ``left``, ``top`` ``[N]`` in px of the frame: ``[N, 1, S, S]``."""
    pixel = (torch.arange(size_px, dtype=torch.float64) + 0.5) * (FRAME_PX / size_px)
    axes = []
    for corner, side in ((left, glyph.shape[1]), (top, glyph.shape[0])):
        inside = (pixel[None] - torch.from_numpy(corner)[:, None]) / side  # [N, S], 0..1 inside the glyph
        axes.append((inside * 2 - 1).float())
    shape = (len(left), size_px, size_px)
    grid = torch.stack((axes[0][:, None, :].expand(shape), axes[1][:, :, None].expand(shape)), dim=-1)
    return F.grid_sample(glyph.expand(len(left), 1, -1, -1), grid, mode="bilinear", align_corners=False)
