"""The full-size export bench: what it writes is what the export reads, and what it says is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import export_memory
from bench.datasets.release import write_release
from export.checkpoints.file import open_checkpoint
from export.checkpoints.release import open_1_0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("release")
    return folder, write_release(folder, True, lambda line: None)


def test_its_files_are_a_release(files: tuple[Path, dict[str, int]]) -> None:
    folder, counted = files
    release = open_1_0(folder, folder / "text_encoder")  # every name and shape is checked here
    assert set(release.parts) == {"text_encoder", "keyframe_unet", "interpolation_unet", "movq_encoder", "movq_decoder"}
    unet = open_checkpoint(folder / "weights" / "kandinsky_video.pt").section("unet")
    assert sum(value.numel() for value in unet.values()) == counted["kandinsky_video"]


def test_its_weights_keep_activations_in_size(files: tuple[Path, dict[str, int]]) -> None:
    unet = open_checkpoint(files[0] / "weights" / "kandinsky_video.pt").section("unet")
    seen = 0
    for name, value in unet.items():
        assert bool(torch.isfinite(value).all()) and bool(value.any()), name
        if value.dim() > 1 and value.numel() > 5000:
            assert float(value.std()) * np.sqrt(value[0].numel()) == pytest.approx(1, rel=0.1), name
            seen += 1
    assert seen > 20


def record(status: int, folder: Path) -> dict[str, Any]:
    bundle = folder / "bundle"
    bundle.mkdir(parents=True, exist_ok=True)
    graphs = {"keyframe_unet": {"parity": {"relative_rms": 2e-5}}}
    files = {"keyframe_unet.onnx": {"bytes": 1000, "sha256": "0"}}
    (bundle / "manifest.json").write_text(json.dumps({"graphs": graphs, "files": files}))
    return {"status": status, "peak_bytes": 3_000_000_000, "seconds": 1200.0}


def test_a_target_that_is_missed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(export_memory, "child", lambda *_, **__: record(0, folder))
    assert export_memory.main(["--small", "--scratch", str(folder), "--json", str(tmp_path / "record.json")]) == 0
    found = json.loads((tmp_path / "record.json").read_text())
    assert [item["met"] for item in found["targets"]] == [True, False] and not found["whole"]
    said = capsys.readouterr().out
    assert "peak resident memory | 3.0 GB | at most 10 GB | yes" in said
    assert "wall time | 20.0 min | at most 15 min | **no**" in said
    assert not folder.exists()


def test_an_export_that_fails_is_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "mine.txt").write_text("not of this program")
    monkeypatch.setattr(export_memory, "child", lambda *_, **__: record(1, folder))
    assert export_memory.main(["--small", "--scratch", str(folder), "--json", str(tmp_path / "record.json")]) == 2
    assert "ended with status 1" in capsys.readouterr().err and not (tmp_path / "record.json").exists()
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
