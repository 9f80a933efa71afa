"""How text encoder and keyframe U-Net are trained: words, then pictures, then video (paper sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from export.checkpoints.weights import load_half
from export.datasets.captions import caption, train_tokenizer
from export.datasets.shapes import ACTIONS, BACKGROUNDS, COLOURS, SHAPES, SIZES, Clip, sample_clip
from export.models.keyframes import KeyframeUNet
from export.models.text import TextEncoder
from export.training.latents import keyframe_clips
from export.training.linear_start import start_keyframes
from export.training.stages import CONFIG, UNCONDITIONAL, Folders, draw_levels, noised, signal_levels, velocity

ATTRIBUTES: dict[str, tuple[str | None, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "action": ACTIONS,
    "background": tuple(BACKGROUNDS),
    "size": (None, *SIZES),
}


def tokenizer_in(folders: Folders) -> Tokenizer:
    """The tokenizer beside the weights, trained first where there is none."""
    path = folders.weights / "tokenizer.json"
    if not path.exists():
        train_tokenizer(path)
    return Tokenizer.from_file(str(path))


def tokens(tokenizer: Tokenizer, captions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64 ``[B, L]``; as when sampling, one row of padding follows the longest caption."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(captions)]
    length = max(map(len, encoded)) + 1
    ids = [row + [0] * (length - len(row)) for row in encoded]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in encoded]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class ReadingText(nn.Module):
    """The text encoder and, in training only, one linear classifier for each attribute of a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder(CONFIG.text)
        nn.init.normal_(self.text.null_embedding)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(CONFIG.text.context_dim, len(words)) for name, words in ATTRIBUTES.items()}
        )

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        context, _ = self.text(ids, mask)
        mean = context.sum(1) / mask.sum(1, keepdim=True)
        return {name: head(mean) for name, head in self.heads.items()}


class TextStage:
    """The text encoder learns to read before it is frozen, as the released one was pretrained: which colour, shape,
    action, background and size a caption names, told from the mean of its context by linear classifiers.
    """

    name, steps, batch, lr = "text", 1500, 128, 3e-3

    def __init__(self, folders: Folders) -> None:
        self.tokenizer = tokenizer_in(folders)
        self.model = ReadingText()

    def answers(self, model: nn.Module, rng: np.random.Generator, batch: int, device: torch.device) -> list[Tensor]:
        """Cross-entropy and accuracy of every attribute on captions of random clips."""
        clips = [sample_clip(rng) for _ in range(batch)]
        logits = model(*tokens(self.tokenizer, [caption(clip, rng) for clip in clips], device))
        found = []
        for name, words in ATTRIBUTES.items():
            truth = torch.tensor([words.index(getattr(clip, name)) for clip in clips], device=device)
            right = (logits[name].argmax(1) == truth).float().mean()
            found.append(torch.stack((F.cross_entropy(logits[name], truth), right)))
        return found

    def loss(self, model: nn.Module, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        return torch.stack([loss for loss, _ in self.answers(model, rng, batch, device)]).sum()

    @torch.no_grad()
    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        found = self.answers(model, np.random.default_rng(99), 512, device)
        return {f"{name}_right": float(right) for name, (_, right) in zip(ATTRIBUTES, found, strict=True)}

    def exported(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {"text_encoder": model.get_submodule("text")}


class TextToVideo(nn.Module):
    """Text encoder and keyframe U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder(CONFIG.text)
        self.unet = KeyframeUNet(CONFIG.keyframes)


def level_weight(level: Tensor) -> Tensor:
    """What an error of v counts at each time index, ``[N]``: 1, and less where little noise is left.

    Where nearly all is noise, v is the clean latent, and what a clip shows is decided there. Where the signal has four
    times the power of the noise or more, an error of the clean latent counts the same at every level, so that the
    finest grain, which nobody sees, does not rule the loss (after Hang et al. 2023, min-SNR).
    """
    return (5 * (1 - signal_levels().to(level.device)[level])).clamp_max(1)


class KeyframeStage:
    """``image``: spatial layers and projection of the text on single frames, temporal blocks left out. ``keyframes``:
    the temporal blocks on clips, the rest frozen as in the paper unless ``unfreeze``. A step shows every s-th frame of
    s times as many clips, s drawn from ``strides``: whole clips (1) teach how frames hang together, lone frames that
    know their place in time (16) teach many captions where a shape stands when. The T5 part stays as the text stage
    left it, as in the release.
    """

    def __init__(self, folders: Folders, video: bool, unfreeze: bool = False, strides: Sequence[int] = (1,)) -> None:
        self.video, self.strides = video, tuple(strides) if video else (1,)
        kind = "video" if unfreeze else "keyframes"
        self.name = "_".join((kind, *[f"stride{s}" for s in self.strides if s > 1])) if video else "image"
        self.steps, self.batch, self.lr = (3000, 4, 1e-3) if video else (2500, 64, 2e-3)
        self.latents = np.load(folders.run / "keyframes.npy", mmap_mode="r")
        self.held_out = min(64, len(self.latents) // 10)
        self.clips: list[Clip] = keyframe_clips(len(self.latents))
        self.tokenizer = tokenizer_in(folders)
        self.model = TextToVideo()
        load_half(self.model.text, folders.weights / "text_encoder.safetensors")
        if video:
            load_half(self.model.unet, folders.weights / "keyframe_unet.safetensors").train()
            self.model.unet.requires_grad_(unfreeze)
        else:
            start_keyframes(self.model.unet)
        for parameter in self.model.unet.temporal_parameters():
            parameter.requires_grad_(video)
        self.model.text.requires_grad_(unfreeze or not video)
        self.model.text.encoder.requires_grad_(False)

    def context(
        self, model: nn.Module, captions: list[str], drop: Tensor, device: torch.device
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
        positions = torch.arange(count)[shown] * (CONFIG.position_range // count)
        return np.stack([self.latents[i, shown] for i in chosen]), positions

    def batch_loss(
        self, model: nn.Module, chosen: list[int], stride: int, rng: np.random.Generator, device: torch.device
    ) -> Tensor:
        rows = len(chosen)
        drop = torch.rand(rows, device=device) < UNCONDITIONAL
        context, mask = self.context(model, [caption(self.clips[i], rng) for i in chosen], drop, device)
        level, told = draw_levels(rows, device, 0.5 if self.video else 1.0)  # what moves where is decided in noise
        latents, positions = self.frames(chosen, stride, rng)
        clean = torch.from_numpy(latents.astype(np.float32)).to(device)
        noise = torch.randn_like(clean)
        x = noised(clean, noise, level)
        flat = (x.flatten(0, 1) if self.video else x).contiguous(memory_format=torch.channels_last)
        prediction = model.unet(flat, told, context, mask, None if positions is None else positions.to(device))
        error = prediction.float().reshape(clean.shape) - velocity(clean, noise, level)
        return (error.flatten(1).square().mean(1) * level_weight(level)).mean()

    def loss(self, model: nn.Module, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        stride = int(rng.choice(self.strides))
        chosen = rng.integers(self.held_out, len(self.latents), batch * stride)
        return self.batch_loss(model, [int(i) for i in np.sort(chosen)], stride, rng, device)

    @torch.no_grad()
    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            chosen = list(range(self.held_out // 4 if self.video else self.held_out))
            return {"held_out": float(self.batch_loss(model, chosen, 1, np.random.default_rng(7), device))}

    def exported(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {"text_encoder": model.text, "keyframe_unet": model.unet}
