"""Temporal blocks of the keyframe U-Net: Conv1dAttn1dBlocks, the variant the paper chose (section 4.1, Table 1).

A temporal convolution block follows each spatial one and a temporal attention block each spatial self-attention; on the
way up they come before. Batches are ``[B*T, C, h, w]``, frame fastest. Last layers start at zero: an untrained temporal
block changes nothing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from export.layers import Attention, ConditionalGroupNorm, FeedForward, conv_over_time


class TemporalResNetBlock(nn.Module):
    """Four convolutions along time with kernels 1, 3, 3, 1 through a narrow middle, and a residual."""

    def __init__(self, channels: int, embed_dim: int, groups: int, compression_ratio: int) -> None:
        super().__init__()
        narrow = channels // compression_ratio
        widths = [(channels, narrow), (narrow, narrow), (narrow, narrow), (narrow, channels)]
        self.norms = nn.ModuleList(ConditionalGroupNorm(groups, i, embed_dim) for i, _ in widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, (kernel, 1), padding=(kernel // 2, 0))
            for (i, o), kernel in zip(widths, (1, 3, 3, 1), strict=True)
        )
        for parameter in self.convs[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, time_embed: Tensor, frames: int) -> Tensor:
        out = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            out = F.silu(norm(out, time_embed))
            out = conv(out) if conv.kernel_size == (1, 1) else conv_over_time(conv, out, frames)
        return x + out


class TemporalAttentionBlock(nn.Module):
    """Each latent pixel attends over its own T values; where a frame stands in time enters the first norm only."""

    def __init__(self, channels: int, embed_dim: int, groups: int, head_dim: int, expansion_ratio: int) -> None:
        super().__init__()
        self.in_norm = ConditionalGroupNorm(groups, channels, embed_dim)
        self.attention = Attention(channels, channels, channels, head_dim)
        self.out_norm = ConditionalGroupNorm(groups, channels, embed_dim)
        self.feed_forward = FeedForward(channels, expansion_ratio)
        nn.init.zeros_(self.attention.output.weight)
        nn.init.zeros_(self.feed_forward.conv2.weight)

    def forward(self, x: Tensor, time_embed: Tensor, frame_embed: Tensor, frames: int) -> Tensor:
        """``frame_embed`` is ``[B*T, E]``, one row a frame."""
        tokens = self.in_norm(x, frame_embed).flatten(2).unflatten(0, (-1, frames)).permute(0, 3, 1, 2)
        attended = self.attention(tokens, tokens)  # [B, h*w, T, C]
        x = x + attended.permute(0, 2, 3, 1).reshape(x.shape)
        return x + self.feed_forward(self.out_norm(x, time_embed))
