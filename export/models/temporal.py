"""Layers along time: the temporal conditionings of the keyframe U-Net and the group attention of 1.1 interpolation.

Source: paper section 4.1, Table 1.

Blocks: a temporal convolution block follows each spatial one and a temporal attention block each spatial
self-attention; on the way up they come before. Layers: a convolution behind every spatial convolution (in
`export.models.layers`) and attention inside the spatial attention block. Batches are `[B*T, C, h, w]`, frame
fastest. Last layers start at zero: an untrained one changes nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.errors import ConfigError
from export.models.layers import Attention, ConditionalGroupNorm, FeedForward, conv_over_time, merged

LINEAR_DOWN = 4
"""The 3x3x3 convolutions see C / 4 channels, which makes their block about as large as the 3x1x1 one (paper 4.1)."""


class TemporalResNetBlock(nn.Module):
    """Four convolutions along time with kernels 1, 3, 3, 1 through a narrow middle, and a residual.

    `in_space` widens the two middle kernels from 3x1x1 to 3x3x3 (Conv3d).
    """

    def __init__(
        self, channels: int, embed_dim: int, groups: int, compression_ratio: int, in_space: bool = False
    ) -> None:
        super().__init__()
        narrow = channels // compression_ratio
        widths = [(channels, narrow), (narrow, narrow), (narrow, narrow), (narrow, channels)]
        self.norms = nn.ModuleList(ConditionalGroupNorm(groups, i, embed_dim) for i, _ in widths)
        self.convs = nn.ModuleList(
            nn.Conv3d(i, o, kernel, padding=1)
            if in_space and kernel == 3
            else nn.Conv2d(i, o, (kernel, 1), padding=(kernel // 2, 0))
            for (i, o), kernel in zip(widths, (1, 3, 3, 1), strict=True)
        )
        for parameter in self.convs[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time_embed: Tensor, frames: int) -> Tensor:
        out = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            out = F.silu(norm(out, time_embed))
            if isinstance(conv, nn.Conv3d):
                out = conv(out.unflatten(0, (-1, frames)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)
            elif isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1):
                out = conv_over_time(conv, out, frames)
            else:
                out = conv(out)
        return x + out


class _TemporalAttention(nn.Module):
    """Norm, attention over time, residual; where a frame stands in time enters through the norm.

    Attn1d: each latent pixel attends over its own T values. Attn3d (`window` 2): the pixels of a 2 x 2 window over
    all frames, 4T tokens, attend to each other; windows do not overlap (MaxViT's block attention).
    """

    def __init__(self, channels: int, embed_dim: int, groups: int, head_dim: int, window: int = 1) -> None:
        super().__init__()
        self.window = window
        self.in_norm = ConditionalGroupNorm(groups, channels, embed_dim)
        self.attention = Attention(channels, channels, channels, head_dim)
        nn.init.zeros_(self.attention.output.weight)

    def attend(self, x: Tensor, frame_embed: Tensor, frames: int) -> Tensor:
        """`frame_embed` is `[B*T, E]`, one row a frame. Raises ConfigError where windows do not fill the image."""
        normed = self.in_norm(x, frame_embed)
        if self.window == 1:
            return x + attend_over_time(self.attention, normed, frames)
        tokens = windows(normed, frames, self.window)
        return x + windows_back(self.attention(tokens, tokens), frames, self.window)


class TemporalAttentionLayer(_TemporalAttention):
    """Attention over time inside the spatial attention block."""

    def forward(self, x: Tensor, frame_embed: Tensor, frames: int) -> Tensor:
        return self.attend(x, frame_embed, frames)


class TemporalAttentionBlock(_TemporalAttention):
    """Attention over time, followed by norm, feed-forward, residual."""

    def __init__(
        self, channels: int, embed_dim: int, groups: int, head_dim: int, expansion_ratio: int, window: int = 1
    ) -> None:
        super().__init__(channels, embed_dim, groups, head_dim, window)
        self.out_norm = ConditionalGroupNorm(groups, channels, embed_dim)
        self.feed_forward = FeedForward(channels, expansion_ratio)
        nn.init.zeros_(self.feed_forward.conv2.weight)

    def forward(self, x: Tensor, time_embed: Tensor, frame_embed: Tensor, frames: int) -> Tensor:
        x = self.attend(x, frame_embed, frames)
        return x + self.feed_forward(self.out_norm(x, time_embed))


def attend_over_time(attention: Attention, x: Tensor, frames: int) -> Tensor:
    """Each latent pixel of `[B*T, C, h, w]` attends over its own T values."""
    images, channels, height, width = x.shape
    tokens = x.reshape(images // frames, frames, channels, height * width).permute(0, 3, 1, 2)  # [B, h*w, T, C]
    return attention(tokens, tokens).permute(0, 2, 3, 1).reshape(images, channels, height, width)


def windows(x: Tensor, frames: int, size: int) -> Tensor:
    """`[B*T, C, h, w]` -> `[B, h/size, w/size, T*size*size, C]`; raises ConfigError where that does not go up."""
    height, width = x.shape[2:]
    if height % size or width % size:
        raise ConfigError(
            f"expected h and w that are multiples of {size} wherever time is attended to in {size} x {size} windows, "
            f"got {height} x {width}; make the latent a multiple of UNetConfig.size_multiple"
        )
    cells = x.unflatten(3, (-1, size)).unflatten(2, (-1, size)).unflatten(0, (-1, frames))  # [B, T, C, y, 2, x, 2]
    return cells.permute(0, 3, 5, 1, 4, 6, 2).flatten(3, 5)


def windows_back(tokens: Tensor, frames: int, size: int) -> Tensor:
    """The inverse of `windows`."""
    cells = tokens.unflatten(3, (frames, size, size))  # [B, y, x, T, 2, 2, C]
    return cells.permute(0, 3, 6, 1, 4, 2, 5).flatten(5, 6).flatten(3, 4).flatten(0, 1)


class GroupAttentionBlock(nn.Module):
    """Each latent pixel attends over the G groups of its video; two learned factors merge attention and feed-forward.

    Batches are `[B*G, C, h, w]`, group fastest. Source: released `unet_interpolation.py`.
    """

    def __init__(self, channels: int, embed_dim: int, groups: int, head_dim: int, expansion_ratio: int) -> None:
        super().__init__()
        self.in_norm = ConditionalGroupNorm(groups, channels, embed_dim)
        self.attention = Attention(channels, channels, channels, head_dim)
        self.attention_merge = nn.Parameter(torch.zeros(1))
        self.out_norm = ConditionalGroupNorm(groups, channels, embed_dim)
        self.feed_forward = FeedForward(channels, expansion_ratio)
        self.feed_merge = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, time_embed: Tensor, groups: int, mask: Tensor | None = None) -> Tensor:
        """`mask` `[B*G]` scales both factors of every group: 0 leaves it alone."""
        attended = attend_over_time(self.attention, self.in_norm(x, time_embed), groups)
        x = merged(x, attended, self.attention_merge, mask)
        return merged(x, self.feed_forward(self.out_norm(x, time_embed)), self.feed_merge, mask)
