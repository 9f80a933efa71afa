"""`bench.demo_quality` gives rendered truth full marks and counts what is wrong; its prompts are evenly spread."""

from __future__ import annotations

import itertools
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.contenders import baselines
from bench.datasets.prompts import SHAPE_ACTIONS, Case, cases
from bench.datasets.shapes import held_out, truth
from bench.demo_quality import __main__ as demo_quality
from bench.demo_quality.latents import PASSES, interpolation, reconstruction
from bench.demo_quality.prompts import Sampling, score_prompts
from bench.demo_quality.table import METHODS
from bench.demo_quality.targets import targets
from bench.harness.record import BenchError
from bench.metrics.base import Frames
from bench.metrics.pixels import PEAK_DB
from export.datasets import captions, shapes
from ffrt import Bundle

SAMPLING = Sampling()
MEASURED = ("2 to 8 fps", "2 to 30 fps")


class Shown:
    """Frames, as a pipeline returns them."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames


class Renderer:
    """Stands where a pipeline does: draws the prompt's words; latents are pictures, interpolation is linear."""

    def __init__(
        self, known: list[Case], painted: dict[int, dict[str, str]], fast: dict[int, dict[str, str]] | None = None
    ) -> None:
        self.known = {case.prompt: case for case in known}
        # preset -> seed -> words drawn in place of the prompt's
        self.painted = {None: painted, "fast": painted if fast is None else fast}

    def __call__(self, prompt: str, *, fps: int, seed: int, **sampling: object) -> Shown:
        assert fps == 2 and set(sampling) == {field.name for field in fields(Sampling)}
        painted = self.painted[sampling["preset"]]  # type: ignore[index]
        case = replace(self.known[prompt], **painted.get(seed, {}))
        cell = shapes.Combination(case.colour, case.shape, case.action, case.background, case.size)
        return Shown(truth(shapes.sample_parameters(cell, np.random.default_rng(seed)), 2))

    def encode_frames(self, frames: Frames) -> NDArray[np.float32]:
        return frames.transpose(0, 3, 1, 2).astype(np.float32)

    def interpolate(
        self, latents: NDArray[np.float32], *, fps: int, seed: int, **sampling: object
    ) -> NDArray[np.float64]:
        return baselines.blend(latents, 4)

    def decode(self, latents: NDArray[np.generic], fps: int) -> Shown:
        return Shown(np.rint(latents).astype(np.uint8).transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    drawn, clips = cases(8), held_out(1)
    pipe = Renderer(drawn, {})
    prompts, rows = score_prompts(pipe, drawn, SAMPLING)
    assert len(rows) == len(drawn)
    found: dict[str, Any] = {
        "prompts": prompts,
        "movq": reconstruction(pipe, clips),
        "interpolation": {passes: interpolation(pipe, clips, passes, SAMPLING) for passes in MEASURED},
    }
    return {**found, "targets": targets(found)}


def test_truth_scores_full_and_its_linear_interpolation_gains_nothing(record: dict[str, Any]) -> None:
    scores = record["prompts"]["scores"]
    assert {name: score["share"] for name, score in scores.items()} == dict.fromkeys(scores, 1.0)
    assert scores["size"]["of"] == sum(case.size is not None for case in cases(8)) < 8
    assert record["prompts"]["failures"] == []
    assert record["movq"]["mean_db"] == PEAK_DB
    assert set(MEASURED) == set(record["interpolation"]) < set(PASSES)
    for passes in record["interpolation"].values():
        found = passes["moving"]
        assert found["ffrt"] == pytest.approx(found["linear"], abs=0.01)
        assert found["hold"] < found["linear"]
    first = record["interpolation"]["2 to 8 fps"]["moving"]
    assert first["true minterpolate"] > first["true linear"]
    met = {item["name"]: item["met"] for item in record["targets"]}
    assert met["colour right"] and met["MoVQ reconstruction"] and not met["interpolation 2 to 8 fps, over linear"]


def test_keyframes_do_not_count_as_frames_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are right by themselves, so a mean with them would flatter every method."""

    class Off(Renderer):
        def decode(self, latents: NDArray[np.generic], fps: int) -> Shown:
            frames = super().decode(latents, fps).frames
            frames[np.arange(len(frames)) % 4 != 0] ^= 16  # what lies between is 16 levels off, everywhere
            return Shown(frames)

    found = interpolation(Off([], {}), held_out(1), "2 to 8 fps", SAMPLING)
    assert found["all"]["autoencoder"] == pytest.approx(20 * np.log10(255 / 16), abs=0.01)


def test_a_wrong_clip_is_counted_and_listed() -> None:
    drawn = cases(4)
    other = {"red": "blue"}.get(drawn[1].colour, "red")
    found, rows = score_prompts(Renderer(drawn, {drawn[1].seed: {"colour": other}}), drawn, SAMPLING)
    assert (found["scores"]["colour"]["right"], found["scores"]["all"]["right"]) == (3, 3)
    assert found["scores"]["background"]["right"] == 4
    assert [item["case"]["prompt"] for item in found["failures"]] == [drawn[1].prompt]
    assert [row.right for row in rows] == [True, False, True, True]
    assert f"colour: {other}" in rows[1].label


def test_what_the_fast_preset_loses_is_shown_in_points() -> None:
    drawn = cases(4)
    other = {"red": "blue"}.get(drawn[2].colour, "red")
    pipe = Renderer(drawn, {}, {drawn[2].seed: {"colour": other}})
    scores = [score_prompts(pipe, drawn, Sampling(preset=preset))[0] for preset in (None, "fast")]
    lines = {item["name"]: item for item in targets({"prompts": scores[0], "fast": scores[1]})}
    lost = lines['colour, `preset="fast"` against the default']
    assert (lost["measured"], lost["target"], lost["met"]) == (-25.0, -2.0, False)
    assert lines['shape, `preset="fast"` against the default']["met"]


def test_all_clips_are_interpolated_at_every_rate(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, int] = {}

    def interpolation(pipe: object, clips: list[object], passes: str, sampling: Sampling) -> dict[str, Any]:
        asked[passes] = len(clips)
        return {kind: dict.fromkeys(METHODS, 1.0) for kind in ("all", "moving")}

    monkeypatch.setattr(demo_quality, "interpolation", interpolation)
    arguments = ["--bundle", str(tiny.folder), "--parts", "interpolation", "--json", str(tmp_path / "record.json")]
    assert demo_quality.main(arguments) == 0
    assert asked == dict.fromkeys(PASSES, 8)


def test_unknown_passes_are_refused() -> None:
    with pytest.raises(BenchError, match="passes: expected one of"):
        interpolation(Renderer([], {}), [], "2 to 60 fps", SAMPLING)


def test_the_whole_bench_runs_on_a_bundle(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, picture = tmp_path / "demo_quality.json", tmp_path / "sheet.png"
    paths = ["--bundle", str(tiny.folder), "--threads", "1", "--json", str(place), "--sheet", str(picture)]
    assert demo_quality.main(["--quick", *paths]) == 0
    found = json.loads(place.read_text())
    assert picture.stat().st_size > 0 and str(tiny.folder) not in place.read_text()
    assert (found["prompts"]["scores"]["all"]["right"], found["prompts"]["scores"]["all"]["of"]) == (0, 4)
    assert len(found["prompts"]["failures"]) == 4 and capsys.readouterr().err.count("missed: ") == 4
    assert found["environment"]["bundle"] == tiny.folder.name and found["environment"]["threads"] == 1
    assert {"colour right", "MoVQ reconstruction"} <= {item["name"] for item in found["targets"]}
    assert not found["targets"][0]["met"]
    assert demo_quality.main(["--quick", "--strict", "--parts", "movq", *paths]) == 1
    assert "prompts" not in json.loads(place.read_text())


def test_prompts_are_the_grammars_and_spread_evenly() -> None:
    drawn = cases(60)
    for case in drawn:
        cell = shapes.Combination(case.colour, case.shape, case.action, case.background, case.size)
        assert case.prompt == captions.canonical(shapes.sample_parameters(cell, np.random.default_rng(0)))
    for name, kinds in (("colour", 6), ("background", 4), ("size", 3)):
        counts = [
            len(list(group)) for _, group in itertools.groupby(sorted(str(getattr(case, name)) for case in drawn))
        ]
        assert len(counts) == kinds and max(counts) - min(counts) <= 2
    assert {(case.shape, case.action) for case in drawn} == set(SHAPE_ACTIONS)


def test_tuning_never_sees_the_reported_prompts_or_seeds() -> None:
    test, tune = cases(250), cases(250, "tune")
    for name in ("prompt", "seed"):
        values = [{getattr(case, name) for case in found} for found in (test, tune)]
        assert [len(found) for found in values] == [250, 250] and not values[0] & values[1]
    assert cases(7) == test[:7]


@pytest.mark.parametrize(
    ("count", "split", "words"),
    [(0, "test", "1 to 250"), (251, "tune", "1 to 250"), (3, "x", "split: expected one of")],
)
def test_prompts_out_of_range_are_refused(count: int, split: str, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        cases(count, split)


def test_truth_agrees_across_rates() -> None:
    clip = held_out(1)[0]
    frames = {rate: truth(clip, rate) for rate in (2, 8, 32)}
    assert [len(found) for found in frames.values()] == [16, 61, 241]
    assert np.array_equal(frames[2], frames[8][::4]) and np.array_equal(frames[8], frames[32][::4])
