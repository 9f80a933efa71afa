"""`python -m bench.metrics` from folders to a table, a record and a status, with networks that stand in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics import __main__ as program
from bench.metrics.commands import compared
from bench.metrics.features.table import SET_FEATURES, SetFeature
from bench.metrics.networks.catalogue import C3D, I3D
from bench.metrics.sets import frechet_distance, inception_score
from bench.metrics.standard import frechet, inception
from tests.bench.metrics.folders import clip, standing_in, written


def three_numbers(frames: np.ndarray) -> np.ndarray:
    """Mean colours `[B, 3]` of `[B, 16, H, W, 3]`."""
    assert frames.dtype == np.uint8 and frames.shape[1] == 16
    return frames.mean(axis=(1, 2, 3)).astype(np.float32)


def likely(frames: np.ndarray) -> np.ndarray:
    found = three_numbers(frames).astype(np.float64)
    return found / found.sum(axis=1, keepdims=True)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    real = written(tmp_path / "real", {f"{seed:02}": clip(seed, 16) for seed in range(12)})
    fakes = {f"{seed:02}": clip(100 + seed, 16) for seed in range(11)}
    fake = written(tmp_path / "fake", {**fakes, "short": clip(0, 15)})
    return real, fake


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "opened", lambda *_: standing_in(I3D, "FVD", i3d=three_numbers))
    monkeypatch.setattr(inception, "opened", lambda *_: standing_in(C3D, "IS", c3d=likely))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = program.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def test_fvd_is_the_distance_of_the_protocols_clips(
    folders: tuple[Path, Path], stand_ins: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "fvd.json"
    status, out, _ = run(capsys, "fvd", *folders, "--i3d", "file", "--json", kept)
    record: dict[str, Any] = json.loads(kept.read_text())
    (row,) = record["rows"]
    ours, theirs = (
        np.concatenate([three_numbers(clip(seed)[None]) for seed in seeds]).astype(np.float64)
        for seeds in (range(100, 111), range(12))
    )
    assert row["value"] == pytest.approx(frechet_distance(theirs, ours, resamples=2).value, rel=1e-6)
    assert status == 0 and "| FVD |" in out and "12 and 11" in out
    assert "fake: 1 videos of fewer than 16 frames were dropped" in out
    assert "11 generated clips" in row["protocol"] and row["sha256"] == {"file": "0" * 64}
    assert row["real"]["choice"].startswith("16 consecutive frames") and row["fake"]["choice"] == "frames 0 to 15"
    assert row["fake"]["size_px"] == [32, 32] and record["folders"]["fake"]["videos"] == 12
    assert str(tmp_path) not in kept.read_text()


def test_is_follows_the_protocol(
    folders: tuple[Path, Path], stand_ins: None, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "is", folders[1], "--c3d", "file")
    want = inception_score(np.concatenate([likely(clip(seed)[None]) for seed in range(100, 111)]))
    assert status == 0 and f"| IS | {want.value:.3f} | deviation of splits {want.deviation:.3f} |" in out


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["fvd", "real", "fake"], "| FVD | needs --i3d FILE |"),
        (["is", "fake"], "| IS | needs --c3d FILE |"),
        (["clipsim", "fake"], "| CLIPSIM | needs --clip FOLDER |"),
    ],
)
def test_without_its_file_a_standard_metric_says_what_it_needs(
    words: list[str], needs: str, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    real, fake = folders
    (fake / "captions.json").write_text(json.dumps({place.name: "two spots" for place in fake.iterdir()}))
    typed = [{"real": str(real), "fake": str(fake)}.get(word, word) for word in words]
    status, out, _ = run(capsys, *typed)
    assert status == 2 and needs in out
    assert run(capsys, *typed, "--strict")[0] == 3


def test_what_cannot_be_measured_is_an_error_of_one_line(
    folders: tuple[Path, Path], stand_ins: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, fake = folders
    few = written(tmp_path / "few", {"a": clip(0), "b": clip(1), "c": clip(2)})
    short = written(tmp_path / "short", {"a": clip(0, 9)})
    large = written(tmp_path / "large", {f"{seed:02}": clip(seed, 16, 48) for seed in range(4)})
    for words, why in (
        (["fvd", real, few], "at least 4 fake clips for 3 dimensions, got 3"),
        (["fvd", real, short], "expected videos of at least 16 frames, got 1 shorter ones"),
        (["fvd", real, large], r"videos of one size, got [32, 32] and [48, 48]"),
        (["is", few], "at least 10 clips, got 3"),
        (["is", tmp_path / "nowhere"], "expected a folder of videos"),
        (["clipsim", fake], "expected a caption in"),
        (["paired", few, fake], "expected the same names"),
        (["get", "nothing"], "expected some of efficientnet-lite0"),
    ):
        status, out, err = run(capsys, *words)
        assert (status, out) == (2, "") and f"metrics {words[0]}: not measured: " in err and why in err


def test_videos_of_several_sizes_in_a_folder_are_refused(
    stand_ins: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = written(tmp_path, {"a": clip(0), "b": clip(1, 16, 48)})
    status, _, err = run(capsys, "is", mixed)
    assert status == 2 and "b: expected videos of one size, [32, 32] as the first, got [48, 48]" in err


def test_pairs_are_measured_and_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "paired", lambda ours, true: compared_pairs(ours, true, ("psnr_db", "mse", "ssim")))
    true = written(tmp_path / "true", {"a": clip(0), "b": clip(1)})
    ours = written(tmp_path / "ours", {"a": clip(0) // 2 * 2, "b": clip(1) // 2 * 2})
    status, out, _ = run(capsys, "paired", ours, true)
    assert status == 0 and "| PSNR | 5" in out and "| MSE | 0.0000" in out
    small = written(tmp_path / "small", {"a": clip(0, 2, 8)})
    status, out, _ = run(capsys, "paired", small, small, "--strict")
    assert status == 3 and "| SSIM | not measured |" in out and "at least 11 px" in out and "| PSNR | 60.0 dB |" in out


def compared_pairs(ours: Any, true: Any, names: tuple[str, ...]) -> Any:
    from bench.metrics.commands.paired import paired

    return paired(ours, true, names)


def test_sets_are_compared_in_our_own_features(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = {
        "KD-frame": SetFeature("KD-frame", lambda frames: frames.mean(axis=(0, 1, 2)), None, "", True),
        "Warp": SetFeature(
            "Warp", lambda frames: float(np.abs(np.diff(frames.astype(float), axis=0)).mean()), None, "", False
        ),
    }
    for name, feature in ours.items():
        monkeypatch.setitem(SET_FEATURES, name, feature)
    monkeypatch.setattr(program, "compared", lambda real, fake: compared.compared(real, fake, tuple(ours)))
    status, out, _ = run(capsys, "sets", *folders)
    assert status == 0 and "| KD-frame | " in out and "| 12 and 12 |" in out
    warp = next(line for line in out.splitlines() if line.startswith("| Warp"))
    assert warp.count("|") == 6 and warp.split("|")[4].strip() != ""  # the real clips' number beside ours
