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
    """How large a residual can be, ``[B, G, 1, 1, 1]``: of right keyframes minus left, what is given, and s ``[G]``."""
    rms = difference.square().mean((2, 3, 4), keepdim=True).sqrt()
    blank = given.square().mean((2, 3, 4), keepdim=True) == 0
    size = torch.where(blank, torch.full_like(rms, BLANK), 0.5 * rms + LEAST)
    return size * skip_frames.to(rms.dtype).reshape(1, -1, 1, 1, 1) / SLOWEST


def velocity_of(clean: Tensor, noised: Tensor, time: Tensor) -> Tensor:
    """V of clean and noised frames ``[B*G, C, h, w]`` at times ``[B]``."""
    level = alpha_bar(time).reshape(-1, 1, 1, 1, 1)
    velocity = (level.sqrt() * by_row(noised, time) - by_row(clean, time)) / (1 - level).sqrt()
    return velocity.reshape(clean.shape)


class ResidualInterpolation(UntextedInterpolationUNet):
    """Group interpolation; weights, inputs and output are those of `UntextedInterpolationUNet`."""

    def clean(self, x: Tensor, time: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """The clean estimate of the three frames of each group, ``[B*G, 12, h, w]``."""
        groups = by_row(x, time)
        left, right = groups[:, :, :KEY], groups[:, :, -KEY:]
        linear = torch.cat([left + (right - left) * share for share in SHARES], dim=2)
        size = residual_size(right - left, groups[:, :, [*range(KEY), *range(-KEY, 0)]], skip_frames)
        residual = super().forward(x, time, skip_frames, perturbation)
        return (linear + size * residual.to(linear.dtype).reshape(linear.shape)).reshape(residual.shape)

    def forward(self, x: Tensor, time: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """V of the three frames of each group, ``[B*G, 12, h, w]``."""
        return velocity_of(self.clean(x, time, skip_frames, perturbation), x[:, KEY:-KEY], time)


class ResidualMasked(UntextedInterpolationUNet):
    """Masked interpolation: windows of F frames ``[B*F, 9, h, w]``, each x 4, given 4 and a mask."""

    def __init__(self, unet: InterpolationUNet, null_embedding: Tensor) -> None:
        super().__init__(unet, null_embedding)
        self.register_buffer("blending", kernel([*SHARES, 1.0, *SHARES[::-1]]), persistent=False)
        self.register_buffer("difference", kernel([-1.0, -1.0, -1.0, 0.0, 1.0, 1.0, 1.0]), persistent=False)

    def clean(self, x: Tensor, time: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """The clean estimate of every frame, ``[B*F, 4, h, w]``."""
        given = by_row(x[:, KEY : 2 * KEY], time)
        linear = along_time(given, self.get_buffer("blending"))
        size = residual_size(along_time(given, self.get_buffer("difference")), linear, skip_frames)
        residual = super().forward(x, time, skip_frames, perturbation)
        return (linear + size * residual.to(linear.dtype).reshape(linear.shape)).reshape(residual.shape)

    def forward(self, x: Tensor, time: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """V of every frame, ``[B*F, 4, h, w]``."""
        return velocity_of(self.clean(x, time, skip_frames, perturbation), x[:, :KEY], time)


def by_row(x: Tensor, time: Tensor) -> Tensor:
    """``[B*G, ...]`` as ``[B, G, ...]``.

    What groups or rows share is multiplied as ``[B, 1, ...]`` or ``[1, G, ...]``: a part of the graph that runs once
    per request is given one skip value for all groups (`graphs.optimise`).
    """
    return x.reshape(time.shape[0], -1, *x.shape[1:])


def kernel(weights: list[float]) -> Tensor:
    """A convolution over 7 neighbouring frames, ``[1, 1, 7, 1]``."""
    return torch.tensor(weights).reshape(1, 1, -1, 1)


def along_time(given: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums over neighbouring frames of ``[B, F, 4, h, w]``: of what is given, zero elsewhere."""
    flat = given.flatten(2).unsqueeze(1)
    return F.conv2d(flat, weights.to(flat.dtype), padding=(3, 0)).reshape(given.shape)
