"""Trained networks are compared on the same runs, of clips that no training drew."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoints.weights import save_half
from export.datasets.demo import HELD_OUT_SCENES, held_out_clips
from export.datasets.grammar import is_held_out
from export.datasets.scenes import Scene, held_out_scenes
from export.errors import CheckpointError
from export.models.configs import PRESETS
from export.models.movq import MoVQEncoder
from export.training import arms


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Both networks as they begin: linear blending."""
    torch.manual_seed(0)
    for form in arms.FORMS.values():
        save_half(form.network().state_dict(), tmp_path / f"{form.name}_unet.safetensors")
    return tmp_path


def test_networks_that_have_learnt_nothing_gain_nothing_and_differ_by_nothing(folder: Path) -> None:
    networks = arms.arms({"new": folder})
    assert list(networks) == ["new group", "new masked"]
    latents = np.random.default_rng(0).normal(0, 0.4, (3, 181, 4, 8, 8)).astype(np.float16)
    found = arms.gains(networks, latents)
    assert all(np.abs(values).max() < 0.05 for by_skip in found.values() for values in by_skip.values())
    apart = arms.differences(found, ["moving", "growing", "scenes, crossing"])
    assert list(apart) == ["new group less new masked"]
    assert abs(apart["new group less new masked"]["demo"]["all"]["mean_db"]) < 0.05


def test_differences_are_paired() -> None:
    assert arms.paired([3.0, 5.0], [1.0, 3.0]) == {"mean_db": 2.0, "standard_error_db": 0.0}
    assert arms.paired([3.0, 7.0], [1.0, 1.0]) == {"mean_db": 4.0, "standard_error_db": pytest.approx(2.0)}
    assert arms.decibel(torch.tensor([0.1]), torch.tensor([1.0])) == pytest.approx(10)


def test_no_clip_was_drawn_by_a_training_or_is_shown_in_its_curves() -> None:
    clips = arms.test_clips()
    demo = [clip for clip in clips if not isinstance(clip, Scene)]
    assert len(demo) == len(clips) / 2 == arms.CLIPS
    assert all(is_held_out(clip.colour, clip.shape, clip.action, clip.background) for clip in demo)
    assert not any(clip in held_out_clips() for clip in demo)
    assert not any(clip in held_out_scenes(HELD_OUT_SCENES) for clip in clips[arms.CLIPS :])
    assert "standing" not in arms.kinds_of(clips) and "scenes, crossing" in arms.kinds_of(clips)


def test_the_command_writes_every_figure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_half(MoVQEncoder(PRESETS["demo"].movq).state_dict(), folder / "movq_encoder.safetensors")
    monkeypatch.setattr(arms, "SKIPS", (3, 6, 12))
    words = ["arms", f"seed1={folder}", "--clips", "1", "--threads", "1", "--weights", str(folder)]
    monkeypatch.setattr(sys, "argv", [*words, "--json", str(tmp_path / "arms.json")])
    arms.main()
    record = json.loads((tmp_path / "arms.json").read_text())
    assert set(record["gains_db"]) == {"seed1 group", "seed1 masked"} and len(record["kinds"]) == 2
    assert "| seed1 masked | scenes (1) |" in capsys.readouterr().out


def test_a_folder_without_networks_is_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected interpolation_unet.safetensors or masked_.* in a folder"):
        arms.arms({"none": tmp_path})
