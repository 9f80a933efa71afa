"""What the group network and its masked baseline are shown of a run, and how far their estimate is from it.

Both are asked about the same runs, noise levels and keyframes; an error counts by how far it is from that of linear
blending of the keyframes as given (`export.models.residual`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from export.models.configs import PRESETS, ModelConfig, UNetConfig
from export.models.interpolation import InterpolationUNet
from export.models.residual import KEY, SHARES, ResidualInterpolation, ResidualMasked, alpha_bar
from export.training.between import Run
from export.training.linear_start import carry, pass_through

CONFIG = PRESETS["demo"]
WINDOW = 5
"""Frames that the masked network sees at once: two given, three missing."""
MEASURED_TIME = 978.7
"""The level of the one step of a one-step sampler."""


class GroupForm:
    """The paper's network: three frames between two keyframes in one row (section 4.2)."""

    name = "interpolation"
    kind: type[ResidualInterpolation] | type[ResidualMasked] = ResidualInterpolation
    signals = 5 * KEY

    def network(self, config: ModelConfig = CONFIG) -> ResidualInterpolation | ResidualMasked:
        """A fresh network of a preset, which begins at linear blending."""
        unet = self.sizes(config)
        return self.kind(start(unet, self.signals), torch.randn(unet.context_dim))

    def sizes(self, config: ModelConfig) -> UNetConfig:
        """The U-Net of this form in a preset."""
        return config.interpolation

    def shown(self, middle: Tensor, keys: Tensor, level: Tensor) -> Tensor:
        """What the network sees of runs whose frames between are ``middle`` ``[B, G, 12, h, w]``, noised to ``level``.

        ``keys`` ``[B, G+1, 4, h, w]`` are the keyframes as it gets them.
        """
        return torch.cat((keys[:, :-1], noised(middle, level), keys[:, 1:]), dim=2).flatten(0, 1)

    def estimate(
        self, model: nn.Module, middle: Tensor, keys: Tensor, time: Tensor, skip: int, strength: Tensor
    ) -> Tensor:
        """The clean estimate of the frames between, ``[B, G, 12, h, w]``; ``time`` and ``strength`` ``[B]``."""
        rows, items = self.layout(middle.shape[1])
        x = self.shown(middle, keys, alpha_bar(time)).contiguous(memory_format=torch.channels_last)
        skips = torch.full((items,), skip, device=x.device)
        each = strength.repeat_interleave(rows * items)
        found = cast(ResidualInterpolation, model).clean(x, time.repeat_interleave(rows), skips, each)
        return self.between(found.float(), middle)

    def layout(self, groups: int) -> tuple[int, int]:
        """Rows of the network for a run of so many groups, and items of each row."""
        return 1, groups

    def between(self, found: Tensor, like: Tensor) -> Tensor:
        """The frames between in what the network gives, in the shape of ``like``."""
        return found.reshape(like.shape)

    def relative(
        self, model: nn.Module, run: Run, keys: Tensor, time: Tensor, strength: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean squared errors of the frames between, of the network and of linear blending, each ``[B]``."""
        middle = missing(run.latents)
        estimate = self.estimate(model, middle, keys, time, run.skip, strength)
        return mean_square(estimate - middle), mean_square(linear(keys) - middle)

    def one_step(self, model: nn.Module, run: Run) -> tuple[Tensor, Tensor]:
        """As :meth:`relative`, in the one step of a one-step sampler, from the keyframes as they are."""
        count, device = len(run.latents), run.latents.device
        time = torch.full((count,), MEASURED_TIME, device=device)
        return self.relative(model, run, run.latents[:, ::KEY], time, torch.zeros(count, device=device))


class MaskedForm(GroupForm):
    """The baseline: every group becomes a window of 5 frames, all of them noised, with what is given and a mask."""

    name = "masked_interpolation"
    kind = ResidualMasked
    signals = 2 * KEY + 1

    def sizes(self, config: ModelConfig) -> UNetConfig:
        """The U-Net of this form in a preset."""
        return cast(UNetConfig, config.masked_interpolation)  # all that are trained here have one

    def shown(self, middle: Tensor, keys: Tensor, level: Tensor) -> Tensor:
        """Frames ``[B*G*5, 9, h, w]``: all five of each window noised, then what is given, then the mask."""
        clean = torch.cat((keys[:, :-1], middle, keys[:, 1:]), dim=2)  # [B, G, 20, h, w]
        x = noised(clean, level).unflatten(2, (WINDOW, KEY))
        given, mask = torch.zeros_like(x), torch.zeros_like(x[:, :, :, :1])
        given[:, :, 0], given[:, :, -1] = keys[:, :-1], keys[:, 1:]
        mask[:, :, :: WINDOW - 1] = 1
        return torch.cat((x, given, mask), dim=3).flatten(0, 2)

    def layout(self, groups: int) -> tuple[int, int]:
        """Rows of the network for a run of so many groups, and items of each row."""
        return groups, WINDOW

    def between(self, found: Tensor, like: Tensor) -> Tensor:
        """The frames between in what the network gives, in the shape of ``like``."""
        frames = found.reshape(*like.shape[:2], WINDOW, KEY, *like.shape[3:])
        return frames[:, :, 1:-1].reshape(like.shape)


@torch.no_grad()
def start(config: UNetConfig, signals: int) -> InterpolationUNet:
    """A network whose shortcuts carry its input to the end, and whose answer is 0: linear blending."""
    unet = InterpolationUNet(config)
    carry(unet.body, signals)
    pass_through(unet.body.in_conv, signals)
    for name, parameter in unet.named_parameters():
        if name.endswith("group_conv.merge"):  # nothing is frozen here, so it may take part from the start
            nn.init.constant_(parameter, 0.5)
        elif "group_conv.conv.weight" in name:
            nn.init.kaiming_uniform_(parameter, a=5**0.5)
        elif name == "skip_merge":
            nn.init.ones_(parameter)
        elif name.startswith("body.out_conv"):
            nn.init.zeros_(parameter)
    return unet


def noised(clean: Tensor, level: Tensor) -> Tensor:
    """``clean`` with fresh noise, at a share of signal ``level`` ``[B]`` a row."""
    share = level.reshape(-1, *[1] * (clean.dim() - 1))
    return share.sqrt() * clean + (1 - share).sqrt() * torch.randn_like(clean)


def missing(clip: Tensor) -> Tensor:
    """The three frames between neighbouring keyframes of ``[B, 4G+1, 4, h, w]``: ``[B, G, 12, h, w]``."""
    middle: Tensor = clip[:, :-1].unflatten(1, (-1, 4))[:, :, 1:].flatten(2, 3)
    return middle


def linear(keys: Tensor) -> Tensor:
    """Linear blending of keyframes ``[B, G+1, 4, h, w]``: ``[B, G, 12, h, w]``."""
    left, right = keys[:, :-1], keys[:, 1:]
    return torch.cat([left + (right - left) * share for share in SHARES], dim=2)


def mean_square(error: Tensor) -> Tensor:
    """Of every run, ``[B]``."""
    return error.flatten(1).square().mean(1)
