"""What a stage of training shows its network: which clips, how noisy, how disturbed, how often without a condition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.training.interpolation import WINDOW, InterpolationStage, MaskedInterpolationStage
from export.training.latents import SKIPS
from export.training.loop import update_average
from export.training.stages import TIME_SLACK, TRAIN_STEPS, Folders, draw_levels

CPU = torch.device("cpu")
RUNS = 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Runs of 9 latents for every skip value; each holds its own number in its first latent."""
    folder = tmp_path_factory.mktemp("interpolation stages")
    runs = np.random.default_rng(0).normal(0, 0.4, (RUNS, 9, 4, 4, 4)).astype(np.float16)
    runs[:, 0, 0, 0, 0] = np.arange(RUNS)
    for skip in SKIPS:
        np.save(folder / f"interpolation_{skip:02}.npy", runs)
    return Folders(folder, folder)


@pytest.fixture
def stage(folders: Folders) -> InterpolationStage:
    torch.manual_seed(0)
    return InterpolationStage(folders)


def test_an_average_forgets_by_its_decay_and_is_short_at_first() -> None:
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    for step, longest, wanted in ((0, 0.998, 0.9), (100_000, 0.998, 0.002), (100_000, 0.75, 0.25)):
        for parameter in average.parameters():
            nn.init.zeros_(parameter)
        update_average(average, model, step, longest)
        assert [parameter.item() for parameter in average.parameters()] == pytest.approx([wanted] * 2, abs=1e-6)


def test_the_model_is_told_a_level_a_little_too_clean_and_never_too_noisy() -> None:
    torch.manual_seed(0)
    level, told = draw_levels(4000, CPU)
    assert 0 <= int(level.min()) < 5 and TRAIN_STEPS - 5 < int(level.max()) < TRAIN_STEPS
    below = level - told
    assert float(below.min()) >= 0 and float(below.max()) <= TIME_SLACK
    assert float(below[level > TIME_SLACK].mean()) == pytest.approx(TIME_SLACK / 2, abs=0.5)


def test_no_held_out_run_is_ever_drawn_and_every_other_one_is(
    stage: InterpolationStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[int] = set()

    def record(_: nn.Module, runs: np.ndarray, *__: object) -> Tensor:
        drawn.update(int(number) for number in runs[:, 0, 0, 0, 0])
        return torch.zeros(())

    monkeypatch.setattr(stage, "batch_loss", record)
    for seed in range(60):
        stage.loss(stage.model, np.random.default_rng(seed), 6, CPU)
    assert drawn == set(range(stage.held_out, RUNS))
    drawn.clear()
    stage.measure(stage.model, CPU)
    assert drawn == set(range(stage.held_out))


Seen = list[tuple[Tensor, Tensor, Tensor]]


@pytest.fixture
def shown(stage: InterpolationStage, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Clip, keyframes and strength of the disturbance, of every call for the error."""
    seen: Seen = []

    def record(_: nn.Module, clip: Tensor, keys: Tensor, level: Tensor, skip: int, strength: Tensor) -> Tensor:
        seen.append((clip, keys, strength))
        return torch.zeros(len(clip) * 2, 12, 4, 4)

    monkeypatch.setattr(stage, "error", record)
    return seen


def test_a_tenth_has_no_keyframes_and_half_of_the_others_disturbed_ones(stage: InterpolationStage, shown: Seen) -> None:
    torch.manual_seed(0)
    for seed in range(200):
        stage.loss(stage.model, np.random.default_rng(seed), 6, CPU)
    without, disturbed, count = 0, 0, 0
    for clip, keys, strength in shown:
        for one, given, strong in zip(clip[:, ::4], keys, strength, strict=True):
            count += 1
            if not given.any():
                without += 1
            elif strong > 0:
                disturbed += 1
                assert strong <= stage.worst_perturbation and not torch.equal(one, given)
            else:
                assert torch.equal(one, given)
    assert without / count == pytest.approx(0.1, abs=0.03)
    assert disturbed / (count - without) == pytest.approx(0.5, abs=0.06)


def test_figures_are_taken_with_the_keyframes_as_they_are(stage: InterpolationStage, shown: Seen) -> None:
    stage.measure(stage.model, CPU)
    assert all(torch.equal(clip[:, ::4], keys) and not strength.any() for clip, keys, strength in shown)


def test_the_masked_network_sees_the_ends_of_a_window_and_the_mask_that_says_so(folders: Folders) -> None:
    stage, seen = MaskedInterpolationStage(folders), []

    def network(frames: Tensor, *_: Tensor) -> Tensor:
        seen.append(frames)
        return torch.zeros(len(frames), 4, 4, 4)

    clip = torch.randn(2, 9, 4, 4, 4)
    stage.error(network, clip, clip[:, ::4], torch.tensor([10, 900]), 3, torch.zeros(2))  # type: ignore[arg-type]
    windows = seen[0].unflatten(0, (4, WINDOW))  # [videos * groups, 5, 9, h, w]
    given, mask = windows[:, :, 4:8], windows[:, :, 8]
    assert mask[:, [0, -1]].eq(1).all() and mask[:, 1:-1].eq(0).all()
    assert torch.equal(given[:, 0], clip[:, :-1:4].flatten(0, 1))
    assert torch.equal(given[:, -1], clip[:, 4::4].flatten(0, 1))
    assert not given[:, 1:-1].any()
