"""How the two interpolation networks are trained: the group model (paper section 4.2) and its masked baseline.

Both see the same clips, skips, noise levels and disturbances, and start from the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from export.models.configs import PRESETS, UNetConfig
from export.models.interpolation import InterpolationUNet, UntextedInterpolationUNet
from export.training.interpolation_start import start_interpolation, start_masked
from export.training.latents import SKIPS
from export.training.stages import UNCONDITIONAL, Folders, draw_levels, multiscale, noised, signal_levels, velocity

CONFIG = PRESETS["demo"]
WINDOW = 5
"""Frames that the masked network sees at once: two given, three missing."""


class InterpolationStage:
    """v-prediction, s in 1..12, disturbed keyframes, 10 % without keyframes; a clip is one example of 4 groups."""

    name, steps, batch, lr = "interpolation", 600, 6, 1e-6  # more would undo the start
    worst_perturbation = 250
    start: Callable[[UntextedInterpolationUNet, Tensor, float], None] = staticmethod(start_interpolation)
    unet: UNetConfig = CONFIG.interpolation

    def __init__(self, folders: Folders) -> None:
        unet = InterpolationUNet(self.unet)
        for name, parameter in unet.named_parameters():
            if name.endswith("group_conv.merge"):  # nothing is frozen here, so it may take part from the start
                nn.init.constant_(parameter, 0.5)
            elif "group_conv.conv.weight" in name:
                nn.init.kaiming_uniform_(parameter, a=5**0.5)
        self.model = UntextedInterpolationUNet(unet, torch.randn(self.unet.context_dim))
        self.latents = {skip: np.load(folders.run / f"interpolation_{skip:02}.npy", mmap_mode="r") for skip in SKIPS}
        power = float(np.square(self.latents[3][:16], dtype=np.float32).mean())
        self.start(self.model, signal_levels(), power)
        self.held_out = 16
        chance = np.array([{3: 6.0, 1: 4.0}.get(skip, 1.0) for skip in SKIPS])
        self.chance = chance / chance.sum()

    def error(
        self, model: UntextedInterpolationUNet, clip: Tensor, keys: Tensor, level: Tensor, skip: int, strength: Tensor
    ) -> Tensor:
        """What v is off, three frames of every group ``[B*G, 12, h, w]``.

        ``clip`` ``[B, 4G+1, 4, h, w]``, its keyframes as the network gets them ``keys`` ``[B, G+1, 4, h, w]``, noise
        ``level`` and ``strength`` of the disturbance ``[B]``.
        """
        groups = keys.shape[1] - 1
        middle = missing(clip)  # [B, G, 12, h, w]
        noise = torch.randn_like(middle)
        x = torch.cat((keys[:, :-1], noised(middle, noise, level), keys[:, 1:]), dim=2).flatten(0, 1)
        skips = torch.full((groups,), skip, device=clip.device)
        perturbation = strength.repeat_interleave(groups)
        prediction: Tensor = model(x.contiguous(memory_format=torch.channels_last), level, skips, perturbation)
        error: Tensor = prediction.float() - velocity(middle, noise, level).flatten(0, 1)
        return error

    def batch_loss(
        self, model: UntextedInterpolationUNet, runs: np.ndarray, skip: int, disturb: bool, device: torch.device
    ) -> Tensor:
        """The loss of runs `[B, 4G+1, 4, h, w]` at one skip value, with keyframes disturbed or as they are."""
        clip = torch.from_numpy(runs.astype(np.float32)).to(device)
        keys = clip[:, ::4]
        strength = torch.zeros(len(clip), device=device)
        if disturb:
            worst = torch.rand(len(clip), device=device) * self.worst_perturbation
            strength = torch.where(torch.rand(len(clip), device=device) < 0.5, worst, strength)
            keys = torch.where(
                (strength > 0).reshape(-1, 1, 1, 1, 1), noised(keys, torch.randn_like(keys), strength.long()), keys
            )
            keys = keys * (torch.rand(len(clip), device=device) >= UNCONDITIONAL).reshape(-1, 1, 1, 1, 1)
        level, _ = draw_levels(len(clip), device)
        per_group = multiscale(self.error(model, clip, keys, level, skip, strength))
        return per_group.clamp_min(1e-6).log().mean().exp()

    def loss(
        self, model: UntextedInterpolationUNet, rng: np.random.Generator, batch: int, device: torch.device
    ) -> Tensor:
        """The loss of a fresh batch that `rng` draws."""
        skip = int(rng.choice(list(SKIPS), p=self.chance))
        pool = self.latents[skip]
        return self.batch_loss(model, pool[np.sort(rng.integers(self.held_out, len(pool), batch))], skip, True, device)

    @torch.no_grad()
    def measure(self, model: UntextedInterpolationUNet, device: torch.device) -> dict[str, float]:
        """Figures on held-out data, by name."""
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return {
                f"held_out_s{skip}": float(
                    self.batch_loss(model, self.latents[skip][: self.held_out], skip, False, device)
                )
                for skip in (1, 3)
            }

    def exported(self, model: UntextedInterpolationUNet) -> Mapping[str, nn.Module]:
        """The trained networks, by the name of their graph."""
        return {f"{self.name}_unet": model}


class MaskedInterpolationStage(InterpolationStage):
    """The baseline: every group becomes a window of 5 frames, all of them noised, with what is given and a mask."""

    name = "masked_interpolation"
    start = staticmethod(start_masked)
    unet = cast(UNetConfig, CONFIG.masked_interpolation)  # the demo has one

    def error(
        self, model: UntextedInterpolationUNet, clip: Tensor, keys: Tensor, level: Tensor, skip: int, strength: Tensor
    ) -> Tensor:
        """What v is off, all five frames of every window ``[B*G, 20, h, w]``."""
        groups = keys.shape[1] - 1
        clean = torch.cat((clip[:, :-1:4], missing(clip), clip[:, 4::4]), dim=2)  # [B, G, 20, h, w]
        noise = torch.randn_like(clean)
        x = noised(clean, noise, level).unflatten(2, (WINDOW, -1))
        given, mask = torch.zeros_like(x), torch.zeros_like(x[:, :, :, :1])
        given[:, :, 0], given[:, :, -1] = keys[:, :-1], keys[:, 1:]
        mask[:, :, :: WINDOW - 1] = 1
        frames = torch.cat((x, given, mask), dim=3).flatten(0, 2)  # [B*G*5, 9, h, w]
        times, perturbation = level.repeat_interleave(groups), strength.repeat_interleave(groups * WINDOW)
        skips = torch.full((WINDOW,), skip, device=clip.device)
        prediction: Tensor = model(frames.contiguous(memory_format=torch.channels_last), times, skips, perturbation)
        error: Tensor = prediction.float().reshape(-1, *clean.shape[2:]) - velocity(clean, noise, level).flatten(0, 1)
        return error


def missing(clip: Tensor) -> Tensor:
    """The three frames between neighbouring keyframes of ``[B, 4G+1, 4, h, w]``: ``[B, G, 12, h, w]``."""
    middle: Tensor = clip[:, :-1].unflatten(1, (-1, 4))[:, :, 1:].flatten(2, 3)
    return middle
