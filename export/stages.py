"""How the autoencoder and the keyframe model are trained and measured (paper sections 4 and 5), and what all stages
share."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from export.captions import caption, train_tokenizer
from export.configs import PRESETS
from export.keyframe_unet import KeyframeUNet
from export.latents import keyframe_clips
from export.linear_start import start_keyframes
from export.movq import MoVQ
from export.shapes import render, sample_clip
from export.text_encoder import TextEncoder
from export.weights import load_half

CONFIG = PRESETS["demo"]
TRAIN_STEPS = 1000
UNCONDITIONAL = 0.1
TIME_SLACK = 20
"""The released sampler calls the noise level of step i of S by the time i * (1000 // S), up to 1000 / S too clean.
Training names levels up to this much too clean as well, so that both conventions find a model that knows them."""


class Stage(Protocol):
    """One stage: a model, its loss on a fresh batch, and figures on held-out data."""

    name: str
    model: nn.Module
    steps: int
    batch: int
    lr: float

    def loss(self, model: nn.Module, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor: ...
    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]: ...
    def exported(self, model: nn.Module) -> Mapping[str, nn.Module]: ...


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


def draw_levels(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Time indices ``[count]``, spread evenly, and the times that the model is told, ``[count]``."""
    spread = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
    level = (spread * TRAIN_STEPS).long().clamp_max(TRAIN_STEPS - 1)
    told = (level - torch.rand(count, device=device) * TIME_SLACK).clamp_min(0)
    return level, told


def noise_weight(level: Tensor) -> Tensor:
    """What an error of the predicted noise counts at each time index, ``[N]``.

    What a frame shows is decided where nearly all is noise, and there an error of the noise is one of the clean latent
    1 / sqrt(a) times as large: a plain mean of 0.005 at time 930 is a latent that is 0.4 off in mean square. So errors
    count by 1 / a there, as in a loss on v (Salimans & Ho 2022), and less where hardly any noise is left to find.
    """
    alpha_bar = signal_levels().to(level.device)[level]
    return (1 - alpha_bar).sqrt() / (alpha_bar + 0.01)


MULTISCALE_SHARE = 0.05


def multiscale(error: Tensor) -> Tensor:
    """Mean squared error per item ``[N]`` of ``[N, C, h, w]``, at full, quarter and whole-frame resolution.

    A frame's mean is one number among h*w, so that a plain mean hardly notices a wrong background colour; averaging
    white noise over p x p cells divides its variance by p^2, and the weights give a share of that back (after the
    multiscale loss of Hoogeboom et al. 2023).
    """
    loss = error.square().flatten(1).mean(1)
    for cell in (4, error.shape[-1]):
        loss = loss + MULTISCALE_SHARE * cell * cell * F.avg_pool2d(error, cell).square().flatten(1).mean(1)
    return loss


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB, for values in -1..1."""
    error = (a.float().clamp(-1, 1) - b.float()).square().flatten(1).mean(1)
    return float((10 * torch.log10(4.0 / error.clamp_min(1e-10))).mean())


class MoVQStage:
    """Autoencoder. The latent is held inside -1..1, where the samplers' threshold (paper section 3) leaves it alone,
    and gets a little noise in training, so that the decoder forgives what the U-Nets leave over."""

    name, steps, batch, lr = "movq", 3000, 8, 2e-3
    noise = 0.05

    def __init__(self, run: Path, weights: Path, unfreeze: bool) -> None:
        self.model = MoVQ(CONFIG.movq)

    @staticmethod
    def frames(rng: np.random.Generator, count: int) -> Tensor:
        """``count`` clips, one random moment of each: ``[count, 3, 128, 128]`` in -1..1."""
        return torch.cat([render(sample_clip(rng), rng.uniform(0.0, 7.5, 1)) for _ in range(count)])

    def loss(self, model: nn.Module, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        image = self.frames(rng, batch).to(device).contiguous(memory_format=torch.channels_last)
        latent = model.encoder(image)
        outside = F.relu(latent.float().abs() - 0.95).square().mean()
        noisy = latent + self.noise * torch.randn_like(latent)
        return F.mse_loss(model.decoder(noisy).float(), image) + outside

    @torch.no_grad()
    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        image = self.frames(np.random.default_rng(99), 32).to(device)
        latent, decoded = model(image)
        return {"psnr_db": psnr(decoded, image), "latent_std": float(latent.std())}

    def exported(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {"movq_encoder": model.encoder, "movq_decoder": model.decoder}


class TextToVideo(nn.Module):
    """Text encoder and keyframe U-Net, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder(CONFIG.text)
        self.unet = KeyframeUNet(CONFIG.keyframes)


class KeyframeStage:
    """``image``: text encoder and spatial layers on single frames, temporal blocks left out. ``keyframes``: the
    temporal blocks on whole clips, the rest frozen as in the paper, or trained along with ``--unfreeze``."""

    def __init__(self, run: Path, weights: Path, unfreeze: bool, video: bool) -> None:
        self.video = video
        self.name = ("video" if unfreeze else "keyframes") if video else "image"
        self.steps, self.batch, self.lr = (3000, 4, 1e-3) if video else (2500, 64, 2e-3)
        latents = np.load(run / "keyframes.npy", mmap_mode="r")
        self.held_out = min(64, len(latents) // 10)
        self.latents, self.clips = latents, keyframe_clips(len(latents))
        tokenizer = weights / "tokenizer.json"
        if not tokenizer.exists():
            train_tokenizer(tokenizer)
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        self.model = TextToVideo()
        if video:
            load_half(self.model.text, weights / "text_encoder.safetensors").train()
            load_half(self.model.unet, weights / "keyframe_unet.safetensors").train()
            self.model.requires_grad_(unfreeze)
            for parameter in self.model.unet.temporal_parameters():
                parameter.requires_grad_(True)
        else:
            start_keyframes(self.model.unet)
            for parameter in self.model.unet.temporal_parameters():
                parameter.requires_grad_(False)

    def context(
        self, model: nn.Module, captions: list[str], drop: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """``[B, L, D]`` and its mask; rows where ``drop`` is true become the null row."""
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch(captions)]
        length = max(map(len, encoded)) + 1
        ids = torch.tensor([row + [0] * (length - len(row)) for row in encoded], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in encoded], device=device)
        context, null = model.text(ids, mask)
        null_row = torch.cat((null[None], context.new_zeros(length - 1, context.shape[-1])))
        only_first = torch.arange(length, device=device) == 0
        return torch.where(drop[:, None, None], null_row, context), torch.where(drop[:, None], only_first, mask.bool())

    def batch_loss(self, model: nn.Module, chosen: list[int], rng: np.random.Generator, device: torch.device) -> Tensor:
        rows = len(chosen)
        drop = torch.rand(rows, device=device) < UNCONDITIONAL
        context, mask = self.context(model, [caption(self.clips[i], rng) for i in chosen], drop, device)
        level, told = draw_levels(rows, device)
        if self.video:
            clean = torch.from_numpy(self.latents[chosen].astype(np.float32)).to(device)  # [B, T, 4, h, w]
            positions = torch.arange(clean.shape[1], device=device) * (180 // clean.shape[1])
        else:
            moments = rng.integers(0, self.latents.shape[1], rows)
            picked = np.stack([self.latents[i, t] for i, t in zip(chosen, moments, strict=True)]).astype(np.float32)
            clean, positions = torch.from_numpy(picked).to(device), None
        noise = torch.randn_like(clean)
        x = noised(clean, noise, level)
        flat = x.flatten(0, 1) if self.video else x
        prediction = model.unet(flat.contiguous(memory_format=torch.channels_last), told, context, mask, positions)
        error = (prediction.float() - noise.reshape(prediction.shape)).reshape(rows, -1).square().mean(1)
        return (error * noise_weight(level)).mean()

    def loss(self, model: nn.Module, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        chosen = rng.integers(self.held_out, len(self.latents), batch)
        return self.batch_loss(model, [int(i) for i in np.sort(chosen)], rng, device)

    @torch.no_grad()
    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            count = self.held_out // 4 if self.video else self.held_out
            return {"held_out": float(self.batch_loss(model, list(range(count)), np.random.default_rng(7), device))}

    def exported(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {"text_encoder": model.text, "keyframe_unet": model.unet}
