"""Which noise levels training shows, what an error counts at each, and the levels at which a network is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from export.training.stages import TIME_SLACK, TRAIN_STEPS, draw_levels, signal_levels

MEASURED = (30, 100, 200, 300, 500, 650, 800, 950)
"""Time indices of the one-step table; outlines and sizes are decided between 300 and 800."""


@dataclass(frozen=True)
class LevelDraw:
    """How time indices are drawn and errors of v are weighed.

    ``kind``: "uniform" in time; "root" draws 1000 sqrt(u), as many of a level as its time is high; "log-normal" draws
    ln sigma from a normal distribution of ``mean`` and ``deviation``, where sigma is noise over signal (Karras et al.
    2022, section 5). ``damped`` lets errors count less where little noise is left (:func:`level_weight`).
    """

    kind: Literal["uniform", "root", "log-normal"] = "uniform"
    damped: bool = True
    mean: float = 0.0
    deviation: float = 1.5

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Time indices int64 ``[count]``, spread over the distribution, and the times that the model is told."""
        if self.kind != "log-normal":
            return draw_levels(count, device, 0.5 if self.kind == "root" else 1.0)
        spread = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
        log_sigma = self.mean + self.deviation * 2**0.5 * torch.erfinv(2 * spread - 1)
        level = torch.searchsorted(log_sigmas().to(device), log_sigma).clamp_max(TRAIN_STEPS - 1)
        return level, (level - torch.rand(count, device=device) * TIME_SLACK).clamp_min(0)

    def weight(self, level: Tensor) -> Tensor:
        """What an error of v counts at each time index, ``[count]``."""
        return level_weight(level) if self.damped else torch.ones_like(level, dtype=torch.float32)


def log_sigmas() -> Tensor:
    """ln(noise / signal) of the 1000 levels, rising, ``[1000]``."""
    levels = signal_levels().double()
    return (0.5 * ((1 - levels) / levels).log()).float()


def level_weight(level: Tensor) -> Tensor:
    """What an error of v counts at each time index, ``[N]``: 1, and less where little noise is left.

    Where nearly all is noise, v is the clean latent, and what a clip shows is decided there. Where the signal has four
    times the power of the noise or more, an error of the clean latent counts the same at every level, so that the
    finest grain, which nobody sees, does not rule the loss (after Hang et al. 2023, min-SNR).
    """
    return (5 * (1 - signal_levels().to(level.device)[level])).clamp_max(1)
