"""A plain image detector for the "shapes" demo domain: what is in a clip, measured from its pixels alone.

It shares no code and no table with the renderer that made the training data: colours are the published RGB values of
the domain, shapes are told apart by the Fourier harmonics of their outline, actions by the tracks of centre, radius and
orientation. numpy only. The detector may fail: `faults` says when a clip shows no object, several, or a changing one.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

OBJECT_RGB = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 210, 50),
    "white": (240, 240, 240),
    "purple": (170, 60, 200),
}
BACKGROUND_RGB = {"black": (15, 15, 20), "grey": (95, 100, 110), "brown": (110, 80, 50), "teal": (20, 90, 95)}

MIN_CONTRAST = 50.0  # RGB distance; the closest object and background of the domain are 107 apart
MIN_AREA_PX = 25.0  # at 128 px; scaled with the image
SECOND_OBJECT_SHARE = 0.2  # of the largest component's area
FAULT_SHARE = 0.25  # of the frames, before a fault is reported
RAYS = 72


@dataclass(frozen=True)
class Look:
    """One frame: the object's measured properties. Lengths are fractions of the image width."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float  # of the circle with the object's area
    phase: float  # orientation times its symmetry, radians; 0 for a circle
    objects: int
    touches_border: bool


@dataclass(frozen=True)
class Detection:
    """What a clip shows. A property that cannot be told is None; an action that is not clear is "none"."""

    background: str
    colour: str | None
    shape: str | None
    size: str | None
    action: str
    faults: tuple[str, ...]


def nearest(rgb: Floats, table: dict[str, tuple[int, int, int]]) -> str:
    """The name in `table` whose colour is closest to rgb `[3]`."""
    return min(table, key=lambda name: float(np.linalg.norm(rgb - np.asarray(table[name], np.float64))))


def border_rgb(frame: NDArray[np.uint8]) -> Floats:
    """Median colour `[3]` of the border pixels of a frame `[H, W, 3]`."""
    border = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
    middle: Floats = np.median(border, axis=0).astype(np.float64)
    return middle


def components(mask: Mask) -> list[Mask]:
    """4-connected components of a mask `[H, W]`, largest first, found by joining runs of neighbouring rows."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    rows, starts = np.nonzero(np.diff(padded, axis=1) == 1)
    _, ends = np.nonzero(np.diff(padded, axis=1) == -1)
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for row in range(1, mask.shape[0]):
        for i in range(first[row], first[row + 1]):
            for j in range(first[row - 1], first[row]):
                if starts[i] < ends[j] and starts[j] < ends[i]:
                    parent[root(i)] = root(j)
    parts: dict[int, Mask] = {}
    for i in range(len(rows)):
        part = parts.setdefault(root(i), np.zeros_like(mask))
        part[rows[i], starts[i] : ends[i]] = True
    return sorted(parts.values(), key=lambda part: -int(part.sum()))


def grown(mask: Mask, pixels: int) -> Mask:
    """The mask `[H, W]` and all within `pixels` steps of it."""
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask | padded[2:, 1:-1] | padded[:-2, 1:-1] | padded[1:-1, 2:] | padded[1:-1, :-2]
    return mask


def outline(coverage: Floats, x_px: float, y_px: float, reach_px: float) -> Floats:
    """Radius `[RAYS]` in px seen from (x, y): the integral of coverage `[H, W]` along each ray up to `reach_px`.

    An integral, not a crossing: blur moves coverage across the edge but hardly changes the sum.
    """
    angles = np.arange(RAYS) * (2 * np.pi / RAYS)
    radii = np.arange(0.25, reach_px, 0.5)
    xs = np.clip(x_px + np.outer(np.cos(angles), radii), 0, coverage.shape[1] - 1.001)
    ys = np.clip(y_px + np.outer(np.sin(angles), radii), 0, coverage.shape[0] - 1.001)
    col, row = xs.astype(int), ys.astype(int)
    fx, fy = xs - col, ys - row
    top = coverage[row, col] * (1 - fx) + coverage[row, col + 1] * fx
    bottom = coverage[row + 1, col] * (1 - fx) + coverage[row + 1, col + 1] * fx
    radius: Floats = np.sum(top * (1 - fy) + bottom * fy, axis=1) * 0.5
    return radius


def shape_of(radius: Floats) -> tuple[str, float]:
    """(name, phase) of an outline `[RAYS]`: a triangle has a third harmonic, a square a fourth, a circle neither."""
    spectrum = np.fft.rfft(radius)
    third, fourth = 2 * np.abs(spectrum[3:5]) / max(np.abs(spectrum[0]), 1e-9)
    if third > 0.12:
        return "triangle", float(np.angle(spectrum[3]))
    if fourth > 0.05:
        return "square", float(np.angle(spectrum[4]))
    return "circle", 0.0


@dataclass(frozen=True)
class Separated:
    """The largest object of a frame apart from what is behind it.

    `coverage` `[H, W]` is the share of each pixel that it covers, 0..1.1 with its soft edge and 0 elsewhere; `body` is
    its mask, `direction` `[3]` its colour less the background's; `parts` are masks of all that stands out, largest
    first.
    """

    coverage: Floats
    body: Mask
    direction: Floats
    parts: list[Mask]


def separate(frame: NDArray[np.uint8], background: Floats) -> Separated | None:
    """Part the object of a frame `[H, W, 3]` from the background's colour `[3]`; None when there is no object."""
    pixels = frame.astype(np.float64) - background
    distance = np.linalg.norm(pixels, axis=2)
    parts = components(distance > MIN_CONTRAST)
    if not parts or parts[0].sum() < min_area_px(frame.shape[1]):
        return None
    contrast = np.quantile(distance[parts[0]], 0.9)
    body = parts[0] & (distance > contrast / 2)
    direction = np.median(pixels[parts[0] & (distance >= 0.8 * contrast)], axis=0)  # without the soft edge
    coverage = np.clip(pixels @ direction / (direction @ direction), 0.0, 1.1)
    coverage = np.where(grown(body, 3), coverage, 0.0)  # the soft edge belongs to the object
    return Separated(coverage, body, direction, parts)


def min_area_px(width: int) -> float:
    """What an object must cover of a frame of this width, in pixels."""
    return MIN_AREA_PX * (width / 128) ** 2


def look(frame: NDArray[np.uint8], background: Floats) -> Look | None:
    """Measure one frame `[H, W, 3]` against the background's colour `[3]`; None when there is no object."""
    found = separate(frame, background)
    if found is None:
        return None
    height, width = frame.shape[:2]
    coverage, body, parts = found.coverage, found.body, found.parts
    area = coverage.sum()
    ys, xs = np.mgrid[:height, :width]
    x_px, y_px = (coverage * xs).sum() / area, (coverage * ys).sum() / area
    reach = np.hypot(xs[body] - x_px, ys[body] - y_px).max() + 4
    shape, phase = shape_of(outline(coverage, x_px, y_px, reach))
    smallest = max(min_area_px(width), SECOND_OBJECT_SHARE * parts[0].sum())
    return Look(
        colour=nearest(found.direction + background, OBJECT_RGB),
        shape=shape,
        x=float(x_px / width),
        y=float(y_px / height),
        radius=float(np.sqrt(area / np.pi) / width),
        phase=phase,
        objects=1 + sum(bool(part.sum() >= smallest) for part in parts[1:]),
        touches_border=bool(body[0].any() or body[-1].any() or body[:, 0].any() or body[:, -1].any()),
    )


def trend(values: Floats, times: Floats) -> float:
    """Change of values `[N]` over the whole clip by the median of all pairwise slopes; `times` run from 0 to 1."""
    i, j = np.triu_indices(len(values), k=1)
    return float(np.median((values[j] - values[i]) / (times[j] - times[i])))


def action_of(looks: list[Look], times: Floats, shape: str) -> str:
    """The action of the tracks, or "none" when none of them, or more than one, is clear.

    Each track is divided by the change that makes it clear: a fifth of the width for a path, a factor of 1.4 in radius,
    0.4 rad of phase per frame (6 degrees of a square). A clip stands still when all stay under half of that.
    """
    if len(looks) < 4:
        return "none"
    dx, dy = (trend(np.array([getattr(item, axis) for item in looks]), times) for axis in "xy")
    growth = trend(np.log([item.radius for item in looks]), times)
    turning = 0.0
    if shape != "circle":
        turns = np.diff([item.phase for item in looks if item.shape == shape])
        turning = float(np.median(np.abs((turns + np.pi) % (2 * np.pi) - np.pi))) if len(turns) > 2 else 0.0
    strength = {"path": np.hypot(dx, dy) / 0.2, "growth": abs(growth) / np.log(1.4), "turning": turning / 0.4}
    ranked = sorted(strength, key=lambda name: -strength[name])
    if strength[ranked[0]] < 0.5:
        return "standing still"
    if strength[ranked[0]] < 1.0 or strength[ranked[1]] > 0.5 * strength[ranked[0]]:
        return "none"
    if ranked[0] == "growth":
        return "growing" if growth > 0 else "shrinking"
    if ranked[0] == "turning":
        return "spinning"
    if min(abs(dx), abs(dy)) > 0.5 * max(abs(dx), abs(dy)):
        return "none"
    if abs(dx) > abs(dy):
        return "moving right" if dx > 0 else "moving left"
    return "moving down" if dy > 0 else "moving up"


def size_of(radius: float, shape: str) -> str:
    """Small or large, from the typical radius of the circle with the shape's area, as a fraction of the width."""
    boundary_px = 16.5 if shape == "triangle" else 19.0
    return "small" if radius < boundary_px / 128 else "large"


def majority(words: list[str]) -> tuple[str, float]:
    """(most frequent word, share of the others)."""
    word, count = Counter(words).most_common(1)[0]
    return word, 1 - count / len(words)


def detect(frames: NDArray[np.uint8]) -> Detection:
    """What the clip of frames uint8 `[N, H, W, 3]`, equally spaced in time, shows.

    Raises `BenchError` for an array that is not a clip.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0:
        raise BenchError(f"frames must be uint8 [N, H, W, 3] with N >= 1, got {frames.dtype} {list(frames.shape)}")
    borders = [border_rgb(frame) for frame in frames]
    background, other_backgrounds = majority([nearest(rgb, BACKGROUND_RGB) for rgb in borders])
    measured = [look(frame, rgb) for frame, rgb in zip(frames, borders, strict=True)]
    seen = [(index, item) for index, item in enumerate(measured) if item is not None]
    faults = ["no object"] if len(seen) < (1 - FAULT_SHARE) * len(frames) else []
    if not seen:
        return Detection(background, None, None, None, "none", tuple(faults))
    looks = [item for _, item in seen]
    if sum(item.objects > 1 for item in looks) > FAULT_SHARE * len(looks):
        faults.append("two objects")
    colour, other_colours = majority([item.colour for item in looks])
    whole = [item for item in looks if item.radius > 0.055 and not item.touches_border] or looks
    shape, other_shapes = majority([item.shape for item in whole])
    if max(other_colours, other_shapes, other_backgrounds) > FAULT_SHARE:
        faults.append("flicker")
    times = np.array([index for index, _ in seen]) / max(len(frames) - 1, 1)
    action = action_of(looks, times, shape)
    size = size_of(float(np.median([item.radius for item in looks])), shape)
    return Detection(background, colour, shape, size, action, tuple(faults))
