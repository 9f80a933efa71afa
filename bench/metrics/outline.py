"""How far an outline is from the shape it should be: a disc, square or triangle fitted to coverage by least squares.

Lengths are pixels of the frame, x to the right and y down, the middle of the first pixel at 0; angles are degrees
clockwise from upright. As in the demo domain a radius of r means a circle of radius r, a square of half side 0.886 r
(the same area) and an equilateral triangle of inradius 0.675 r. numpy only, and none of the renderer's code.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError
from bench.metrics.detector import Floats, outline, separate

TURN_OF = {"circle": 0.0, "square": 90.0, "triangle": 120.0}
"""After how many degrees a shape looks the same; a circle always does."""
SIDES = {"square": (4, 0.886, 45.0), "triangle": (3, 0.675, -90.0)}
"""Sides, inradius of a shape of radius 1, and where a corner of the upright one lies, degrees from x towards y."""
STEPS = 12  # of Gauss and Newton; rendered shapes are found in four
REACH = 1.6  # radii around the centre that the fit looks at
SHIFT = np.array([0.05, 0.05, 0.005, 0.01])  # steps of the derivatives: px, px, ln radius, radians


@dataclass(frozen=True)
class Fit:
    """The shape that fits a frame best, and `deviation`, how far the outline is from it.

    That is the root mean square difference of both outlines over the mean radius; of a circle, what its radius varies
    by around it. `angle_degrees` is 0 to 90 for a square, 0 to 120 for a triangle, 0 for a circle.
    """

    x_px: float
    y_px: float
    radius_px: float
    angle_degrees: float
    deviation: float


def drawn(shape: str, place: Floats, xs: Floats, ys: Floats) -> Floats:
    """Coverage 0..1 at pixels (xs, ys) of a shape at `place` = (x, y, ln radius, radians clockwise from upright).

    A pixel is covered as its middle's distance from the edge says, from half a pixel outside (0) to half inside (1).
    """
    x, y = xs - place[0], ys - place[1]
    radius = np.exp(place[2])
    if shape == "circle":
        covered: Floats = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)
        return covered
    sides, inradius, corner = SIDES[shape]
    apothem = inradius * radius
    half_side = apothem * np.tan(np.pi / sides)
    normals = place[3] + np.radians(corner) + (np.arange(sides) + 0.5) * (2 * np.pi / sides)
    away = np.stack([x * np.cos(angle) + y * np.sin(angle) for angle in normals])
    height = away.max(axis=0)  # over the line of the nearest side
    beyond = np.maximum(np.sqrt(np.maximum(x * x + y * y - height * height, 0)) - half_side, 0)
    distance = np.where(height > apothem, np.hypot(height - apothem, beyond), height - apothem)
    covered = np.clip(0.5 - distance, 0, 1)
    return covered


def fitted(coverage: Floats, shape: str) -> Fit:
    """Fit one of `TURN_OF` to coverage `[H, W]` in 0..1, by Gauss and Newton from its moments.

    Raises BenchError for another shape, and where nothing is covered.
    """
    if shape not in TURN_OF:
        raise BenchError(f"shape: expected one of {list(TURN_OF)}, got {shape!r}")
    area = float(coverage.sum())
    if not area > 0:
        raise BenchError("coverage: expected something, got zeros only")
    rows, columns = np.mgrid[: coverage.shape[0], : coverage.shape[1]].astype(np.float64)
    x, y = float((coverage * columns).sum() / area), float((coverage * rows).sum() / area)
    place = np.array([x, y, np.log(np.sqrt(area / area_of(shape))), angle_of(coverage, shape, x, y)])
    near = np.hypot(columns - x, rows - y) < REACH * np.exp(place[2]) + 4
    xs, ys, wanted = columns[near], rows[near], coverage[near]
    free = 3 if shape == "circle" else 4
    error, damping = float(np.sum((drawn(shape, place, xs, ys) - wanted) ** 2)), 1e-3
    for _ in range(STEPS):
        here = drawn(shape, place, xs, ys)
        slopes = np.stack(
            [
                (drawn(shape, place + step, xs, ys) - drawn(shape, place - step, xs, ys)) / (2 * step[axis])
                for axis, step in enumerate(np.diag(SHIFT)[:free])
            ]
        )
        square = slopes @ slopes.T
        move = np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-9), slopes @ (wanted - here))
        ahead = place + np.pad(move, (0, 4 - free))
        new = float(np.sum((drawn(shape, ahead, xs, ys) - wanted) ** 2))
        if new < error:
            small = error - new < 1e-6 * error
            place, error, damping = ahead, new, damping / 10
            if small:
                break
        else:
            damping *= 10
    turn = np.radians(TURN_OF[shape])
    angle = np.degrees(place[3] % turn) if turn else 0.0
    return Fit(
        float(place[0]), float(place[1]), float(np.exp(place[2])), float(angle), deviation(coverage, shape, place)
    )


def deviation(coverage: Floats, shape: str, place: Floats) -> float:
    """Root mean square difference between the outlines of coverage `[H, W]` and of the shape, over the mean radius."""
    reach = REACH * float(np.exp(place[2])) + 4
    radii = outline(coverage, float(place[0]), float(place[1]), reach)
    rows, columns = np.mgrid[: coverage.shape[0], : coverage.shape[1]].astype(np.float64)
    exact = outline(drawn(shape, place, columns, rows), float(place[0]), float(place[1]), reach)
    return float(np.sqrt(np.mean((radii - exact) ** 2)) / exact.mean())


def area_of(shape: str) -> float:
    """Area of a shape of radius 1, in px^2."""
    if shape == "circle":
        return float(np.pi)
    sides, inradius, _ = SIDES[shape]
    return float(sides * inradius**2 * np.tan(np.pi / sides))


def angle_of(coverage: Floats, shape: str, x_px: float, y_px: float) -> float:
    """A first guess of the angle, radians: where the outline's harmonic of as many corners has its maxima."""
    if shape == "circle":
        return 0.0
    sides, _, corner = SIDES[shape]
    radius = np.sqrt(coverage.sum() / area_of(shape))
    spectrum = np.fft.rfft(outline(coverage, x_px, y_px, REACH * float(radius) + 4))
    return float(-np.angle(spectrum[sides]) / sides - np.radians(corner))


def fit_frame(frame: NDArray[np.uint8], shape: str, background: Floats) -> Fit | None:
    """The fit of a frame `[H, W, 3]` before a background's colour `[3]`; None where it shows no object."""
    seen = separate(frame, background)
    return None if seen is None else fitted(np.minimum(seen.coverage, 1.0), shape)
