"""`bench.skip_values` gives the networks the skip value that it says, and pairs what it compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from bench.contenders import baselines
from bench.datasets import shapes
from bench.harness.record import BenchError
from bench.skip_values import __main__ as skip_values
from bench.skip_values import figures, measure
from bench.skip_values import film as film_bench
from export.training import between
from export.training.interpolation import SKIPS
from ffrt import Bundle, Pipeline


@pytest.mark.parametrize("skip", skip_values.SKIPS)
def test_runs_are_as_training_has_them(skip: int) -> None:
    assert tuple(SKIPS) == skip_values.SKIPS and measure.BASE_FPS == between.FINE_FPS
    film = np.arange(181, dtype=np.uint8)[:, None, None, None]  # 7.5 s
    clips = between.Clips(*(np.zeros((1, n, 4, 1, 1), np.float16) for n in (61, 181)))
    trained = clips.draw(skip, 1, np.random.default_rng(0), torch.device("cpu")).latents.shape[1]
    starts = set()
    for seed in range(20):
        times = measure.run_of(film, skip, np.random.default_rng(seed)).ravel().astype(int)
        assert len(times) == trained and set(np.diff(times)) == {skip}
        starts.add(times[0])
    assert len(starts) > 2


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, lpips_without_weights: None) -> None:
    monkeypatch.setattr(skip_values, "session", lambda: None)


@pytest.fixture(scope="module")
def masked_pipe(masked: Bundle) -> Pipeline:
    return Pipeline(masked, provider="cpu", threads=1)


def test_the_network_is_given_the_skip_value(masked_pipe: Pipeline) -> None:
    exact = np.random.default_rng(3).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    filled = measure.contenders(masked_pipe, exact, 3, [3, 12])
    order = ["group", "masked", "masked_sequence", "group, s 3", "group, s 12", "latent linear", "autoencoder"]
    assert list(filled) == [*order, "linear", "minterpolate"]
    assert all(frames.shape == exact.shape for frames in filled.values())
    np.testing.assert_array_equal(filled["group"], filled["group, s 3"])
    for method in ("group", "masked", "masked_sequence"):
        longer = measure.contenders(masked_pipe, exact, 12, [3])
        assert not np.array_equal(filled[method], longer[method])
    np.testing.assert_array_equal(longer["group"], filled["group, s 12"])
    np.testing.assert_array_equal(longer["group, s 3"], filled["group"])


def test_at_the_passes_own_skip_the_pipeline_makes_the_same(masked_pipe: Pipeline) -> None:
    keyframes = np.random.default_rng(4).standard_normal((3, 4, 4, 4), dtype=np.float32)
    for method in baselines.methods_of(masked_pipe.bundle.graphs)[0]:
        whole = masked_pipe.interpolate(keyframes, fps=8, seed=shapes.INTERPOLATION_SEED, method=method)
        np.testing.assert_allclose(measure.interpolated(masked_pipe, keyframes, method, 3), whole, atol=1e-5)


def test_scenes_that_are_measured_are_not_those_that_training_looks_at() -> None:
    from export.datasets.demo import HELD_OUT_SCENES
    from export.datasets.scenes import held_out_scenes

    assert shapes.scenes(18) == held_out_scenes()[-18:]
    assert not any(one in held_out_scenes(HELD_OUT_SCENES) for one in shapes.scenes(200 - HELD_OUT_SCENES))
    with pytest.raises(BenchError, match="1 to 200"):
        shapes.scenes(201)


def test_gains_by_kind_are_means_of_the_clips_of_that_kind() -> None:
    values = {"group": [3.0, 5.0, 9.0], "latent linear": [1.0, 1.0, 1.0]}
    scores = {3: {name: dict.fromkeys(measure.METRIC_NAMES, own) for name, own in values.items()}}
    found = figures.by_kind(scores, ["moving", "spinning", "moving"])
    assert found["moving"]["gains"]["group"] == [{"s": 3, "mean": 5.0, "standard_error": pytest.approx(3.0)}]
    assert found["spinning"] == {"clips": 1, "gains": {"group": [{"s": 3, "mean": 4.0, "standard_error": None}]}}


def test_gain_is_paired() -> None:
    assert figures.gain([40.0, 30.0, 20.0], [39.0, 29.0, 19.0]) == {"mean": 1.0, "standard_error": 0.0}
    found = figures.gain([1.0, 3.0], [1.0, 1.0])
    assert found == {"mean": 1.0, "standard_error": pytest.approx(1.0)}
    assert figures.gain([1.0], [2.0]) == {"mean": -1.0, "standard_error": None}


KINDS = {"moving": 2, "scenes, straight": 1, "scenes, accelerating": 1, "more that spin, triangle": 1}


def skip_arguments(used: Bundle) -> list[str]:
    return ["--bundle", str(used.folder), "--threads", "1"]


def test_a_whole_run_on_skip_values_writes_record_and_plot(
    masked: Bundle,
    ship: Callable[[Bundle], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = ship(masked)
    clips = shapes.held_out(5)
    assert clips[4].action == "standing still"
    monkeypatch.setattr(skip_values, "SKIPS", (1, 3, 12))
    spins = next(clip for clip in shapes.held_out(200) if clip.action == "spinning" and clip.shape == "triangle")
    chosen = [clips[0], clips[4], clips[1]]
    monkeypatch.setattr(measure, "held_out", lambda count: [*chosen, spins] if count == 200 else chosen)
    monkeypatch.setattr(measure, "scenes", lambda count: shapes.scenes(2))
    assert skip_values.main(["--threads", "1"]) == 0
    assert sorted(path.name for path in results.iterdir()) == ["skip_values.json", "skip_values.png"]
    record = json.loads((results / "skip_values.json").read_text())
    assert (record["whole"], record["clips"], record["skips"], record["absent"]) == (True, 2, [1, 3, 12], [])
    means = record["means"]
    assert {"group", "masked", "masked_sequence", "group, s 3", "group, s 12", "linear"} <= set(means)
    assert [point["s"] for point in means["linear"]] == [1, 3, 12]
    linear = [point["psnr_db"] for point in means["linear"]]
    assert linear[2] < min(linear[:2]), "frames farthest apart must be hardest"
    assert {"psnr_db", "ssim", "lpips"} < set(means["linear"][0])
    over = record["group_over"]
    assert set(over) == {"masked", "masked_sequence", "latent linear", "minterpolate"}
    for metric in ("psnr_db", "lpips"):
        apart = [group[metric] - other[metric] for group, other in zip(means["group"], means["masked"], strict=True)]
        assert [point["mean"] for point in over["masked"][metric]] == pytest.approx(apart)
    assert {kind: found["clips"] for kind, found in record["kinds"].items()} == KINDS
    gains = record["right_over"]
    assert gains["group, s 3"][1] == {"s": 3, "mean": 0.0, "standard_error": 0.0}
    assert gains["group, s 3"][0]["mean"] != 0 == gains["group, s 12"][2]["mean"]
    with av.open(str(results / "skip_values.png")) as opened:
        pixels = next(opened.decode(video=0)).to_ndarray(format="rgb24")
    assert pixels.shape == (920, 1500, 3) and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    output = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in output.splitlines()[2:5]] == ["| 1", "| 3", "| 12"]


def test_a_quick_run_on_skip_values_says_what_is_absent(
    tiny: Bundle, ship: Callable[[Bundle], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results = ship(tiny)
    assert skip_values.main(["--threads", "1", "--quick", "--clips", "1", "--fixed", "3"]) == 0
    assert not results.exists()
    absent = baselines.methods_of(tiny.graphs)[1]
    assert not absent or f"no graph for it: {', '.join(absent)}." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fixed", "0"], "1 to 12, got [0]"),
        (["--fixed", "3", "13"], "got [3, 13]"),
        (["--clips", "0"], "--clips: expected 1 or more, got 0"),
        (["--provider", "cloud"], "provider"),
    ],
)
def test_bad_requests_for_skip_values_are_refused(
    arguments: list[str], words: str, tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--json", str(tmp_path / "record.json"), "--plot", str(tmp_path / "plot.png")]
    assert skip_values.main([*skip_arguments(tiny), *places, *arguments]) == 2
    assert words in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_plot_that_cannot_be_drawn_is_refused_before_measuring(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert skip_values.main([*skip_arguments(tiny), "--quick", "--plot", str(tmp_path / "plot.png")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.fixture
def film_folder(tmp_path: Path) -> Path:
    """A film of waves, 32 x 32: two test shots of two seconds, and one that is too short."""
    folder = tmp_path / "film"
    folder.mkdir()
    columns = np.arange(32) / 4 + np.arange(170)[:, None] / 5
    frames = np.rint(127 + 100 * np.sin(columns)).astype(np.uint8)
    np.save(folder / "film.npy", np.ascontiguousarray(np.broadcast_to(frames[:, None, :, None], (170, 32, 32, 3))))
    shots = {"train": [(0, 20)], "tune": [(20, 40)], "test": [(40, 100), (100, 120), (120, 170)]}
    parts = {part: [{"first": first, "end": end} for first, end in some] for part, some in shots.items()}
    (folder / "film.json").write_text(json.dumps(parts))
    return folder


def test_film_is_measured_shot_by_shot_against_every_rival(
    masked: Bundle,
    film_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(film_bench, "session", lambda: None)
    places = ["--json", str(tmp_path / "record.json"), "--sheet", str(tmp_path / "sheet.png"), "--threads", "1"]
    asked = ["--bundle", str(masked.folder), "--film", str(film_folder), "--skips", "3", "12", *places]
    assert film_bench.main(asked) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["shots"], record["skips"], record["whole"]) == (2, [3, 12], False)
    assert record["environment"]["bundle_digest"] is None and record["film_bundle_digest"] == masked.digest
    assert {"group", "masked", "hold", "linear", "minterpolate", "true linear", "autoencoder"} <= set(record["means"])
    assert set(record["over"]) == {"group", "masked"} and set(record["over"]["group"]) == set(film_bench.RIVALS)
    means = record["means"]
    for metric in ("psnr_db", "ssim", "lpips"):
        apart = [group[metric] - other[metric] for group, other in zip(means["group"], means["hold"], strict=True)]
        found = record["over"]["group"]["hold"][metric]
        assert [point["mean"] for point in found] == pytest.approx(apart)
        assert all(point["standard_error"] is not None for point in found)
    assert means["true hold"][0]["psnr_db"] > means["true hold"][1]["psnr_db"], "frames farthest apart are hardest"
    with av.open(str(tmp_path / "sheet.png")) as opened:
        assert next(opened.decode(video=0)).width > 5 * 32
    words = capsys.readouterr().out
    assert "2 test shots of Big Buck Bunny at 32x32" in words and "group, LPIPS, less" in words


def test_a_film_that_cannot_be_measured_is_refused(
    tiny: Bundle, film_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(film_bench, "session", lambda: None)
    record = ["--json", str(tmp_path / "record.json")]
    for arguments, words in (
        (["--bundle", str(tmp_path / "nowhere")], "`make film` builds it"),
        (["--bundle", str(tiny.folder), "--skips", "13"], "--skips: expected values of 1 to 12, got [13]"),
        (["--bundle", str(tiny.folder), "--film", str(tmp_path)], "python -m export.datasets.film --run"),
        (["--bundle", str(tiny.folder), "--film", str(film_folder), "--shots", "0"], "--shots: expected 1 or more"),
    ):
        assert film_bench.main([*record, *arguments]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "record.json").exists()
