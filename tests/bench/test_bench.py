"""The benches run, count right and can say no: on rendered truth through a stand-in, and on a tiny bundle."""

import io
import itertools
import json
import math
import platform
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench import report
from bench.contenders import baselines
from bench.datasets import shapes as fidelity
from bench.datasets.prompts import SHAPE_ACTIONS, Case, cases
from bench.demo_quality import __main__ as demo_quality
from bench.harness import pictures as sheet
from bench.harness import run as harness
from export.datasets import captions, shapes
from ffrt import Bundle

Frames = NDArray[np.uint8]
SAMPLING = fidelity.Sampling()
BEGIN, END = "<!-- bench:demo_quality -->", "<!-- /bench -->"


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
        assert fps == 2 and set(sampling) == {field.name for field in fields(fidelity.Sampling)}
        painted = self.painted[sampling["preset"]]  # type: ignore[index]
        case = replace(self.known[prompt], **painted.get(seed, {}))
        cell = shapes.Combination(case.colour, case.shape, case.action, case.background, case.size)
        return Shown(fidelity.truth(shapes.sample_parameters(cell, np.random.default_rng(seed)), 2))

    def encode_frames(self, frames: Frames) -> NDArray[np.float32]:
        return frames.transpose(0, 3, 1, 2).astype(np.float32)

    def interpolate(
        self, latents: NDArray[np.float32], *, fps: int, seed: int, **sampling: object
    ) -> NDArray[np.float64]:
        return baselines.blend(latents, 4)

    def decode(self, latents: NDArray[np.generic], fps: int) -> Shown:
        return Shown(np.rint(latents).astype(np.uint8).transpose(0, 2, 3, 1))


def measured(wanted: list[Case], painted: dict[int, dict[str, str]], clips: int = 3) -> dict[str, Any]:
    found, rows = demo_quality.measure(Renderer(wanted, painted), wanted, SAMPLING, fidelity.held_out(clips))
    assert len(rows) == len(wanted)
    around = harness.environment(None, "cpu", None)
    record = {
        "bench": "demo_quality",
        "whole": True,
        "split": "test",
        "environment": around,
        "sampling": asdict(SAMPLING),
        **found,
    }
    return {**record, "targets": demo_quality.targets(record)}


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return measured(cases(8), {})


def test_truth_scores_full_and_its_linear_interpolation_gains_nothing(record: dict[str, Any]) -> None:
    scores = record["prompts"]["scores"]
    assert {name: score["share"] for name, score in scores.items()} == dict.fromkeys(scores, 1.0)
    assert scores["size"]["of"] == sum(case.size is not None for case in cases(8)) < 8
    assert record["prompts"]["failures"] == []
    assert record["movq"]["mean_db"] == baselines.PEAK_DB
    assert list(record["interpolation"]) == ["2 to 8 fps", "8 to 30 fps", "2 to 30 fps"]
    for passes in record["interpolation"].values():
        found = passes["moving"]
        assert found["ffrt"] == pytest.approx(found["linear"], abs=0.01)
        assert found["hold"] < found["linear"]
    first = record["interpolation"]["2 to 8 fps"]["moving"]
    assert first["true minterpolate"] > first["true linear"]
    met = {item["name"]: item["met"] for item in record["targets"]}
    assert met["colour right"] and met["MoVQ reconstruction"] and not met["interpolation 2 to 8 fps, over linear"]


def test_a_wrong_clip_is_counted_and_listed() -> None:
    wanted = cases(4)
    other = {"red": "blue"}.get(wanted[1].colour, "red")
    found, rows = demo_quality.score_prompts(Renderer(wanted, {wanted[1].seed: {"colour": other}}), wanted, SAMPLING)
    assert (found["scores"]["colour"]["right"], found["scores"]["all"]["right"]) == (3, 3)
    assert found["scores"]["background"]["right"] == 4
    assert [item["case"]["prompt"] for item in found["failures"]] == [wanted[1].prompt]
    assert [row.right for row in rows] == [True, False, True, True]
    assert f"colour: {other}" in rows[1].label


def test_what_the_fast_preset_loses_is_told_in_points() -> None:
    wanted = cases(4)
    other = {"red": "blue"}.get(wanted[2].colour, "red")
    pipe = Renderer(wanted, {}, {wanted[2].seed: {"colour": other}})
    record, _ = demo_quality.measure(pipe, wanted, SAMPLING, [], ("prompts", "fast"))
    lines = {item["name"]: item for item in demo_quality.targets(record)}
    lost = lines['colour, `preset="fast"` against the default']
    assert (lost["measured"], lost["target"], lost["met"]) == (-25.0, -2.0, False)
    assert lines['shape, `preset="fast"` against the default']["met"]


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
    test, tune = cases(300), cases(300, "tune")
    for name in ("prompt", "seed"):
        values = [{getattr(case, name) for case in found} for found in (test, tune)]
        assert [len(found) for found in values] == [300, 300] and not values[0] & values[1]
    assert cases(7) == test[:7]


@pytest.mark.parametrize(
    ("count", "split", "words"), [(0, "test", "1 to 300"), (301, "tune", "1 to 300"), (3, "x", "split")]
)
def test_prompts_out_of_range_are_refused(count: int, split: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cases(count, split)


def test_contenders_alternate() -> None:
    calls: list[str] = []
    ticks = itertools.count()
    times = harness.compare(
        {name: lambda name=name: calls.append(name) for name in "ab"}, runs=3, warm_up=1, clock=lambda: next(ticks)
    )
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert times == dict.fromkeys("ab", harness.Timing(1, 0, 3))


def test_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        harness.compare({"a": int}, runs=0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_summary_is_the_median_and_holds_half(seconds: list[float]) -> None:
    found = harness.summary(seconds)
    assert found.runs == len(seconds)
    assert 2 * sum(value <= found.median_s * (1 + 1e-12) for value in seconds) >= len(seconds)
    assert 2 * sum(value >= found.median_s * (1 - 1e-12) for value in seconds) >= len(seconds)
    assert 0 <= found.iqr_s <= max(seconds) - min(seconds) + 1e-9


def test_one_slow_run_does_not_move_the_median() -> None:
    assert harness.summary([1.0, 1.0, 1.0, 90.0, 1.0]) == harness.Timing(1.0, 0.0, 5)


def test_a_childs_peak_is_its_own() -> None:
    ballast = np.ones(300_000_000, np.uint8)
    empty = harness.child("pass", {})
    full = harness.child("block = bytes(range(250)) * argument['times']; result['n'] = len(block)", {"times": 400_000})
    assert len(ballast) > empty["peak_bytes"] + 100_000_000
    assert full["n"] == 100_000_000 and full["peak_bytes"] - empty["peak_bytes"] > 90_000_000


def test_a_failing_child_says_why() -> None:
    with pytest.raises(RuntimeError, match="ended with 1: .*no such thing"):
        harness.child("raise SystemExit('no such thing')", {})


def test_the_record_names_no_machine(record: dict[str, Any]) -> None:
    text = json.dumps(record)
    assert str(harness.ROOT) not in text and str(Path.home()) not in text
    assert not platform.node() or platform.node() not in text
    assert {"cpu", "cores", "threads", "provider", "python", "numpy", "ffrt_from", "commit"} <= set(
        record["environment"]
    )


def test_a_record_that_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    place = tmp_path / "results" / "record.json"
    harness.write_json(place, {"a": 1})
    with pytest.raises(ValueError):
        harness.write_json(place, {"a": math.nan})
    assert json.loads(place.read_text()) == {"a": 1}
    assert [path.name for path in place.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (57, 60, 0.8630, 0.9829), (0, 0, 0, 1)],
)
def test_wilson_interval(right: int, count: int, low: float, high: float) -> None:
    assert demo_quality.wilson(right, count) == pytest.approx((low, high), abs=2e-4)


def ramp(count: int = 6) -> Frames:
    return np.broadcast_to((np.arange(count) * 40).astype(np.uint8)[:, None, None, None], (count, 48, 64, 3))


@pytest.mark.parametrize("factor", [4, 16])
def test_minterpolate_frames_stand_at_their_times(factor: int) -> None:
    """Brightness is time: ffmpeg's own blending must agree with ours frame by frame, up to its limited-range YUV."""
    made = baselines.minterpolate(ramp(), factor, "blend")
    assert made.shape == (5 * factor + 1, 48, 64, 3)
    assert np.abs(made[:, 20, 30, 0] - 40 * np.arange(len(made)) / factor).max() <= 2.5


def test_minterpolate_follows_motion() -> None:
    clip = shapes.Clip("white", "square", "moving right", "black", None, 20.0, (64.0, 64.0))
    exact = fidelity.truth(clip, 8)
    made, blended = baselines.minterpolate(exact[::4], 4), baselines.linear(exact[::4], 4)
    assert baselines.psnr_db(made, exact) > baselines.psnr_db(blended, exact) + 3


@pytest.mark.parametrize("method", [baselines.hold, baselines.linear, baselines.minterpolate])
def test_baselines_keep_the_keyframes(method: Any) -> None:
    keyframes = ramp()
    assert np.abs(method(keyframes, 4)[::4].astype(int) - keyframes).max() <= 2


def test_blend_is_exact_between() -> None:
    assert baselines.linear(ramp(), 4)[:6, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert baselines.hold(ramp(), 4)[:6, 0, 0, 0].tolist() == [0, 0, 0, 0, 40, 40]


def test_psnr() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert baselines.psnr_db(black, black) == 60
    assert baselines.psnr_db(black, black + np.uint8(255)) == 0
    assert baselines.psnr_db(black, black + np.uint8(1)) == pytest.approx(48.13, abs=0.01)
    with pytest.raises(ValueError, match="differ in shape"):
        baselines.psnr_db(black, black[:1])


def test_truth_agrees_across_rates() -> None:
    clip = fidelity.held_out(1)[0]
    frames = {rate: fidelity.truth(clip, rate) for rate in (2, 8, 32)}
    assert [len(found) for found in frames.values()] == [16, 61, 241]
    assert np.array_equal(frames[2], frames[8][::4]) and np.array_equal(frames[8], frames[32][::4])


def test_the_contact_sheet_is_a_picture_that_others_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    clips = [rng.integers(0, 256, (n, 128, 128, 3), dtype=np.uint8) for n in (16, 61, 5)]
    pixels = sheet.contact_sheet(
        [sheet.Row("a prompt", clip, right) for clip, right in zip(clips, (True, False, None), strict=True)]
    )
    sheet.write_png(tmp_path / "sheet.png", pixels)
    with av.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())) as opened:
        decoded = next(opened.decode(video=0)).to_ndarray(format="rgb24")
    assert np.array_equal(decoded, pixels)
    assert pixels.shape == (2 * 66, 2 * (194 + 8 * 66), 3)
    assert np.array_equal(pixels[:64, 194:258], sheet.thumbnail(clips[0][0], 64))
    assert pixels[0, 0, 1] > pixels[0, 0, 0] and pixels[66, 0, 0] > pixels[66, 0, 1]
    with pytest.raises(ValueError, match="at least one row"):
        sheet.contact_sheet([])


def test_report_renews_and_checks(record: dict[str, Any], tmp_path: Path) -> None:
    place, readme = tmp_path / "demo_quality.json", tmp_path / "README.md"
    paths = ["--results", str(tmp_path), "--readme", str(readme)]
    readme.write_text(f"# A\n\n{BEGIN}\nold\n{END}\n\nrest\n")
    assert report.main(["--check", *paths]) == 2
    harness.write_json(place, record)
    assert report.main(["--check", *paths]) == 1 and "old" in readme.read_text()
    assert report.main(paths) == 0 and report.main(["--check", *paths]) == 0
    text = readme.read_text()
    assert text.startswith(f"# A\n\n{BEGIN}\n") and text.endswith(f"{END}\n\nrest\n")
    assert "| colour right | 100.0 % (68 to 100) | at least 95.0 % | yes |" in text
    readme.write_text("no markers")
    assert report.main(paths) == 2 and readme.read_text() == "no markers"
    readme.write_text(f"{BEGIN}\n{END}\n")
    harness.write_json(place, {**record, "bench": "skip_values"})
    assert report.main(paths) == 2 and readme.read_text() == f"{BEGIN}\n{END}\n"


def test_the_readme_is_not_stale() -> None:
    assert report.main(["--check"]) == 0


def test_the_whole_bench_runs_on_a_bundle(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, picture, readme = tmp_path / "demo_quality.json", tmp_path / "sheet.png", tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    paths = ["--bundle", str(tiny.folder), "--threads", "1", "--json", str(place), "--sheet", str(picture)]
    assert demo_quality.main(["--quick", *paths]) == 0
    found = json.loads(place.read_text())
    assert picture.stat().st_size > 0 and str(tiny.folder) not in place.read_text()
    assert (found["prompts"]["scores"]["all"]["right"], found["prompts"]["scores"]["all"]["of"]) == (0, 4)
    assert len(found["prompts"]["failures"]) == 4 and capsys.readouterr().out.count("missed: ") == 4
    assert found["environment"]["bundle"] == tiny.folder.name and found["environment"]["threads"] == 1
    assert found["speed"]["clips"]["9"]["peak_bytes"] > 20_000_000
    assert {"colour right", "MoVQ reconstruction", "import ffrt"} <= {item["name"] for item in found["targets"]}
    assert not found["targets"][0]["met"]
    assert demo_quality.main(["--quick", "--strict", "--parts", "movq", *paths]) == 1
    assert "prompts" not in json.loads(place.read_text())
    assert report.main(["--results", str(tmp_path), "--readme", str(readme)]) == 2
    assert "partial run" in capsys.readouterr().err and readme.read_text() == f"{BEGIN}\n{END}\n"


def test_only_a_run_at_the_defaults_is_whole() -> None:
    def whole(*arguments: str) -> bool:
        asked, usual = (demo_quality.parser().parse_args(line) for line in (arguments, ()))
        return harness.is_whole(asked, usual, demo_quality.FREE)

    assert whole() and whole("--strict", "--json", "x.json", "--bundle", "there")
    for arguments in (["--quick"], ["--split", "tune"], ["--parts", "movq"], ["--guidance", "0"], ["--prompts", "59"]):
        assert not whole(*arguments)
