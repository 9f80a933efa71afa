"""The U-Net both models share: levels down, levels up, skip connections between (Kandinsky 3.0, section 4.1).

What differs is passed as ``temporal``: "none" (text-to-image), "blocks" (keyframes: separate temporal blocks) or
"groups" (interpolation: a convolution over the groups inside each spatial block).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.configs import UNetConfig
from export.group_norm import group_norm
from export.layers import NORM_EPS, AttentionBlock, ResNetBlock
from export.temporal import TemporalAttentionBlock, TemporalResNetBlock

Temporal = Literal["none", "blocks", "groups"]


@dataclass(frozen=True)
class Conditioning:
    """What every level sees: time ``[R, E]``, text ``[R, L, D]`` with its mask, and where each frame stands.

    ``frame_embed`` is ``[B*T, E]`` or None where the temporal blocks are left out; ``frames`` is T (or G).
    """

    time_embed: Tensor
    context: Tensor
    context_mask: Tensor
    frame_embed: Tensor | None
    frames: int


class Pair(nn.Module):
    """Two residual blocks around cross-attention; their temporal blocks follow going down and lead going up."""

    def __init__(
        self, widths: tuple[int, int, int], config: UNetConfig, cross: bool, resample: tuple[str, str], up: bool,
        temporal: Temporal,
    ) -> None:  # fmt: skip
        super().__init__()
        before, middle, after = widths
        embed, groups, ratio = config.time_embed_dim, config.groups, config.compression_ratio
        grouped, self.going_up = temporal == "groups", up
        self.resnet_in = ResNetBlock(before, middle, embed, groups, ratio, resample[0], grouped)
        self.cross_attention = (
            AttentionBlock(middle, embed, config.context_dim, groups, config.head_dim, config.expansion_ratio)
            if cross
            else None
        )
        self.resnet_out = ResNetBlock(middle, after, embed, groups, ratio, resample[1], grouped)
        seen = (before, middle) if up else (middle, after)
        with_blocks = temporal == "blocks"
        self.temporal_in = TemporalResNetBlock(seen[0], embed, groups, ratio) if with_blocks else None
        self.temporal_out = TemporalResNetBlock(seen[1], embed, groups, ratio) if with_blocks else None

    def forward(self, x: Tensor, given: Conditioning) -> Tensor:
        x = self.spatial_temporal(self.resnet_in, self.temporal_in, x, given)
        if self.cross_attention is not None:
            x = self.cross_attention(x, given.time_embed, given.context, given.context_mask)
        return self.spatial_temporal(self.resnet_out, self.temporal_out, x, given)

    def spatial_temporal(
        self, spatial: nn.Module, temporal: nn.Module | None, x: Tensor, given: Conditioning
    ) -> Tensor:
        layers = (temporal, spatial) if self.going_up else (spatial, temporal)
        for layer in layers:
            if layer is spatial or (layer is not None and given.frame_embed is not None):
                x = layer(x, given.time_embed, given.frames)
        return x


class Level(nn.Module):
    """One resolution: pairs of residual blocks, self-attention before them going down and after them going up."""

    def __init__(
        self, pairs: list[Pair], attention_channels: int | None, config: UNetConfig, up: bool, temporal: Temporal
    ) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(pairs)
        self.going_up = up
        embed, groups, head, expansion = config.time_embed_dim, config.groups, config.head_dim, config.expansion_ratio
        attends = attention_channels is not None
        width = attention_channels if attention_channels is not None else 0
        self.self_attention = AttentionBlock(width, embed, None, groups, head, expansion) if attends else None
        self.temporal_attention = (
            TemporalAttentionBlock(width, embed, groups, head, expansion) if attends and temporal == "blocks" else None
        )

    def forward(self, x: Tensor, given: Conditioning) -> Tensor:
        if self.going_up:
            for pair in self.pairs:
                x = pair(x, given)
            return self.attend_in_space(self.attend_in_time(x, given), given)
        x = self.attend_in_time(self.attend_in_space(x, given), given)
        for pair in self.pairs:
            x = pair(x, given)
        return x

    def attend_in_space(self, x: Tensor, given: Conditioning) -> Tensor:
        return x if self.self_attention is None else self.self_attention(x, given.time_embed)

    def attend_in_time(self, x: Tensor, given: Conditioning) -> Tensor:
        if self.temporal_attention is None or given.frame_embed is None:
            return x
        attended: Tensor = self.temporal_attention(x, given.time_embed, given.frame_embed, given.frames)
        return attended


class UNetBody(nn.Module):
    """``[N, num_channels, h, w]`` -> ``[N, out_channels, h, w]``; h and w multiples of ``config.size_multiple``."""

    def __init__(self, config: UNetConfig, temporal: Temporal) -> None:
        super().__init__()
        self.groups = config.groups
        self.in_conv = nn.Conv2d(config.num_channels, config.init_channels, 3, padding=1)
        widths = [config.init_channels, *(config.model_channels * m for m in config.dim_mult)]
        last = len(config.dim_mult) - 1
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level in range(last + 1):
            before, after, count = widths[level], widths[level + 1], config.num_blocks[level]
            cross, attends = config.add_cross_attention[level], config.add_self_attention[level]
            downs = [(before if i == 0 else after, after, after) for i in range(count)]
            halve = [level != last and i == count - 1 for i in range(count)]
            self.down.append(
                Level(
                    [
                        Pair(w, config, cross, ("none", "down" if h else "none"), False, temporal)
                        for w, h in zip(downs, halve, strict=True)
                    ],
                    before if attends else None,
                    config,
                    False,
                    temporal,
                )  # fmt: skip
            )
            skipped = after if level != last else 0
            ups = [(after + skipped if i == 0 else after, before if i == count - 1 else after) for i in range(count)]
            self.up.insert(
                0,
                Level(
                    [Pair((w[0], w[0], w[1]), config, cross, ("up" if level != last and i == 0 else "none", "none"),
                          True, temporal)
                     for i, w in enumerate(ups)],
                    before if attends else None, config, True, temporal,
                ),
            )  # fmt: skip
        self.out_norm = nn.GroupNorm(config.groups, config.init_channels, eps=NORM_EPS)
        self.out_conv = nn.Conv2d(config.init_channels, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, given: Conditioning) -> Tensor:
        x = self.in_conv(x)
        skips: list[Tensor] = []
        for index, level in enumerate(self.down):
            x = level(x, given)
            if index != len(self.down) - 1:
                skips.append(x)
        for index, level in enumerate(self.up):
            x = level(x if index == 0 else torch.cat((x, skips.pop()), dim=1), given)
        normed = group_norm(x, self.groups, self.out_norm.weight, self.out_norm.bias, NORM_EPS)
        out: Tensor = self.out_conv(F.silu(normed))
        return out
