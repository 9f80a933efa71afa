"""Interpolation networks that say what linear blending of the keyframes leaves to say.

Between two keyframes that are near in time, what a network has to add to their linear blending is a thousandth of the
noise that it is shown: made whole by a small network, v is never that exact. So the network gives the clean frames as
linear blending plus a residual, whose size follows how far the keyframes differ and how many frames lie between them,
and v is worked out from that. All that is added is element-wise, a mean or a fixed convolution along time. The time
that is told must be the noise level of the frames (`alpha_bar`). Released networks predict v themselves (paper 4.2).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from export.models.interpolation import InterpolationUNet, UntextedInterpolationUNet
from export.models.layers import row_per_image

KEY, MIDDLE = 4, 3
"""Channels of a keyframe, and frames between two of them."""
SHARES = (0.25, 0.5, 0.75)
SLOWEST = 12.0
"""The largest skip value that is trained."""
LEAST, BLANK = 0.01, 0.5
"""Sizes of the residual between keyframes that are equal, and where none are given."""


def alpha_bar(time: Tensor) -> Tensor:
    """Share of signal at any time from -1 (all) to 999: the cosine schedule in closed form (Nichol & Dhariwal 2021)."""
    angle = ((time + 1) / 1000 + 0.008) / 1.008 * (math.pi / 2)
    level: Tensor = (angle.cos() / math.cos(0.008 / 1.008 * math.pi / 2)).square()
    return level


def residual_size(difference: Tensor, given: Tensor, skip_frames: Tensor) -> Tensor:
    """How large a residual can be, ``[N, 1, 1, 1]``: of the right keyframe minus the left, what is given, and s."""
    rms = difference.square().mean((1, 2, 3), keepdim=True).sqrt()
    blank = given.square().mean((1, 2, 3), keepdim=True) == 0
    size = torch.where(blank, torch.full_like(rms, BLANK), 0.5 * rms + LEAST)
    return size * skip_frames.to(rms.dtype).reshape(-1, 1, 1, 1) / SLOWEST


def velocity_of(clean: Tensor, noised: Tensor, level: Tensor) -> Tensor:
    """V of clean frames at a noise level ``[N, 1, 1, 1]``."""
    return (level.sqrt() * noised - clean) / (1 - level).sqrt()


class ResidualInterpolation(UntextedInterpolationUNet):
    """Group interpolation; weights, inputs and output are those of `UntextedInterpolationUNet`."""

    def clean(self, x: Tensor, time: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """The clean estimate of the three frames of each group, ``[B*G, 12, h, w]``."""
        left, right = x[:, :KEY], x[:, -KEY:]
        linear = torch.cat([left + (right - left) * share for share in SHARES], dim=1)
        size = residual_size(right - left, x[:, [*range(KEY), *range(-KEY, 0)]], per_item(skip_frames, x))
        residual = super().forward(x, time, skip_frames, perturbation)
        return linear + size * residual.to(linear.dtype)

    def forward(self, x: Tensor, time: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """V of the three frames of each group, ``[B*G, 12, h, w]``."""
        level = row_per_image(alpha_bar(time)[:, None, None, None], x.shape[0])
        return velocity_of(self.clean(x, time, skip_frames, perturbation), x[:, KEY:-KEY], level)


class ResidualMasked(UntextedInterpolationUNet):
    """Masked interpolation: windows of F frames ``[B*F, 9, h, w]``, each x 4, given 4 and a mask."""

    def __init__(self, unet: InterpolationUNet, null_embedding: Tensor) -> None:
        super().__init__(unet, null_embedding)
        self.register_buffer("blending", kernel([*SHARES, 1.0, *SHARES[::-1]]), persistent=False)
        self.register_buffer("difference", kernel([-1.0, -1.0, -1.0, 0.0, 1.0, 1.0, 1.0]), persistent=False)

    def clean(self, x: Tensor, time: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """The clean estimate of every frame, ``[B*F, 4, h, w]``."""
        given, frames = x[:, KEY : 2 * KEY], skip_frames.shape[0]
        linear = along_time(given, self.get_buffer("blending"), frames)
        difference = along_time(given, self.get_buffer("difference"), frames)
        size = residual_size(difference, linear, per_item(skip_frames, x))
        residual = super().forward(x, time, skip_frames, perturbation)
        return linear + size * residual.to(linear.dtype)

    def forward(self, x: Tensor, time: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """V of every frame, ``[B*F, 4, h, w]``."""
        level = row_per_image(alpha_bar(time)[:, None, None, None], x.shape[0])
        return velocity_of(self.clean(x, time, skip_frames, perturbation), x[:, :KEY], level)


def kernel(weights: list[float]) -> Tensor:
    """A convolution over 7 neighbouring frames, ``[1, 1, 7, 1]``."""
    return torch.tensor(weights).reshape(1, 1, -1, 1)


def along_time(given: Tensor, weights: Tensor, frames: int) -> Tensor:
    """Weighted sums over neighbouring frames of ``[B*F, 4, h, w]``: of what is given, zero elsewhere."""
    windows, (channels, height, width) = given.shape[0] // frames, given.shape[1:]
    flat = given.reshape(windows, 1, frames, channels * height * width)
    return F.conv2d(flat, weights.to(flat.dtype), padding=(3, 0)).reshape(given.shape)


def per_item(skip_frames: Tensor, x: Tensor) -> Tensor:
    """Skip values ``[G]`` for all items of ``[B*G, ...]``."""
    item, groups = torch.arange(x.shape[0], device=x.device), skip_frames.shape[0]
    return skip_frames[item - item // groups * groups]
