"""What all training stages share (paper sections 3 to 5), and the first of them: the autoencoder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.datasets.demo import DEMO
from export.datasets.domain import Domain, seconds_of
from export.models.configs import PRESETS
from export.models.movq import MoVQ

CONFIG = PRESETS["demo"]
TRAIN_STEPS = 1000
UNCONDITIONAL = 0.1
TIME_SLACK = 20
"""The released sampler calls the noise level of step i of S by the time i * (1000 // S), up to 1000 / S too clean.
Training names levels up to this much too clean as well, so that both conventions find a model that knows them."""


@dataclass(frozen=True)
class Folders:
    """``run``: checkpoints and latents; ``weights``: what earlier stages left and this one leaves."""

    run: Path
    weights: Path


M = TypeVar("M", bound=nn.Module)
"""The model of a stage."""


class Stage(Protocol[M]):
    """One stage: a model, its loss on a fresh batch, and figures on held-out data."""

    name: str
    model: M
    steps: int
    batch: int
    lr: float

    def loss(self, model: M, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        """The loss of a fresh batch that `rng` draws."""

    def measure(self, model: M, device: torch.device) -> dict[str, float]:
        """Figures on held-out data, by name."""

    def exported(self, model: M) -> Mapping[str, nn.Module]:
        """The trained networks, by the name of their graph."""


@functools.cache
def signal_levels() -> Tensor:
    """alpha-bar of the cosine schedule over 1000 steps, ``[1000]`` (Nichol & Dhariwal 2021, eq. 17)."""
    position = (torch.arange(TRAIN_STEPS + 1, dtype=torch.float64) / TRAIN_STEPS + 0.008) / 1.008 * torch.pi / 2
    levels = position.cos().square()
    betas = (1 - levels[1:] / levels[:-1]).clamp_max(0.999)
    return (1 - betas).cumprod(0).float()


def noised(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """``clean`` at time index ``level``, one index a row of the first axis."""
    alpha_bar = signal_levels().to(clean.device)[level].reshape(-1, *[1] * (clean.dim() - 1))
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def draw_levels(count: int, device: torch.device, power: float = 1.0) -> tuple[Tensor, Tensor]:
    """Time indices ``[count]``, spread evenly and in random order, and the times that the model is told, ``[count]``.

    The order matters: a batch may be sorted by clip, and every clip must meet every level. A ``power`` below 1 draws
    more of the noisy levels: 0.5 as many as their time is high.
    """
    spread = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    level = (spread**power * TRAIN_STEPS).long().clamp_max(TRAIN_STEPS - 1)
    told = (level - torch.rand(count, device=device) * TIME_SLACK).clamp_min(0)
    return level, told


def velocity(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """V = sqrt(a) noise - sqrt(1 - a) clean (Salimans & Ho 2022)."""
    return noised(noise, -clean, level)


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB, for values in -1..1."""
    error = (a.float().clamp(-1, 1) - b.float()).square().flatten(1).mean(1)
    return float((10 * torch.log10(4.0 / error.clamp_min(1e-10))).mean())


class MoVQStage:
    """The autoencoder.

    The latent is held inside -1..1, where the samplers' threshold (paper section 3) leaves it alone, and gets a little
    noise in training, so that the decoder forgives what the U-Nets leave over.
    """

    name, steps, batch, lr = "movq", 3000, 8, 2e-3
    noise = 0.05

    def __init__(self, folders: Folders, domain: Domain[Any] = DEMO) -> None:
        self.domain, self.config = domain, PRESETS[domain.preset]
        self.model = MoVQ(self.config.movq)

    def frames(self, rng: np.random.Generator, count: int) -> Tensor:
        """``count`` clips, one random moment of each: ``[count, 3, H, W]`` in -1..1."""
        size, end = self.config.image_size, seconds_of(self.domain)
        return torch.cat(
            [self.domain.render(self.domain.sample(rng), rng.uniform(0.0, end, 1), size) for _ in range(count)]
        )

    def held_out(self) -> Tensor:
        """Pictures to measure with, ``[32, 3, H, W]`` in -1..1."""
        return self.frames(np.random.default_rng(99), 32)

    def loss(self, model: MoVQ, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        """The loss of a fresh batch that `rng` draws."""
        image = self.frames(rng, batch).to(device).contiguous(memory_format=torch.channels_last)
        latent = model.encoder(image)
        outside = F.relu(latent.float().abs() - 0.95).square().mean()
        noisy = latent + self.noise * torch.randn_like(latent)
        return F.mse_loss(model.decoder(noisy).float(), image) + outside

    @torch.no_grad()
    def measure(self, model: MoVQ, device: torch.device) -> dict[str, float]:
        """Figures on held-out data, by name."""
        image = self.held_out().to(device)
        latent, decoded = model(image)
        return {"psnr_db": psnr(decoded, image), "latent_std": float(latent.std())}

    def exported(self, model: MoVQ) -> Mapping[str, nn.Module]:
        """The trained networks, by the name of their graph."""
        return {"movq_encoder": model.encoder, "movq_decoder": model.decoder}
