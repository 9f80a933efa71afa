"""People drawn as capsules by signed distance, anti-aliased, with a shadow, before ground and sky.

A camera follows the root sideways and keeps its height, so that a jump is seen. Parts are painted from far to near,
each with a thin dark rim, and what is far is darker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.datasets.people.motions import Poses
from export.datasets.people.skeleton import PARTS, capsules

Floats = NDArray[np.float64]
RGB = tuple[int, int, int]
COLOURS: dict[str, RGB] = {
    "red": (215, 45, 40),
    "green": (45, 170, 65),
    "blue": (50, 80, 225),
    "yellow": (235, 205, 50),
    "purple": (160, 60, 195),
}
GROUNDS: dict[str, RGB] = {"brown": (115, 85, 55), "grey": (110, 112, 118), "teal": (30, 105, 105)}
SKY: RGB = (205, 218, 230)
SKIN: RGB = (232, 190, 160)
FEET, HORIZON = 0.86, 0.70
"""Where the ground under the root, and the horizon, are: shares of the height of a frame."""
RIM, RIM_SHADE = 0.012, 0.45
FARTHEST, SHADOW = 0.68, 0.62
"""Brightness of what is 0.3 m behind the root, and of ground in shadow."""
AT_ONCE = 32


@dataclass(frozen=True)
class Camera:
    """From where a body is seen: which side (1: it faces right), turned and tilted by degrees, metres in the frame."""

    side: int
    turn_degrees: float
    tilt_degrees: float
    metres: float

    def project(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Right of the middle, above the ground, and nearness, in metres, of points ``[..., 3]``."""
        turn, tilt = np.radians(self.turn_degrees), np.radians(self.tilt_degrees)
        x, y, z = self.side * points[..., 0], points[..., 1], self.side * points[..., 2]
        right, near = np.cos(turn) * x + np.sin(turn) * z, np.cos(turn) * z - np.sin(turn) * x
        return right, np.cos(tilt) * y - np.sin(tilt) * near, np.cos(tilt) * near + np.sin(tilt) * y


def draw(poses: Poses, colour: str, ground: str, camera: Camera, size_px: int) -> Tensor:
    """Draw N poses: float32 ``[N, 3, size_px, size_px]`` in -1..1."""
    count = len(poses.height)
    frames = torch.empty(count, 3, size_px, size_px)
    for first in range(0, count, AT_ONCE):
        places = np.arange(first, min(first + AT_ONCE, count))
        frames[first : first + AT_ONCE] = painted(poses.at(places), COLOURS[colour], GROUNDS[ground], camera, size_px)
    return frames


def painted(poses: Poses, colour: RGB, ground: RGB, camera: Camera, size_px: int) -> Tensor:
    """As :func:`draw`, all at once."""
    first, last, radius = capsules(poses)
    scale = size_px / camera.metres
    pixel = torch.arange(size_px) + 0.5
    x, y = pixel[None, None, :], pixel[None, :, None]
    sky, earth = as_colour(SKY), as_colour(ground)
    below = (y - HORIZON * size_px + 0.5).clamp(0, 1)  # [1, S, 1]
    shadow = torch.zeros(len(first), size_px, size_px)
    flat = [camera.project(ends * np.array([1.0, 0.0, 1.0])) for ends in (first, last)]
    for part in range(len(PARTS)):
        ends = [in_px(right[:, part], up[:, part], scale, size_px) for right, up, _ in flat]
        shadow = torch.maximum(shadow, cover(distance(x, y, *ends) - 0.6 * radius[part] * scale))
    lit = torch.lerp(earth, SHADOW * earth, shadow[:, None])
    frames = torch.lerp(sky.expand_as(lit), lit, below[:, None])

    seen = [camera.project(ends) for ends in (first, last)]
    nearness = (seen[0][2] + seen[1][2]) / 2  # [N, P]
    order = np.argsort(nearness, axis=1)
    rows = np.arange(len(first))
    light = torch.from_numpy(np.interp(nearness, (-0.3, 0.1), (FARTHEST, 1.0)).astype(np.float32))
    fills = torch.stack([as_colour(SKIN if part.skin else colour)[:, 0, 0] for part in PARTS])  # [P, 3]
    for place in range(len(PARTS)):
        nth = order[:, place]
        ends = [in_px(right[rows, nth], up[rows, nth], scale, size_px) for right, up, _ in seen]
        away = distance(x, y, *ends) - torch.from_numpy((radius[nth] * scale).astype(np.float32))[:, None, None]
        fill = (fills[nth] * light[rows, nth][:, None])[:, :, None, None]
        rim = cover(away - RIM * scale)[:, None]
        frames = torch.lerp(frames, RIM_SHADE * fill.expand_as(frames), rim)
        frames = torch.lerp(frames, fill.expand_as(frames), cover(away)[:, None])
    return frames / 127.5 - 1


def as_colour(rgb: RGB) -> Tensor:
    """``[3, 1, 1]`` from 0 to 255."""
    return torch.tensor(rgb, dtype=torch.float32)[:, None, None]


def in_px(right: Floats, up: Floats, scale: float, size_px: int) -> tuple[Tensor, Tensor]:
    """Projected points ``[N]`` as columns and rows of a frame, ``[N, 1, 1]``."""
    columns, rows = size_px / 2 + right * scale, FEET * size_px - up * scale
    found = tuple(torch.from_numpy(values.astype(np.float32))[:, None, None] for values in (columns, rows))
    return found[0], found[1]


def distance(x: Tensor, y: Tensor, first: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor]) -> Tensor:
    """From pixels to the line between two points, ``[N, S, S]`` in px."""
    from_x, from_y = x - first[0], y - first[1]
    along_x, along_y = last[0] - first[0], last[1] - first[1]
    share = (from_x * along_x + from_y * along_y) / (along_x.square() + along_y.square()).clamp_min(1e-6)
    share = share.clamp(0, 1)
    return ((from_x - share * along_x).square() + (from_y - share * along_y).square()).sqrt()


def cover(away: Tensor) -> Tensor:
    """The share of a pixel that is covered, where an edge is so many px away."""
    return (0.5 - away).clamp(0, 1)
