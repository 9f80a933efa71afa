"""Convolutions by which a MoVQ decoder sees a clip (paper section 4.3, Table 3; released `kandinsky_video/movq.py`).

A clip is the batch of one call: its T frames are `[T, C, h, w]` and nothing is cut along time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClipConv(nn.Conv3d):
    """3-D convolution of a clip: `[T, C, h, w]` -> `[T, C', h, w]`."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x.transpose(0, 1).unsqueeze(0))  # [1, C, T, h, w]
        return out.squeeze(0).transpose(0, 1)


class TimeConv(nn.Conv2d):
    """A (k, 1, 1) convolution of a clip, `[T, C, h, w]` -> `[T, C', h, w]`, as (k, 1) over frames and pixels."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x.flatten(2).transpose(0, 1).unsqueeze(0))  # [1, C, T, h*w]
        return out.squeeze(0).transpose(0, 1).unflatten(2, x.shape[2:])


def conv_over_clip(channels: int, kernel: tuple[int, int, int], padding: tuple[int, int, int]) -> nn.Module:
    """The convolution of a released kernel: `TimeConv` where it spans one pixel, `ClipConv` elsewhere."""
    if kernel[1:] == (1, 1):
        return TimeConv(channels, channels, (kernel[0], 1), padding=(padding[0], 0))
    return ClipConv(channels, channels, kernel, padding=padding)


class TemporalConv(nn.Module):
    """A convolution over the clip merged with its input by a learned factor: `(1 - a) x + a conv(x)`, a = 0 at first.

    `[T, C, h, w]` -> the same shape.
    """

    def __init__(self, channels: int, kernel: tuple[int, int, int], padding: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv = conv_over_clip(channels, kernel, padding)
        self.merge = nn.Parameter(torch.zeros(1))
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.merge) * x + self.merge * self.conv(x)
