"""Layers shared by both U-Nets (Kandinsky 3.0's, which the paper freezes and extends; section 4.1).

Conditioning rows: a batch holds N images, its conditioning R rows, where R divides N and each row serves N / R
consecutive images (the frames of one video). Text is `[R, L, D]` and not repeated per frame, which the released code
does and which gives the same numbers; embeddings are small and become `[N, E]` once (`row_per_image`).

Batches are reshaped by sizes that are known, never by -1: an exporter with symbolic sizes must prove each guess.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.errors import ConfigError
from export.models.group_norm import modulated_group_norm

NORM_EPS = 1e-5

ConvAlong = Literal["none", "groups", "frames"]
"""Which (3, 1, 1) convolution follows each spatial one: over groups merged by a factor, or over frames added to it."""


class TimeEmbedding(nn.Module):
    """`[R]` numbers -> `[R, E]`: sinusoids, then two linear layers."""

    def __init__(self, sinusoids: int, width: int) -> None:
        super().__init__()
        self.sinusoids = sinusoids
        self.linear1 = nn.Linear(sinusoids, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        half = self.sinusoids // 2
        frequencies = torch.exp(torch.arange(half, device=time.device) * (-math.log(10000) / (half - 1)))
        angles = time.float()[:, None] * frequencies[None, :]
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1).to(self.linear1.weight.dtype)
        embedding: Tensor = self.linear2(F.silu(self.linear1(waves)))
        return embedding


def row_per_image(rows: Tensor, images: int) -> Tensor:
    """`[R, ...]` -> `[N, ...]`: each row for the N / R consecutive images that it serves."""
    return rows[torch.arange(images, device=rows.device) // (images // rows.shape[0])]


class ConditionalGroupNorm(nn.Module):
    """GroupNorm without parameters of its own; scale and shift come from an embedding `[N, E]`."""

    def __init__(self, groups: int, channels: int, embed_dim: int) -> None:
        super().__init__()
        self.groups = groups
        self.linear = nn.Linear(embed_dim, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(embedding)).unsqueeze(-1).unsqueeze(-1).chunk(2, dim=1)  # [N, C, 1, 1]
        return modulated_group_norm(x, scale, shift, self.groups, NORM_EPS, self.training)


class Attention(nn.Module):
    """Multi-head attention without biases: x `[R, n, C]`, context `[R, m, D]`, mask `[R, m]` (true = attend)."""

    def __init__(self, in_channels: int, out_channels: int, context_dim: int, head_dim: int) -> None:
        super().__init__()
        if out_channels % head_dim != 0:
            raise ConfigError(f"expected channels that are a multiple of head_dim {head_dim}, got {out_channels}")
        self.head_dim = head_dim
        self.query = nn.Linear(in_channels, out_channels, bias=False)
        self.key = nn.Linear(context_dim, out_channels, bias=False)
        self.value = nn.Linear(context_dim, out_channels, bias=False)
        self.output = nn.Linear(out_channels, out_channels, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(-3, -2)  # [..., heads, n, head_dim]

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = self.heads(self.query(x)), self.heads(self.key(context)), self.heads(self.value(context))
        scores = query @ key.transpose(-1, -2) * self.head_dim**-0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        attended = scores.softmax(dim=-1) @ value
        joined: Tensor = self.output(attended.transpose(-3, -2).flatten(-2))
        return joined


class TextPooling(nn.Module):
    """The mean of ALL text rows, padding included, asks the text one question; the answer joins the time embedding."""

    def __init__(self, embed_dim: int, context_dim: int, head_dim: int) -> None:
        super().__init__()
        self.attention = Attention(context_dim, embed_dim, context_dim, head_dim)

    def forward(self, time_embed: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        return time_embed + self.answer(context, mask)

    def answer(self, context: Tensor, mask: Tensor) -> Tensor:
        """`[R, E]`, which the time embedding has no part in."""
        pooled: Tensor = self.attention(context.mean(dim=1, keepdim=True), context, mask)  # [R, 1, E]
        return pooled.squeeze(1)


class FeedForward(nn.Module):
    """Per-pixel MLP as two 1x1 convolutions without biases."""

    def __init__(self, channels: int, expansion_ratio: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, expansion_ratio * channels, 1, bias=False)
        self.conv2 = nn.Conv2d(expansion_ratio * channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.silu(self.conv1(x)))
        return out


class AttentionBlock(nn.Module):
    """Norm, attention, residual; norm, feed-forward, residual.

    Without a context it is self-attention within one image, with one cross-attention to the text.
    """

    def __init__(
        self, channels: int, embed_dim: int, context_dim: int | None, groups: int, head_dim: int, expansion_ratio: int
    ) -> None:
        super().__init__()
        self.in_norm = ConditionalGroupNorm(groups, channels, embed_dim)
        self.attention = Attention(channels, channels, channels if context_dim is None else context_dim, head_dim)
        self.out_norm = ConditionalGroupNorm(groups, channels, embed_dim)
        self.feed_forward = FeedForward(channels, expansion_ratio)

    def forward(
        self, x: Tensor, time_embed: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return self.feed(self.attend(x, time_embed, context, mask), time_embed)

    def attend(
        self, x: Tensor, time_embed: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The first half: norm, attention, residual."""
        tokens = self.in_norm(x, time_embed).flatten(2).transpose(1, 2)  # [N, h*w, C]
        if context is None:
            attended = self.attention(tokens, tokens)
        else:  # the pixels of all images of a row ask together, so that keys and values are made once a row
            (images, pixels, channels), rows = tokens.shape, context.shape[0]
            together = tokens.reshape(rows, images // rows * pixels, channels)
            attended = self.attention(together, context, mask).reshape(tokens.shape)
        return x + attended.transpose(1, 2).reshape(x.shape)

    def feed(self, x: Tensor, time_embed: Tensor) -> Tensor:
        """The second half: norm, feed-forward, residual."""
        return x + self.feed_forward(self.out_norm(x, time_embed))


class GroupConv(nn.Module):
    """Convolution (3, 1, 1) along the sequence of groups, merged with its input by a learned factor (paper eq. 3).

    `[B*G, C, h, w]`, group fastest; a kernel (3, 1) over the view `[B, C, G, h*w]` is the same convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = zero_conv_over_time(channels)
        self.merge = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, groups: int, mask: Tensor | None = None) -> Tensor:
        """`mask` `[B*G]` scales the factor of every group: 0 leaves it alone."""
        return merged(x, conv_over_time(self.conv, x, groups), self.merge, mask)


def merged(x: Tensor, new: Tensor, merge: Tensor, mask: Tensor | None) -> Tensor:
    """`(1 - m) x + m new` for `[N, C, h, w]`; m is `merge` `[1]`, times `mask` `[N]` if there is one."""
    share = merge if mask is None else (merge * mask).reshape(-1, 1, 1, 1)
    return (1 - share) * x + share * new


def zero_conv_over_time(channels: int) -> nn.Conv2d:
    """A (3, 1) convolution that starts at zero, for `conv_over_time`."""
    conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def conv_over_time(conv: nn.Conv2d, x: Tensor, frames: int) -> Tensor:
    """Apply a (k, 1) convolution along the frames of `[B*T, C, h, w]`, frame fastest."""
    images, channels, height, width = x.shape
    over_time = x.reshape(images // frames, frames, channels, height * width).transpose(1, 2)  # [B, C, T, h*w]
    return conv(over_time).transpose(1, 2).reshape(images, conv.out_channels, height, width)


class Block(nn.Module):
    """Conditional norm, SiLU, optional doubling, convolution, optional convolution over time, optional halving.

    `after_resample` adds a group convolution behind the doubling and the halving (1.1's add_new_temporal_params).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        embed_dim: int,
        groups: int,
        resample: str,
        along: ConvAlong,
        after_resample: bool,
    ) -> None:
        super().__init__()
        self.norm = ConditionalGroupNorm(groups, in_channels, embed_dim)
        self.up = nn.ConvTranspose2d(in_channels, in_channels, 2, stride=2) if resample == "up" else None
        self.group_conv_up = GroupConv(in_channels) if resample == "up" and after_resample else None
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.group_conv = GroupConv(out_channels) if along == "groups" else None
        self.temporal_conv = zero_conv_over_time(out_channels) if along == "frames" else None
        self.down = nn.Conv2d(out_channels, out_channels, 2, stride=2) if resample == "down" else None
        self.group_conv_down = GroupConv(out_channels) if resample == "down" and after_resample else None

    def forward(self, x: Tensor, time_embed: Tensor, frames: int | None, mask: Tensor | None = None) -> Tensor:
        x = F.silu(self.norm(x, time_embed))
        x = over_groups(self.group_conv_up, x if self.up is None else self.up(x), frames, mask)
        x = over_groups(self.group_conv, self.conv(x), frames, mask)
        if self.temporal_conv is not None and frames is not None:
            x = x + conv_over_time(self.temporal_conv, x, frames)
        return over_groups(self.group_conv_down, x if self.down is None else self.down(x), frames, mask)


def over_groups(conv: GroupConv | None, x: Tensor, groups: int | None, mask: Tensor | None) -> Tensor:
    """The convolution over groups, where there is one and there are groups."""
    return x if conv is None or groups is None else conv(x, groups, mask)


class ResNetBlock(nn.Module):
    """Four blocks with kernels 1, 3, 3, 1 through a narrow middle, and a shortcut that follows the same resampling.

    `frames` is T (or G), the length of a sequence in the batch; with None every layer over time is left out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embed_dim: int,
        groups: int,
        compression_ratio: int,
        resample: str = "none",
        along: ConvAlong = "none",
        after_resample: bool = False,
    ) -> None:
        super().__init__()
        narrow = max(in_channels, out_channels) // compression_ratio
        widths = [(in_channels, narrow), (narrow, narrow), (narrow, narrow), (narrow, out_channels)]
        steps = ["none", "up" if resample == "up" else "none", "down" if resample == "down" else "none", "none"]
        self.blocks = nn.ModuleList(
            Block(i, o, kernel, embed_dim, groups, step, along, after_resample)
            for (i, o), kernel, step in zip(widths, (1, 3, 3, 1), steps, strict=True)
        )
        self.shortcut_up = nn.ConvTranspose2d(in_channels, in_channels, 2, stride=2) if resample == "up" else None
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.shortcut_down = nn.Conv2d(out_channels, out_channels, 2, stride=2) if resample == "down" else None
        # as released: the group convolution of a doubling runs before and after the shortcut's projection, the one of
        # a halving is stored and never runs
        self.shortcut_group_conv_up = GroupConv(in_channels) if resample == "up" and after_resample else None
        self.shortcut_group_conv_down = GroupConv(out_channels) if resample == "down" and after_resample else None

    def forward(self, x: Tensor, time_embed: Tensor, frames: int | None, mask: Tensor | None = None) -> Tensor:
        out = x
        for block in self.blocks:
            out = block(out, time_embed, frames, mask)
        if self.shortcut_up is not None:
            x = self.shortcut_up(x)
        x = over_groups(self.shortcut_group_conv_up, x, frames, mask)
        for layer in (self.shortcut, self.shortcut_down):
            if layer is not None:
                x = layer(x)
        return over_groups(self.shortcut_group_conv_up, x, frames, mask) + out
