"""The demo domain "shapes": a grammar of short clips and the renderer that draws any of them at any frame rate.

Geometry is stated in a 128 x 128 frame, x to the right and y down, and scales with the size asked for. Time is in
seconds: a clip is 16 keyframes at 2 fps (t = 0, 0.5, ... 7.5), so it moves from 0 to 7.5 s and holds its last picture.
Truth for interpolated frames is the same clip rendered at the times between.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.datasets.grammar import ACTIONS, SHAPES, SIZES, Combination, split
from export.errors import SceneError

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 210, 50),
    "white": (240, 240, 240),
    "purple": (170, 60, 200),
}
BACKGROUNDS: dict[str, RGB] = {
    "black": (15, 15, 20),
    "grey": (95, 100, 110),
    "brown": (110, 80, 50),
    "teal": (20, 90, 95),
}

FRAME_PX = 128.0
MOTION_SECONDS = 7.5
TRAVEL_PX = 72.0
SPIN_DEGREES_PER_SECOND = 48.0  # 24 degrees per keyframe: under half of a square's 90, so the direction can be seen
SCALE_FROM, SCALE_TO = 0.4, 1.6
RADIUS_RANGE: dict[str | None, tuple[float, float]] = {"small": (12.0, 16.0), "large": (22.0, 27.0), None: (12.0, 27.0)}
DIRECTION: dict[str, tuple[float, float]] = {
    "moving right": (1.0, 0.0),
    "moving left": (-1.0, 0.0),
    "moving up": (0.0, -1.0),
    "moving down": (0.0, 1.0),
}

_MARGIN_PX = 1.0
_SQUARE_HALF_SIDE = 0.886  # of a radius: the area of the circle
_TRIANGLE_INRADIUS = 0.675  # circumradius 1.35


@dataclass(frozen=True)
class Clip:
    """One clip: the words of the grammar and the continuous parameters drawn for it.

    `radius_px`, `centre_px` (x, y at mid clip) are in the 128 x 128 frame; `angle_degrees` is the orientation at t = 0,
    clockwise from upright, and 0 in every clip that is drawn. A radius of r means a circle of radius r, a square of
    half side 0.886 r or an equilateral triangle of circumradius 1.35 r centred on its centroid. Growing and shrinking
    run between 0.4 and 1.6 times it.

    Raises `SceneError` for a word outside the grammar and for a spinning circle, which would look like a still one.
    """

    colour: str
    shape: str
    action: str
    background: str
    size: str | None
    radius_px: float
    centre_px: tuple[float, float]
    angle_degrees: float = 0.0

    def __post_init__(self) -> None:
        for field, word, words in (
            ("colour", self.colour, tuple(COLOURS)),
            ("shape", self.shape, SHAPES),
            ("action", self.action, ACTIONS),
            ("background", self.background, tuple(BACKGROUNDS)),
            ("size", self.size, (*SIZES, None)),
        ):
            if word not in words:
                raise SceneError(f"{field} must be one of {words}, got {word!r}")
        if (self.shape, self.action) == ("circle", "spinning"):
            raise SceneError("a spinning circle looks like a still one: choose a square or a triangle")
        if not self.radius_px > 0:
            raise SceneError(f"radius_px must be positive, got {self.radius_px}")


_TRAINED, _HELD_OUT = map(tuple, split())


def sample_clip(rng: np.random.Generator) -> Clip:
    """Draw a clip to train on, uniformly over the cells that are not kept for tests."""
    return sample_parameters(_TRAINED[int(rng.integers(len(_TRAINED)))], rng)


def sample_held_out(rng: np.random.Generator) -> Clip:
    """Draw a clip to test with, uniformly over the cells that no training draws from (`export.datasets.grammar`)."""
    return sample_parameters(_HELD_OUT[int(rng.integers(len(_HELD_OUT)))], rng)


def sample_parameters(cell: Combination, rng: np.random.Generator) -> Clip:
    """Draw radius and place for one cell, so that the whole shape stays inside the frame at all times.

    The travel is the same for every shape; where a large one would leave the frame, its radius is kept smaller.
    """
    dx, dy = DIRECTION.get(cell.action, (0.0, 0.0))
    left, up, right, down = _extents(cell.shape, turning=cell.action == "spinning")
    smallest, largest = RADIUS_RANGE[cell.size]
    free = FRAME_PX - 2 * _MARGIN_PX
    for travel, extent in ((abs(dx) * TRAVEL_PX, left + right), (abs(dy) * TRAVEL_PX, up + down)):
        largest = min(largest, (free - travel) / extent)
    radius = float(rng.uniform(smallest, largest))

    reach = radius * (SCALE_TO if cell.action in ("growing", "shrinking") else 1.0)
    jitter = 10.0 if cell.action in ("growing", "shrinking") else 20.0
    centre = []
    for direction, before, after in ((dx, left, right), (dy, up, down)):
        half_travel = abs(direction) * TRAVEL_PX / 2
        drawn = FRAME_PX / 2 + rng.uniform(-1.0, 1.0) * (6.0 if direction != 0 else jitter)
        lowest = before * reach + half_travel + _MARGIN_PX
        highest = FRAME_PX - after * reach - half_travel - _MARGIN_PX
        centre.append(float(np.clip(drawn, lowest, highest)))
    return Clip(cell.colour, cell.shape, cell.action, cell.background, cell.size, radius, (centre[0], centre[1]))


def _extents(shape: str, turning: bool) -> tuple[float, float, float, float]:
    """How far a shape of radius 1 reaches left, up, right and down of its centre."""
    circumradius = {"circle": 1.0, "square": _SQUARE_HALF_SIDE * math.sqrt(2), "triangle": 2 * _TRIANGLE_INRADIUS}
    if turning or shape == "circle":
        return (circumradius[shape],) * 4
    if shape == "square":
        return (_SQUARE_HALF_SIDE,) * 4
    half_base = _TRIANGLE_INRADIUS * math.sqrt(3)
    return (half_base, 2 * _TRIANGLE_INRADIUS, half_base, _TRIANGLE_INRADIUS)


def render(clip: Clip, times_s: NDArray[np.floating] | Sequence[float], size_px: int = 128) -> Tensor:
    """Draw a clip at times `[N]` in seconds: float32 `[N, 3, size_px, size_px]` in -1..1.

    Anti-aliased by exact signed distance: a pixel whose centre lies d px outside the edge is covered by 0.5 - d,
    clamped to 0..1. Each frame depends on its own time only, so frame rates agree where their times do.
    """
    times = np.asarray(times_s, dtype=np.float64)
    frames = torch.empty(len(times), 3, size_px, size_px)
    _draw(clip, times, frames)
    return frames


def render_many(clips: Sequence[Clip], times_s: NDArray[np.floating], size_px: int = 128) -> Tensor:
    """Draw B clips, each at its own times `[B, N]`: float32 `[B, N, 3, size_px, size_px]` in -1..1."""
    times = np.asarray(times_s, dtype=np.float64)
    if times.ndim != 2 or len(times) != len(clips):
        raise SceneError(f"times_s must be [{len(clips)}, N], one row per clip, got shape {times.shape}")
    frames = torch.empty(*times.shape, 3, size_px, size_px)
    for clip, row, out in zip(clips, times, frames, strict=True):
        _draw(clip, row, out)
    return frames


def _draw(clip: Clip, times: NDArray[np.float64], out: Tensor) -> None:
    scale = out.shape[-1] / FRAME_PX
    clock = np.clip(times, 0.0, MOTION_SECONDS)
    dx, dy = DIRECTION.get(clip.action, (0.0, 0.0))
    progress = clock / MOTION_SECONDS
    centre_x = clip.centre_px[0] + dx * TRAVEL_PX * (progress - 0.5)
    centre_y = clip.centre_px[1] + dy * TRAVEL_PX * (progress - 0.5)
    radius = np.full_like(clock, clip.radius_px)
    if clip.action == "growing":
        radius = radius * (SCALE_FROM + (SCALE_TO - SCALE_FROM) * progress)
    elif clip.action == "shrinking":
        radius = radius * (SCALE_TO + (SCALE_FROM - SCALE_TO) * progress)
    angle = np.full_like(clock, clip.angle_degrees)
    if clip.action == "spinning":
        angle = angle + SPIN_DEGREES_PER_SECOND * clock

    background, colour = (
        (torch.tensor(rgb) / 127.5 - 1.0)[:, None, None] for rgb in (BACKGROUNDS[clip.background], COLOURS[clip.colour])
    )
    out.copy_(background.expand_as(out))
    reach = 2 * _TRIANGLE_INRADIUS * radius
    columns, rows = (_window(centre, reach, out.shape[-1]) for centre in (centre_x, centre_y))
    x = torch.arange(columns.start, columns.stop)[None, None, :] + 0.5 - column(centre_x * scale)
    y = torch.arange(rows.start, rows.stop)[None, :, None] + 0.5 - column(centre_y * scale)
    distance = signed_distance(clip.shape, x, y, column(radius * scale), np.radians(angle))
    coverage = distance.neg_().add_(0.5).clamp_(0.0, 1.0)
    out[:, :, rows, columns] = torch.lerp(background, colour, coverage[:, None])


def _window(centre: NDArray[np.float64], reach: NDArray[np.float64], size_px: int) -> slice:
    """The pixels along one axis that a shape can touch in any of the frames; the rest is plain background."""
    scale = size_px / FRAME_PX
    first = math.floor(float(np.min(centre - reach, initial=FRAME_PX)) * scale) - 1
    last = math.ceil(float(np.max(centre + reach, initial=0.0)) * scale) + 1
    return slice(max(first, 0), min(max(last, first, 0), size_px))


def column(values: NDArray[np.float64]) -> Tensor:
    """``[N]`` -> ``[N, 1, 1]``."""
    return torch.from_numpy(values.astype(np.float32))[:, None, None]


def signed_distance(shape: str, x: Tensor, y: Tensor, radius: Tensor, angle: NDArray[np.float64]) -> Tensor:
    """Exact distance `[N, H, W]` from x `[N, 1, W]`, y `[N, H, 1]` to the outline, negative inside.

    A regular polygon splits into equal wedges, one per side. The farthest side line names the wedge of a point; with
    `along` its distance from the middle of that side, the nearest boundary point is on the side or at its end.
    """
    squared = x.square() + y.square()
    if shape == "circle":
        return squared.sqrt_().sub_(radius)
    cos, sin = column(np.cos(angle)), column(np.sin(angle))
    if shape == "square":
        inradius, half_side = _SQUARE_HALF_SIDE * radius, _SQUARE_HALF_SIDE * radius
        height = torch.maximum((x * cos + y * sin).abs_(), (y * cos - x * sin).abs_())
    else:
        inradius, half_side = _TRIANGLE_INRADIUS * radius, _TRIANGLE_INRADIUS * math.sqrt(3) * radius
        down = y * cos - x * sin
        across = (x * cos + y * sin).abs_().mul_(math.sqrt(3) / 2)
        height = torch.maximum(down, across.sub_(down, alpha=0.5))
    along = squared.sub_(height.square()).clamp_(min=0.0).sqrt_()
    beyond = along.sub_(half_side).clamp_(min=0.0)
    above = height.sub_(inradius)
    outside = above.clamp(min=0.0).square_().add_(beyond.square_()).sqrt_()
    return outside.add_(above.clamp_(max=0.0))
