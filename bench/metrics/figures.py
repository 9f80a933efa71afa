"""What a clip does to its shape: outline, size, path and turn, from a shape fitted to every frame.

Figures of many clips are means with intervals, by kind: circles, polygons (squares and triangles that do not spin) and
what spins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.metrics.base import Frames
from bench.metrics.detector import Floats, border_rgb
from bench.metrics.intervals import mean_interval
from bench.metrics.outline import TURN_OF, Fit, fit_frame

KINDS = ("circle", "polygon", "spinning")
RIGHT_TURN_DEGREES = 24.0


@dataclass(frozen=True)
class Figures:
    """One clip against the shape it should show.

    `deviation`: mean over frames of the outline's (`bench.metrics.outline.Fit`). `size_std` and `size_range`: of the
    fitted radius over the frames, relative to its mean, None where growing or shrinking changes it. `path_px`: root
    mean square distance of the centre from the straight and steady path that fits it best. `turn_degrees` and
    `turn_sd`: mean and standard deviation of the turn from frame to frame, clockwise, None unless it spins.
    `missing`: share of the frames without an object, which the others leave out; without three frames they are None.
    """

    deviation: float | None
    size_std: float | None
    size_range: float | None
    path_px: float | None
    turn_degrees: float | None
    turn_sd: float | None
    missing: float


NOTHING = Figures(None, None, None, None, None, None, 1.0)


def kind_of(shape: str, action: str) -> str:
    """Which of `KINDS` a clip belongs to."""
    if action == "spinning":
        return "spinning"
    return "circle" if shape == "circle" else "polygon"


def figures(frames: Frames, shape: str, action: str) -> Figures:
    """Measure a clip uint8 `[N, H, W, 3]` that should show a shape and an action of the demo's grammar."""
    found = [(index, fit) for index, frame in enumerate(frames) if (fit := fit_frame(frame, shape, border_rgb(frame)))]
    if len(found) < 3:
        return NOTHING
    times = np.array([index for index, _ in found], np.float64)
    fits = [fit for _, fit in found]
    radii = np.array([fit.radius_px for fit in fits])
    constant = action not in ("growing", "shrinking")
    turned = turns(fits, times, TURN_OF[shape]) if action == "spinning" else np.zeros(0)
    return Figures(
        deviation=float(np.mean([fit.deviation for fit in fits])),
        size_std=float(radii.std() / radii.mean()) if constant else None,
        size_range=float((radii.max() - radii.min()) / radii.mean()) if constant else None,
        path_px=from_path(np.array([[fit.x_px, fit.y_px] for fit in fits]), times),
        turn_degrees=float(turned.mean()) if len(turned) else None,
        turn_sd=float(turned.std()) if len(turned) else None,
        missing=1 - len(found) / len(frames),
    )


def turns(fits: Sequence[Fit], times: Floats, same_after: float) -> Floats:
    """Degrees clockwise from each frame to the next one, `[N-1]`, within half of what the shape looks the same after.

    Frames that do not follow each other are left out.
    """
    angles = np.array([fit.angle_degrees for fit in fits])
    turned: Floats = (np.diff(angles)[np.diff(times) == 1] + same_after / 2) % same_after - same_after / 2
    return turned


def from_path(centres_px: Floats, times: Floats) -> float:
    """Root mean square distance in px of centres `[N, 2]` from the line through space and time that fits them best."""
    basis = np.stack([np.ones_like(times), times], axis=1)
    best, *_ = np.linalg.lstsq(basis, centres_px, rcond=None)
    return float(np.sqrt(np.mean(np.sum((centres_px - basis @ best) ** 2, axis=1))))


def summary(clips: Sequence[tuple[str, str, Figures]]) -> dict[str, Any]:
    """Figures of many clips, each with its shape and action: deviation by kind, size and path of what moves, turns."""
    by_kind: dict[str, list[Figures]] = {kind: [] for kind in KINDS}
    for shape, action, found in clips:
        by_kind[kind_of(shape, action)].append(found)
    moving = [found for _, action, found in clips if action.startswith("moving")]
    return {
        **{f"deviation_{kind}": mean_interval(given(found, "deviation")) for kind, found in by_kind.items()},
        "size_std_moving": mean_interval(given(moving, "size_std")),
        "size_range_moving": mean_interval(given(moving, "size_range")),
        "path_px": mean_interval(given([found for _, _, found in clips], "path_px")),
        "turn_degrees": mean_interval(given(by_kind["spinning"], "turn_degrees")),
        "turn_sd": mean_interval(given(by_kind["spinning"], "turn_sd")),
        "missing": mean_interval([found.missing for _, _, found in clips]),
    }


def given(clips: Sequence[Figures], name: str) -> list[float]:
    """One figure of the clips that have it."""
    return [value for found in clips if (value := getattr(found, name)) is not None]


def as_record(found: Figures) -> Mapping[str, float | None]:
    """For JSON, five digits."""
    return {name: None if value is None else round(value, 5) for name, value in asdict(found).items()}
