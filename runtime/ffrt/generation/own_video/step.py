"""How far the interpolation of a video of the caller is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoStep:
    """Progress: frames written of all, seconds worked, and an estimate of those that are left, None at first."""

    frames: int
    num_frames: int
    elapsed_s: float
    remaining_s: float | None
