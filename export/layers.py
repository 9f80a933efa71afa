"""Layers shared by both U-Nets (Kandinsky 3.0's, which the paper freezes and extends; section 4.1).

Conditioning rows: a batch holds N images, its conditioning R rows, where R divides N and each row serves N / R
consecutive images (the frames of one video). Time embeddings are ``[R, E]``, text is ``[R, L, D]``; nothing is repeated
per frame, which the released code does and which gives the same numbers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.group_norm import group_norm

NORM_EPS = 1e-5


class TimeEmbedding(nn.Module):
    """``[R]`` numbers -> ``[R, E]``: sinusoids, then two linear layers."""

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


class ConditionalGroupNorm(nn.Module):
    """GroupNorm without parameters of its own; scale and shift come from an embedding ``[R, E]``."""

    def __init__(self, groups: int, channels: int, embed_dim: int) -> None:
        super().__init__()
        self.groups = groups
        self.linear = nn.Linear(embed_dim, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(embedding))[:, None, :, None, None].chunk(2, dim=2)  # [R, 1, C, 1, 1]
        normed = group_norm(x, self.groups, None, None, NORM_EPS)
        rows = normed.unflatten(0, (embedding.shape[0], -1))  # [R, N/R, C, h, w]
        return (rows * (scale + 1) + shift).flatten(0, 1)


class Attention(nn.Module):
    """Multi-head attention without biases: x ``[R, n, C]``, context ``[R, m, D]``, mask ``[R, m]`` (true = attend)."""

    def __init__(self, in_channels: int, out_channels: int, context_dim: int, head_dim: int) -> None:
        super().__init__()
        if out_channels % head_dim != 0:
            raise ValueError(f"wanted channels that are a multiple of head_dim {head_dim}, got {out_channels}")
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
        pooled = self.attention(context.mean(dim=1, keepdim=True), context, mask)  # [R, 1, E]
        return time_embed + pooled.squeeze(1)


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
    """Norm, attention, residual; norm, feed-forward, residual. Self-attention within one image where no context is
    given, cross-attention to the text otherwise."""

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
        tokens = self.in_norm(x, time_embed).flatten(2).transpose(1, 2)  # [N, h*w, C]
        if context is None:
            attended = self.attention(tokens, tokens)
        else:  # the pixels of all images of a row ask together, so that keys and values are made once a row
            together = tokens.unflatten(0, (context.shape[0], -1)).flatten(1, 2)  # [R, N/R*h*w, C]
            attended = self.attention(together, context, mask).reshape(tokens.shape)
        x = x + attended.transpose(1, 2).reshape(x.shape)
        return x + self.feed_forward(self.out_norm(x, time_embed))


class GroupConv(nn.Module):
    """Convolution (3, 1, 1) along the sequence of groups, merged with its input by a learned factor (paper eq. 3).

    ``[B*G, C, h, w]``, group fastest; a kernel (3, 1) over the view ``[B, C, G, h*w]`` is the same convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.merge = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, groups: int) -> Tensor:
        return (1 - self.merge) * x + self.merge * conv_over_time(self.conv, x, groups)


def conv_over_time(conv: nn.Conv2d, x: Tensor, frames: int) -> Tensor:
    """Apply a (k, 1) convolution along the frames of ``[B*T, C, h, w]``, frame fastest."""
    over_time = x.unflatten(0, (-1, frames)).flatten(3).transpose(1, 2)  # [B, C, T, h*w]
    out: Tensor = conv(over_time).transpose(1, 2)
    return out.reshape(-1, out.shape[2], *x.shape[2:])


class Block(nn.Module):
    """Conditional norm, SiLU, optional doubling, convolution, optional group convolution, optional halving."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        embed_dim: int,
        groups: int,
        resample: str,
        grouped: bool,
    ) -> None:
        super().__init__()
        self.norm = ConditionalGroupNorm(groups, in_channels, embed_dim)
        self.up = nn.ConvTranspose2d(in_channels, in_channels, 2, stride=2) if resample == "up" else None
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.group_conv = GroupConv(out_channels) if grouped else None
        self.down = nn.Conv2d(out_channels, out_channels, 2, stride=2) if resample == "down" else None

    def forward(self, x: Tensor, time_embed: Tensor, frames: int) -> Tensor:
        x = F.silu(self.norm(x, time_embed))
        x = self.conv(x if self.up is None else self.up(x))
        if self.group_conv is not None:
            x = self.group_conv(x, frames)
        return x if self.down is None else self.down(x)


class ResNetBlock(nn.Module):
    """Four blocks with kernels 1, 3, 3, 1 through a narrow middle, and a shortcut that follows the same resampling."""

    def __init__(
        self, in_channels: int, out_channels: int, embed_dim: int, groups: int, compression_ratio: int,
        resample: str = "none", grouped: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        narrow = max(in_channels, out_channels) // compression_ratio
        widths = [(in_channels, narrow), (narrow, narrow), (narrow, narrow), (narrow, out_channels)]
        steps = ["none", "up" if resample == "up" else "none", "down" if resample == "down" else "none", "none"]
        self.blocks = nn.ModuleList(
            Block(i, o, kernel, embed_dim, groups, step, grouped)
            for (i, o), kernel, step in zip(widths, (1, 3, 3, 1), steps, strict=True)
        )
        self.shortcut_up = nn.ConvTranspose2d(in_channels, in_channels, 2, stride=2) if resample == "up" else None
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.shortcut_down = nn.Conv2d(out_channels, out_channels, 2, stride=2) if resample == "down" else None

    def forward(self, x: Tensor, time_embed: Tensor, frames: int) -> Tensor:
        out = x
        for block in self.blocks:
            out = block(out, time_embed, frames)
        for layer in (self.shortcut_up, self.shortcut, self.shortcut_down):
            if layer is not None:
                x = layer(x)
        return x + out
