"""The demo's stages learn from a film's shots: no run crosses a cut, no test shot is seen, and chapters resume."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from export.datasets.film import Shot, opened
from export.errors import DatasetError
from export.training import film
from export.training.film import FilmInterpolationStage, FilmMaskedStage, FilmMoVQStage, ShotRuns
from export.training.stages import Folders

CPU = torch.device("cpu")
PARTS = {
    "train": [Shot(0, 60), Shot(60, 75), Shot(75, 200)],
    "tune": [Shot(200, 250), Shot(250, 262)],
    "test": [Shot(262, 320)],
}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A film of 32 x 32 pixels whose frames hold their own number, and folders for what is made of it."""
    run, weights = tmp_path / "run", tmp_path / "weights"
    run.mkdir(), weights.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (320, 32, 32, 3), dtype=np.uint8)
    frames[:, 0, :, 0], frames[:, 0, :, 1] = np.arange(320)[:, None] // 256, np.arange(320)[:, None] % 256
    np.save(run / "film.npy", frames)
    (run / "film.json").write_text(json.dumps({name: [asdict(one) for one in some] for name, some in PARTS.items()}))
    return Folders(run, weights)


def numbered() -> np.ndarray:
    return np.broadcast_to(np.arange(320, dtype=np.float16)[:, None, None, None], (320, 4, 2, 2))


@pytest.mark.parametrize("skip", [1, 3, 7, 12])
def test_no_run_crosses_a_cut_or_leaves_the_shots_to_train_on(skip: int) -> None:
    runs, rng = ShotRuns(numbered(), PARTS["train"]), np.random.default_rng(skip)
    starts = set()
    for _ in range(60):
        run = runs.draw(skip, 4, rng, CPU)
        assert run.skip == skip and (run.latents.shape[1] - 1) % 4 == 0 and run.latents.shape[1] >= 5
        for row in run.latents[:, :, 0, 0, 0].numpy():
            assert set(np.diff(row)) == {skip}
            assert any(shot.first <= row[0] and row[-1] < shot.end for shot in PARTS["train"])
            starts.add(row[0])
    assert len(starts) > 20
    with pytest.raises(DatasetError, match=f"a shot of more than {4 * skip} frames"):
        ShotRuns(numbered(), [Shot(0, 4 * skip)]).draw(skip, 1, rng, CPU)


def test_the_autoencoder_sees_frames_to_train_on_and_is_measured_on_those_to_tune_on(folders: Folders) -> None:
    stage = FilmMoVQStage(folders)

    def numbers(pictures: torch.Tensor) -> np.ndarray:
        row = np.rint((pictures[:, :2, 0, 5].numpy() + 1) * 127.5)
        return row[:, 0] * 256 + row[:, 1]

    seen = numbers(stage.frames(np.random.default_rng(0), 400))
    assert seen.max() < 200 and len(set(seen)) > 100
    measured = numbers(stage.held_out())
    assert 200 <= measured.min() <= measured.max() < 262 and len(measured) >= 16


def test_latents_of_test_shots_are_never_made(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "load_half", lambda module, path: module.eval())
    film.encode(opened(folders.run), folders.run, folders.weights)
    latents = np.load(folders.run / film.LATENTS)
    assert latents.shape == (320, 4, 4, 4)
    assert (latents[262:] == 0).all() and (latents[:262].std((1, 2, 3)) > 0).all()
    runs, held_out = FilmInterpolationStage.shown(folders.run)
    assert isinstance(runs, ShotRuns) and runs.shots == PARTS["train"]
    np.testing.assert_array_equal(held_out["tune"], latents[None, 200:249:3])


def test_chapters_leave_weights_and_are_passed_over_when_done(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    places = ["--run", str(folders.run), "--weights", str(folders.weights), "--device", "cpu", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["film", *places, "--steps", "1", "1", "1"])
    film.main()
    capsys.readouterr()
    graphs = ("interpolation_unet", "masked_interpolation_unet", "movq_decoder", "movq_encoder")
    made = {path: path.stat().st_mtime_ns for path in (folders.weights / f"{name}.safetensors" for name in graphs)}
    history = json.loads((folders.weights / "interpolation.json").read_text())["history"]
    assert {"tune_s3", "tune_s6", "tune_s12"} < set(history[-1])
    film.main()
    assert {path: path.stat().st_mtime_ns for path in made} == made
    words = capsys.readouterr().err
    assert all(f"{name}: done" in words for name in film.STAGES)


def test_group_and_masked_draw_the_same_runs(folders: Folders) -> None:
    np.save(folders.run / film.LATENTS, numbered())
    group, masked = FilmInterpolationStage(folders), FilmMaskedStage(folders)
    for seed in range(3):
        drawn = [one.runs.draw(3, 4, np.random.default_rng(seed), CPU).latents for one in (group, masked)]
        assert torch.equal(*drawn)
    assert (group.name, masked.name) == ("interpolation", "masked_interpolation")
    assert (group.steps, masked.steps) == (film.STEPS[1], film.STEPS[2])


def test_without_latents_the_error_names_the_command(folders: Folders) -> None:
    with pytest.raises(DatasetError, match=r"made by: python -m export\.training\.film --run"):
        FilmInterpolationStage(folders)
