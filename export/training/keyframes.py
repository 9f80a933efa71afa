"""How the keyframe U-Net is trained: pictures, then video (paper sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.checkpoints.weights import load_half
from export.datasets.demo import DEMO
from export.datasets.domain import Domain
from export.errors import OptionError
from export.models.configs import PRESETS, TextConfig, UNetConfig
from export.models.keyframes import KeyframeUNet
from export.models.text import TextEncoder
from export.training.latents import keyframe_latents, picture_latents
from export.training.levels import MEASURED, LevelDraw
from export.training.linear_start import start_keyframes
from export.training.stages import CONFIG, UNCONDITIONAL, Folders, noised, velocity
from export.training.text import tokenizer_in, tokens

UNIFORM = LevelDraw()
MEASURED_CLIPS = 12
MEASURED_FRAMES = 192


class TextToVideo(nn.Module):
    """Text encoder and keyframe U-Net."""

    def __init__(self, unet: UNetConfig = CONFIG.keyframes, text: TextConfig = CONFIG.text) -> None:
        super().__init__()
        self.text = TextEncoder(text)
        self.unet = KeyframeUNet(unet)


@dataclass(frozen=True)
class Lesson:
    """What a stage of training shows the keyframe U-Net, and which of its layers learn from it.

    ``layers``: "spatial" learns from single frames, temporal blocks left out; "temporal" from clips with all else
    frozen, as in the paper; "all" from clips. A step shows every s-th frame of s times as many clips, s drawn from
    ``strides``: whole clips (1) teach how frames hang together, lone frames that know their place in time (16) teach
    many captions where a shape stands when. ``clips`` is how many clips, or pictures, are drawn from.
    """

    name: str
    layers: str
    clips: int
    strides: tuple[int, ...] = (1,)
    levels: LevelDraw = UNIFORM
    steps: int = 3000
    batch: int = 4
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if self.layers not in ("spatial", "temporal", "all"):
            raise OptionError(f"layers: expected spatial, temporal or all, got {self.layers!r}")


IMAGE = Lesson("image", "spatial", 8000, steps=3000, batch=64, lr=2e-3)


def clip_lesson(unfreeze: bool, strides: Sequence[int]) -> Lesson:
    """Clips at the levels where most is decided; checkpoints are named after what is trained and the strides."""
    parts = ["video" if unfreeze else "keyframes", *[f"stride{s}" for s in strides if s > 1]]
    layers = "all" if unfreeze else "temporal"
    return Lesson("_".join(parts), layers, 8000, tuple(strides), LevelDraw("root"))


class KeyframeStage:
    """One lesson of the keyframe U-Net. The T5 part stays as the text stage left it, as in the release."""

    def __init__(
        self, folders: Folders, lesson: Lesson, unet: UNetConfig | None = None, domain: Domain[Any] = DEMO
    ) -> None:
        self.lesson, self.name, self.domain = lesson, lesson.name, domain
        self.config = PRESETS[domain.preset]
        self.steps, self.batch, self.lr = lesson.steps, lesson.batch, lesson.lr
        self.video = lesson.layers != "spatial"
        if self.video:
            self.latents, self.clips = (
                keyframe_latents(folders.run, lesson.clips),
                domain.dealt("keyframes", lesson.clips),
            )
        else:
            self.latents, self.clips = (
                picture_latents(folders.run, lesson.clips),
                domain.dealt("pictures", lesson.clips),
            )
        self.held_out: NDArray[np.float16] = np.load(folders.run / "held_out.npy")
        self.held_out_clips = domain.dealt("held_out", len(self.held_out))
        self.tokenizer = tokenizer_in(folders, domain)
        self.model = TextToVideo(self.config.keyframes if unet is None else unet, self.config.text)
        load_half(self.model.text, folders.weights / "text_encoder.safetensors")
        if self.video:
            load_half(self.model.unet, folders.weights / "keyframe_unet.safetensors").train()
            self.model.unet.requires_grad_(lesson.layers == "all")
        else:
            start_keyframes(self.model.unet)
        for parameter in self.model.unet.temporal_parameters():
            parameter.requires_grad_(self.video)
        self.model.text.requires_grad_(lesson.layers != "temporal")
        self.model.text.encoder.requires_grad_(False)

    def context(
        self, model: TextToVideo, captions: list[str], drop: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """``[B, L, D]`` and its mask; rows where ``drop`` is true become the null row."""
        ids, mask = tokens(self.tokenizer, captions, device)
        context, null = model.text(ids, mask)
        null_row = torch.cat((null[None], context.new_zeros(ids.shape[1] - 1, context.shape[-1])))
        only_first = torch.arange(ids.shape[1], device=device) == 0
        return torch.where(drop[:, None, None], null_row, context), torch.where(drop[:, None], only_first, mask.bool())

    def frames(self, chosen: list[int], stride: int, rng: np.random.Generator) -> tuple[np.ndarray, Tensor | None]:
        """Clean latents ``[B, T, 4, h, w]`` and where the T frames stand, or ``[B, 4, h, w]`` and None."""
        count = self.latents.shape[1]
        if not self.video:
            moments = rng.integers(0, count, len(chosen))
            return np.stack([self.latents[i, t] for i, t in zip(chosen, moments, strict=True)]), None
        shown = slice(int(rng.integers(stride)), count, stride)
        positions = torch.arange(count)[shown] * (self.config.position_range // count)
        return np.stack([self.latents[i, shown] for i in chosen]), positions

    def errors(
        self,
        model: TextToVideo,
        clean: Tensor,
        levels: tuple[Tensor, Tensor],
        text: tuple[Tensor, Tensor],
        positions: Tensor | None,
    ) -> Tensor:
        """Mean squared error of v of every row, ``[B]``.

        ``clean`` is ``[B, (T,) 4, h, w]``, ``levels`` what was drawn and what is told, ``text`` context and mask.
        """
        level, told = levels
        noise = torch.randn_like(clean)
        x = noised(clean, noise, level)
        flat = (x.flatten(0, 1) if self.video else x).contiguous(memory_format=torch.channels_last)
        prediction = model.unet(flat, told, *text, None if positions is None else positions.to(clean.device))
        error: Tensor = prediction.float().reshape(clean.shape) - velocity(clean, noise, level)
        return error.flatten(1).square().mean(1)

    def batch_loss(
        self, model: TextToVideo, chosen: list[int], stride: int, rng: np.random.Generator, device: torch.device
    ) -> Tensor:
        """The weighed error of v of these clips, with captions, levels and noise drawn anew."""
        rows = len(chosen)
        drop = torch.rand(rows, device=device) < UNCONDITIONAL
        text = self.context(model, [self.domain.caption(self.clips[i], rng) for i in chosen], drop, device)
        level, told = self.lesson.levels.draw(rows, device)
        latents, positions = self.frames(chosen, stride, rng)
        clean = torch.from_numpy(latents.astype(np.float32)).to(device)
        errors = self.errors(model, clean, (level, told), text, positions)
        return (errors * self.lesson.levels.weight(level)).mean()

    def loss(self, model: TextToVideo, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        """The loss of one step: ``batch`` clips or pictures, or as many frames of more clips."""
        stride = int(rng.choice(self.lesson.strides))
        chosen = rng.integers(len(self.clips), size=batch * stride)
        return self.batch_loss(model, [int(i) for i in np.sort(chosen)], stride, rng, device)

    @torch.no_grad()
    def measure(self, model: TextToVideo, device: torch.device) -> dict[str, float]:
        """The one-step table: mean squared error of v on held-out clips (or frames) by time index, as ``v650``."""
        if self.video:
            latents, clips = self.held_out[:MEASURED_CLIPS], self.held_out_clips[:MEASURED_CLIPS]
        else:  # another moment of each, so that all angles come
            moments = [(i % len(self.held_out), 7 * i % self.held_out.shape[1]) for i in range(MEASURED_FRAMES)]
            latents = np.stack([self.held_out[i, t] for i, t in moments])
            clips = [self.held_out_clips[i] for i, _ in moments]
        positions = torch.arange(latents.shape[1]) * (self.config.position_range // latents.shape[1])
        size = 4 if self.video else 64
        found = {}
        with torch.random.fork_rng():
            torch.manual_seed(7)
            for time in MEASURED:
                errors = []
                for first in range(0, len(clips), size):
                    rows = slice(first, first + size)
                    clean = torch.from_numpy(latents[rows].astype(np.float32)).to(device)
                    keep = torch.zeros(len(clean), dtype=torch.bool, device=device)
                    text = self.context(model, [self.domain.canonical(clip) for clip in clips[rows]], keep, device)
                    level = torch.full((len(clean),), time, device=device)
                    shown = (level, level.float())
                    errors.append(self.errors(model, clean, shown, text, positions if self.video else None))
                found[f"v{time}"] = float(torch.cat(errors).mean())
        return found

    def exported(self, model: TextToVideo) -> Mapping[str, nn.Module]:
        """What a bundle takes of the model."""
        return {"text_encoder": model.text, "keyframe_unet": model.unet}
