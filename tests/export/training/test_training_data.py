"""What a stage of training shows its network: which clips, how noisy, how disturbed, how often without a condition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from export.training.loop import update_average
from export.training.stages import TIME_SLACK, TRAIN_STEPS, draw_levels

CPU = torch.device("cpu")


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
