"""Figures of outlines are nothing on rendered truth, grow with what is done to it, and the strict judge says what."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.datasets.prompts import KINDS, cases, outline_cases
from bench.datasets.shapes import clip_of, truth
from bench.demo_quality import outlines
from bench.demo_quality.outline_table import one_step_table, outline_table
from bench.demo_quality.prompts import Sampling
from bench.metrics import figures as measures
from bench.metrics import outline as fits
from bench.metrics.base import Frames
from bench.metrics.figures import figures, from_path, summary, turns
from bench.metrics.intervals import mean_interval
from bench.metrics.outline import Fit, drawn, fitted
from bench.metrics.strict import strict_faults

GRID = np.mgrid[:64, :64].astype(np.float64)


def picture(shape: str, x: float, y: float, radius: float, degrees: float = 0.0) -> NDArray[np.float64]:
    return drawn(shape, np.array([x, y, np.log(radius), np.radians(degrees)]), GRID[1], GRID[0])


@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
@pytest.mark.parametrize(
    ("x", "y", "radius", "degrees"), [(31.2, 30.7, 12.3, 0.0), (28.0, 33.4, 6.1, 17.0), (30.0, 30.0, 16.0, 71.0)]
)
def test_what_was_drawn_is_found_again(shape: str, x: float, y: float, radius: float, degrees: float) -> None:
    found = fitted(picture(shape, x, y, radius, degrees), shape)
    assert (found.x_px, found.y_px, found.radius_px) == pytest.approx((x, y, radius), abs=0.01)
    same = fits.TURN_OF[shape]
    if same:
        assert (found.angle_degrees - degrees + same / 2) % same - same / 2 == pytest.approx(0, abs=0.1)
    assert found.deviation < 0.001


@pytest.mark.parametrize("shape", ["circle", "square", "triangle"])
def test_areas_are_those_of_the_domain(shape: str) -> None:
    assert picture(shape, 32, 32, 15).sum() == pytest.approx(fits.area_of(shape) * 225, rel=0.003)


def test_a_lumpy_circle_deviates_by_its_lumps() -> None:
    angle = np.arctan2(GRID[0] - 32, GRID[1] - 32)
    lumpy = np.clip(15 * (1 + 0.05 * np.cos(5 * angle)) - np.hypot(GRID[1] - 32, GRID[0] - 32) + 0.5, 0, 1)
    assert fitted(lumpy, "circle").deviation == pytest.approx(0.05 / 2**0.5, rel=0.03)


def test_another_shape_deviates_by_its_corners() -> None:
    assert fitted(picture("square", 32, 32, 15), "circle").deviation > 0.08
    assert fitted(picture("circle", 32, 32, 15), "triangle").deviation > 0.1


@pytest.mark.parametrize(
    ("coverage", "shape", "words"),
    [(np.zeros((9, 9)), "circle", "zeros only"), (np.ones((9, 9)), "star", "got 'star'")],
)
def test_what_cannot_be_fitted_is_refused(coverage: NDArray[np.float64], shape: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fitted(coverage, shape)


@pytest.mark.parametrize("case", outline_cases(9), ids=lambda case: case.prompt)
def test_rendered_clips_have_no_figures_to_speak_of(case) -> None:  # type: ignore[no-untyped-def]
    found = figures(truth(clip_of(case), 2), case.shape, case.action)
    assert found.deviation is not None and found.deviation < 0.001
    assert found.path_px is not None and found.path_px < 0.02 and found.missing == 0
    assert (found.size_range is None) == (case.action in ("growing", "shrinking"))
    assert found.size_range is None or found.size_range < 0.001
    if case.action == "spinning":
        assert found.turn_degrees == pytest.approx(24, abs=0.01) and found.turn_sd is not None and found.turn_sd < 0.05
    else:
        assert found.turn_degrees is None and found.turn_sd is None


def clip(kind: str, number: int = 0) -> tuple[Frames, str, str]:
    case = [case for case in outline_cases(24) if (case.shape, case.action) in KINDS[kind]][number]
    return truth(clip_of(case), 2), case.shape, case.action


def wide(frames: Frames, share: float) -> Frames:
    """Stretched sideways by this share, about the middle."""
    columns = np.clip(np.rint((np.arange(128) - 64) / (1 + share) + 64).astype(int), 0, 127)
    return frames[:, :, columns]


def bitten(frames: Frames) -> Frames:
    """A notch into the object from the left of its middle row in every frame."""
    changed = frames.copy()
    for frame in changed:
        away = np.abs(frame.astype(int) - frame[0, 0]).sum(axis=2) > 60
        rows, columns = np.nonzero(away)
        middle, width = int(rows.mean()), int(np.ptp(columns)) + 1
        frame[middle - width // 8 : middle + width // 8 + 1, columns.min() : columns.min() + width // 3] = frame[0, 0]
    return changed


def shuffled(frames: Frames) -> Frames:
    """The frames in another order: every picture is right, no turn is."""
    return frames[np.random.default_rng(0).permutation(len(frames))]


def reversed_(frames: Frames) -> Frames:
    return frames[::-1]


def melted(frames: Frames) -> Frames:
    """Each frame the mean of five, as a network draws that does not know the angle."""
    values = frames.astype(np.float64)
    return np.rint(sum(np.roll(values, step, 0) for step in range(-2, 3)) / 5).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(3))
def test_the_strict_judge_passes_rendered_clips(kind: str, number: int) -> None:
    assert strict_faults(*clip(kind, number)) == ()


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (bitten, "circle", "outline"),
        (bitten, "polygon", "outline"),
        (bitten, "spinning", "outline"),
        (lambda frames: wide(frames, 0.15), "circle", "outline"),
        (melted, "spinning", "outline"),
        (shuffled, "spinning", "turn varies"),
        (reversed_, "spinning", "turns -24 degrees"),
        (lambda frames: np.repeat(frames[:1], 16, axis=0), "spinning", "turns 0 degrees"),
        (
            lambda frames: np.concatenate([frames[:15], np.full_like(frames[:1], frames[0, 0, 0])]),
            "circle",
            "no object",
        ),
    ],
    ids=["bite", "bite", "bite", "stretch", "melt", "shuffle", "backwards", "stuck", "gone"],
)
def test_the_strict_judge_names_what_was_damaged(damage: Callable[[Frames], Frames], kind: str, words: str) -> None:
    frames, shape, action = clip(kind)
    assert any(words in fault for fault in strict_faults(damage(frames), shape, action))


def test_a_size_that_breathes_is_a_fault() -> None:
    """Frames of a smaller clip of the same words in between: every outline is right."""
    from export.datasets.shapes import Clip, render

    def drawn_at(radius: float) -> Frames:
        shape = Clip("red", "circle", "moving right", "black", None, radius, (64.0, 64.0))
        image = render(shape, np.arange(16) / 2).numpy().transpose(0, 2, 3, 1)
        return np.rint((image + 1) * 127.5).astype(np.uint8)

    frames = drawn_at(20.0)
    frames[4:8] = drawn_at(18.0)[4:8]
    assert strict_faults(frames, "circle", "moving right") == ("size ranges over 10.3%, limit 8%",)


def test_turns_are_taken_the_short_way_and_over_neighbours_only() -> None:
    def at(degrees: float) -> Fit:
        return Fit(0, 0, 1, degrees, 0)

    found = turns([at(80), at(14), at(38), at(86)], np.array([0.0, 1, 2, 4]), 90.0)
    assert found.tolist() == pytest.approx([24, 24])


def test_a_path_is_off_by_its_scatter_alone() -> None:
    times = np.arange(16.0)
    straight = np.stack([3 + 4.8 * times, 60 - 0 * times], axis=1)
    assert from_path(straight, times) == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(0).normal(0, 1, straight.shape)
    assert 1.0 < from_path(straight + noise, times) < 1.6


def test_intervals_hold_the_mean_and_narrow() -> None:
    values = np.random.default_rng(0).normal(3, 1, 100)
    few, many = mean_interval(list(values[:8])), mean_interval(list(values))
    assert few["low"] < few["mean"] < few["high"] and few["clips"] == 8
    assert many["high"] - many["low"] < few["high"] - few["low"]
    assert mean_interval([]) == {"mean": None, "low": None, "high": None, "clips": 0}


def test_a_summary_parts_the_kinds() -> None:
    good = measures.Figures(0.01, 0.02, 0.03, 0.1, 24.0, 1.0, 0.0)
    still = measures.Figures(0.03, 0.5, 0.5, 0.1, None, None, 0.0)
    found = summary([("circle", "moving up", good), ("circle", "standing still", still), ("square", "spinning", good)])
    assert found["deviation_circle"]["mean"] == pytest.approx(0.02) and found["deviation_polygon"]["clips"] == 0
    assert found["size_range_moving"] == {"mean": 0.03, "low": 0.03, "high": 0.03, "clips": 1}
    assert found["turn_sd"]["clips"] == 1


class Shown:
    def __init__(self, frames: Frames) -> None:
        self.frames = frames


class Rendered:
    """Stands where a pipeline does: draws what it is asked for; its latents are the pictures."""

    def __call__(self, prompt: str, **_: object) -> Shown:
        return Shown(truth(clip_of(next(case for case in outline_cases(6) if case.prompt == prompt)), 2))

    def encode_frames(self, frames: Frames) -> Frames:
        return frames

    def decode(self, latents: Frames, fps: int) -> Shown:
        return Shown(latents)


def test_samples_and_bound_of_a_perfect_pipeline_are_the_rendered_figures() -> None:
    wanted = outline_cases(6)
    made = outlines.samples(Rendered(), wanted, Sampling())  # type: ignore[arg-type]
    bound = outlines.bound(Rendered(), wanted)  # type: ignore[arg-type]
    for name in ("deviation_circle", "deviation_polygon", "deviation_spinning", "turn_sd"):
        assert made[name] == bound["rendered"][name] == bound["encoded"][name]
    assert [row["prompt"] for row in made["by_prompt"]] == [case.prompt for case in wanted]
    text = "\n".join(outline_table({"outlines": {"samples": made, **bound}}))
    assert text.count("| **made** |") == 1 and "0.0 to 0.0" in text


def test_a_row_a_time_stands_in_the_one_step_table() -> None:
    nothing = summary([])
    error = {"mean": 0.0042, "low": 0.004, "high": 0.005, "clips": 1}
    rows = [{"time": time, "v_mse": error, **nothing} for time in (300, 650)]
    table = one_step_table({"one_step": rows})
    assert len(table) == 4 and table[3].startswith("| 650 | 4.2 |") and one_step_table({}) == []


def test_outline_prompts_come_in_kinds_with_seeds_of_their_own() -> None:
    found = outline_cases(24, seeds=2)
    assert len(found) == 48 and {case.seed for case in found} == set(range(100, 148))
    counts = [sum((case.shape, case.action) in pairs for case in found[:24]) for pairs in KINDS.values()]
    assert counts == [8, 8, 8]
    with pytest.raises(ValueError, match="1 to 144"):
        outline_cases(145)
    assert len({case.prompt for case in outline_cases(144)}) == 144 and cases(1)


@pytest.mark.parametrize("module", [fits, measures])
def test_figures_share_nothing_with_the_renderer(module) -> None:  # type: ignore[no-untyped-def]
    tree = ast.parse(Path(module.__file__).read_text())
    found = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith(("export", "torch")) for name in found)
