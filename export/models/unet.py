"""The U-Net all models share: levels down, levels up, skip connections between (Kandinsky 3.0, section 4.1).

What differs is passed as `temporal`: "none" (text-to-image), one of the paper's temporal conditionings (keyframes,
see `export.models.temporal`) or "groups" (interpolation: a convolution over the groups inside each spatial block
and, in 1.1, attention over them behind each spatial self-attention).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.models.configs import TemporalConditioning, UNetConfig
from export.models.group_norm import group_norm
from export.models.layers import NORM_EPS, AttentionBlock, ConvAlong, GroupConv, ResNetBlock, over_groups, row_per_image
from export.models.temporal import (
    LINEAR_DOWN,
    GroupAttentionBlock,
    TemporalAttentionBlock,
    TemporalAttentionLayer,
    TemporalResNetBlock,
)

Temporal = Literal["none", "groups"] | TemporalConditioning


@dataclass(frozen=True)
class Conditioning:
    """What every level sees: time `[R, E]`, text `[R, L, D]` with its mask, and where each frame stands.

    `frames` is T (or G), or None where all that looks along time is left out. Of the keyframe U-Nets alone:
    `frame_embed` `[B*T, E]` enters the norm before attention over time, `temporal_embed` `[R, E]` the other
    temporal norms. `temporal_mask` `[B]` scales what the groups of each video take from each other (1.1). Levels
    see all of it but the text with one row an image (`per_image`).
    """

    time_embed: Tensor
    context: Tensor
    context_mask: Tensor
    frames: int | None
    frame_embed: Tensor | None = None
    temporal_embed: Tensor | None = None
    temporal_mask: Tensor | None = None

    def per_image(self, images: int) -> Conditioning:
        """The same with one row for each of N images."""

        def repeated(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else row_per_image(rows, images)

        return replace(
            self,
            time_embed=row_per_image(self.time_embed, images),
            frame_embed=repeated(self.frame_embed),
            temporal_embed=repeated(self.temporal_embed),
            temporal_mask=repeated(self.temporal_mask),
        )


class Pair(nn.Module):
    """Two residual blocks around cross-attention; their temporal blocks follow going down and lead going up."""

    def __init__(
        self,
        widths: tuple[int, int, int],
        config: UNetConfig,
        cross: bool,
        resample: tuple[str, str],
        up: bool,
        temporal: Temporal,
    ) -> None:
        super().__init__()
        before, middle, after = widths
        embed, groups, ratio = config.time_embed_dim, config.groups, config.compression_ratio
        along: ConvAlong = (
            "groups" if temporal == "groups" else "frames" if temporal == "Conv1dAttn1dLayers" else "none"
        )
        extra, self.going_up = temporal == "groups" and config.add_new_temporal_params, up
        self.resnet_in = ResNetBlock(before, middle, embed, groups, ratio, resample[0], along, extra)
        self.cross_attention = (
            AttentionBlock(middle, embed, config.context_dim, groups, config.head_dim, config.expansion_ratio)
            if cross
            else None
        )
        self.resnet_out = ResNetBlock(middle, after, embed, groups, ratio, resample[1], along, extra)
        seen = (before, middle) if up else (middle, after)
        self.temporal_in = temporal_convolution(seen[0], config, temporal)
        self.temporal_out = temporal_convolution(seen[1], config, temporal)

    def forward(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        x = self.spatial_temporal(self.resnet_in, self.temporal_in, x, conditioning)
        if self.cross_attention is not None:
            x = self.cross_attention(x, conditioning.time_embed, conditioning.context, conditioning.context_mask)
        return self.spatial_temporal(self.resnet_out, self.temporal_out, x, conditioning)

    def spatial_temporal(
        self, spatial: nn.Module, temporal: nn.Module | None, x: Tensor, conditioning: Conditioning
    ) -> Tensor:
        layers = (temporal, spatial) if self.going_up else (spatial, temporal)
        for layer in layers:
            if layer is spatial:
                x = layer(x, conditioning.time_embed, conditioning.frames, conditioning.temporal_mask)
            elif layer is not None and conditioning.frames is not None:
                x = layer(x, conditioning.temporal_embed, conditioning.frames)
        return x


def temporal_convolution(channels: int, config: UNetConfig, temporal: Temporal) -> TemporalResNetBlock | None:
    """The block over time that follows a spatial one, if this conditioning has one."""
    if temporal in ("none", "groups", "Conv1dAttn1dLayers"):
        return None
    in_space = temporal == "Conv3dAttn1dBlocks"
    ratio = LINEAR_DOWN if in_space else config.compression_ratio
    return TemporalResNetBlock(channels, config.time_embed_dim, config.groups, ratio, in_space)


def temporal_attention(channels: int, config: UNetConfig, temporal: Temporal) -> nn.Module | None:
    """The attention over time of a level, if this conditioning has one."""
    embed, groups, head, expansion = config.time_embed_dim, config.groups, config.head_dim, config.expansion_ratio
    if temporal == "none" or (temporal == "groups" and not config.add_temporal_attention):
        return None
    if temporal == "groups":
        return GroupAttentionBlock(channels, embed, groups, head, expansion)
    if temporal == "Conv1dAttn1dLayers":
        return TemporalAttentionLayer(channels, embed, groups, head)
    window = 2 if temporal == "Conv1dAttn3dBlocks" else 1
    return TemporalAttentionBlock(channels, embed, groups, head, expansion, window)


class Level(nn.Module):
    """One resolution: pairs of residual blocks, self-attention before them going down and after them going up."""

    def __init__(
        self, pairs: list[Pair], attention_channels: int | None, config: UNetConfig, up: bool, temporal: Temporal
    ) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(pairs)
        self.going_up, self.temporal = up, temporal
        embed, groups, head, expansion = config.time_embed_dim, config.groups, config.head_dim, config.expansion_ratio
        attends = attention_channels is not None
        width = attention_channels if attention_channels is not None else 0
        self.self_attention = AttentionBlock(width, embed, None, groups, head, expansion) if attends else None
        self.temporal_attention = temporal_attention(width, config, temporal) if attends else None

    def forward(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        if not self.going_up:
            x = self.attend(x, conditioning)
        for pair in self.pairs:
            x = pair(x, conditioning)
        return self.attend(x, conditioning) if self.going_up else x

    def attend(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """Attention in space and over time, in the order of this conditioning."""
        space, time, embed, frames = (
            self.self_attention,
            self.temporal_attention,
            conditioning.time_embed,
            conditioning.frames,
        )
        if space is None:
            return x
        if time is None or frames is None:
            return space(x, embed)
        if self.temporal == "groups":
            return time(space(x, embed), embed, frames, conditioning.temporal_mask)
        if self.temporal == "Conv1dAttn1dLayers":
            return space.feed(time(space.attend(x, embed), conditioning.frame_embed, frames), embed)
        if self.going_up:
            return space(time(x, conditioning.temporal_embed, conditioning.frame_embed, frames), embed)
        return time(space(x, embed), conditioning.temporal_embed, conditioning.frame_embed, frames)


class UNetBody(nn.Module):
    """`[N, num_channels, h, w]` -> `[N, out_channels, h, w]`; h and w multiples of `config.size_multiple`."""

    def __init__(self, config: UNetConfig, temporal: Temporal) -> None:
        super().__init__()
        self.groups = config.groups
        self.in_conv = nn.Conv2d(config.num_channels, config.init_channels, 3, padding=1)
        extra = temporal == "groups" and config.add_new_temporal_params
        self.group_conv_in = GroupConv(config.init_channels) if extra else None
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
                )
            )
            skipped = after if level != last else 0
            ups = [(after + skipped if i == 0 else after, before if i == count - 1 else after) for i in range(count)]
            self.up.insert(
                0,
                Level(
                    [
                        Pair(
                            (w[0], w[0], w[1]),
                            config,
                            cross,
                            ("up" if level != last and i == 0 else "none", "none"),
                            True,
                            temporal,
                        )
                        for i, w in enumerate(ups)
                    ],
                    before if attends else None,
                    config,
                    True,
                    temporal,
                ),
            )
        self.group_conv_out = GroupConv(config.init_channels) if extra else None
        self.out_norm = nn.GroupNorm(config.groups, config.init_channels, eps=NORM_EPS)
        self.out_conv = nn.Conv2d(config.init_channels, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        return self.levels(self.in_conv(x), conditioning)

    def levels(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """All that follows the first convolution, of which 1.1 has a second one for images: `[N, init, h, w]` in."""
        conditioning = conditioning.per_image(x.shape[0])
        x = over_groups(self.group_conv_in, x, conditioning.frames, conditioning.temporal_mask)
        skips: list[Tensor] = []
        for index, level in enumerate(self.down):
            x = level(x, conditioning)
            if index != len(self.down) - 1:
                skips.append(x)
        for index, level in enumerate(self.up):
            x = level(x if index == 0 else torch.cat((x, skips.pop()), dim=1), conditioning)
        x = over_groups(self.group_conv_out, x, conditioning.frames, conditioning.temporal_mask)
        normed = group_norm(x, self.groups, self.out_norm.weight, self.out_norm.bias, NORM_EPS)
        out: Tensor = self.out_conv(F.silu(normed))
        return out
