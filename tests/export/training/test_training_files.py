"""What training shows and writes on its way: progress, files of latents, the loss and figures of the autoencoder."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.datasets import demo
from export.datasets.demo import DEMO
from export.datasets.shapes import Clip, render, sample_clip
from export.models.configs import PRESETS
from export.training import between, latents, stages
from export.training.curves import progress
from export.training.levels import LevelDraw, level_weight
from export.training.stages import MoVQStage, draw_levels, psnr, signal_levels
from export.training.text import ReadingText

CPU = torch.device("cpu")


def test_a_line_of_progress_says_how_far_and_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    progress(250, 1000, 2.0, {"loss": 0.12345, "v650": 3})
    line = "[######                  ] 250/1000  2.00 s/step  ETA 25.0 min  loss 0.1235  v650 3\n"
    assert capsys.readouterr().err == line
    progress(1000, 1000, 2.0, {})
    assert capsys.readouterr().err == "[########################] 1000/1000  2.00 s/step  ETA 0.0 min  \n"


def test_in_a_terminal_the_line_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    progress(1, 2, 1.0, {})
    assert screen.getvalue().endswith("\r")


class Encoder:
    """Says the mean of every frame, and how many it was given at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, frames: Tensor) -> Tensor:
        self.batches.append(len(frames))
        return frames.mean((1, 2, 3))[:, None, None, None].expand(-1, 4, 16, 16)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """The encoder in place of both files' own."""
    one = Encoder()
    for module in (latents, between):
        monkeypatch.setattr(module, "MoVQEncoder", lambda _: one)
        monkeypatch.setattr(module, "load_half", lambda _, path: None)
    return one


def some_clips(count: int) -> list[Clip]:
    rng = np.random.default_rng(3)
    return [sample_clip(rng) for _ in range(count)]


def test_what_is_there_is_not_encoded_again(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, times = some_clips(100), [np.array([0.0, 1.0, 2.0])] * 100

    def plans(*_: object) -> Iterator[tuple[str, list[Clip], list[NDArray[np.float64]]]]:
        yield "a.npy", clips, times
        yield "b.npy", clips[:2], times[:2]

    monkeypatch.setattr(latents, "plans", plans)
    latents.encode(tmp_path / "run" / "deep", tmp_path, 0, 0)
    found = np.load(tmp_path / "run" / "deep" / "a.npy")
    assert found.shape == (100, 3, 4, 16, 16) and found.dtype == np.float16
    want = render(clips[7], times[7]).mean((1, 2, 3)).numpy()
    np.testing.assert_allclose(found[7, :, 0, 0, 0], want, atol=1e-3)
    assert set(encoder.batches) == {1, 2} and len(encoder.batches) == 204
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["a.npy: 50/100", "a.npy: 100/100"]
    assert lines[-1].endswith("ETA 0 s")
    (tmp_path / "run" / "deep" / "b.npy").unlink()
    latents.encode(tmp_path / "run" / "deep", tmp_path, 0, 0)
    assert len(encoder.batches) == 208


def test_the_files_of_latents_are_those_that_stages_read() -> None:
    plan = {name: (len(clips), times) for name, clips, times in latents.plans(3, 2500)}
    assert {name: count for name, (count, _) in plan.items()} == {
        "held_out.npy": 200,
        "pictures.npy": 3,
        "keyframes_00.npy": 1000,
        "keyframes_01.npy": 1000,
        "keyframes_02.npy": 500,
    }
    for name, (count, times) in plan.items():
        assert len(times) == count
        assert all(len(one) == (1 if name == "pictures.npy" else 16) for one in times)
    assert not any(name == "pictures.npy" for name, *_ in latents.plans(0, 0))
    assert latents.keyframe_times().tolist() == [t / 2 for t in range(16)]


def test_clips_to_interpolate_are_encoded_whole(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"COARSE": 4, "FINE": 2}.items():
        monkeypatch.setattr(between, name, value)
    monkeypatch.setattr(demo, "HELD_OUT_SCENES", 2)
    between.encode(tmp_path, tmp_path)
    assert np.load(tmp_path / "between_08.npy").shape == (4, 61, 4, 16, 16)
    assert np.load(tmp_path / "between_24.npy").shape == (2, 181, 4, 16, 16)
    held_out = between.held_out_runs(tmp_path)
    assert set(held_out) == {"scenes", "moving", "growing", "spinning", "standing"}
    assert sum(map(len, held_out.values())) == 2 + demo.HELD_OUT_DEMO
    done = len(encoder.batches)
    between.encode(tmp_path, tmp_path)
    assert len(encoder.batches) == done


def test_the_autoencoder_is_asked_for_the_picture_and_for_latents_inside_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.95 on; and its decoder sees the latent with a little noise on it."""
    seen: list[Tensor] = []

    def decoder(noisy: Tensor) -> Tensor:
        seen.append(noisy)
        return torch.zeros(2, 3, 8, 8)

    model: Any = SimpleNamespace(encoder=lambda image: torch.full((2, 4, 1, 1), 1.25), decoder=decoder)
    monkeypatch.setattr(MoVQStage, "frames", staticmethod(lambda rng, count: torch.full((2, 3, 8, 8), 0.5)))
    stage: Any = object.__new__(MoVQStage)
    loss = stage.loss(model, np.random.default_rng(0), 2, CPU)
    assert float(loss) == pytest.approx(0.25 + 0.3**2)
    torch.manual_seed(0)
    seen.clear()
    for _ in range(200):
        stage.loss(model, np.random.default_rng(0), 2, CPU)
    noise = torch.stack(seen) - 1.25
    assert float(noise.mean()) == pytest.approx(0, abs=0.005) and float(noise.std()) == pytest.approx(0.05, rel=0.1)


def test_psnr_of_pictures_between_minus_1_and_1() -> None:
    truth = torch.zeros(2, 3, 4, 4)
    other = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 2.0)])  # the second is shown as 1
    assert psnr(other, truth) == pytest.approx((10 * math.log10(100) + 10 * math.log10(4)) / 2, abs=1e-4)
    assert psnr(truth, truth) == pytest.approx(10 * math.log10(4e10), abs=1e-3)


def test_the_noisiest_level_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.torch, "rand", lambda *size, **_: torch.ones(*size))
    for level, told in (draw_levels(3, CPU), LevelDraw("log-normal").draw(3, CPU)):
        assert int(level.max()) == 999 and float(told.max()) <= 999


def test_weights_of_levels_by_hand() -> None:
    """1 until the signal has four times the power of the noise; from there on in proportion to the noise."""
    levels = torch.tensor([999, 500, 300, 100])
    noise = 1 - signal_levels()[levels]
    want = [min(1.0, 5 * float(share)) for share in noise]
    assert level_weight(levels).tolist() == pytest.approx(want) and want[-1] < 0.2


def test_a_caption_is_judged_by_the_mean_of_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding has rows of zeros, and does not count."""
    reading = ReadingText(PRESETS["demo"].text, DEMO.attributes)
    context = torch.zeros(1, 5, reading.heads["colour"].in_features)
    context[:, :3] = 2.0
    monkeypatch.setattr(reading.text, "forward", lambda ids, mask: (context, None))
    found = reading(torch.zeros(1, 5).long(), torch.tensor([[1, 1, 1, 0, 0]]))
    assert torch.allclose(found["colour"], reading.heads["colour"](torch.full_like(context[:, 0], 2.0)), atol=1e-5)
