"""MoVQ: image -> latent -> image, f = 8 (paper section 4.3; decoder with spatial norm as in MoVQ, Zheng et al. 2022).

Latents are used unquantised, as the released pipelines do. Shapes: image ``[N, 3, H, W]`` in -1..1, latent
``[N, 4, h, w]``; H and W must be multiples of ``MoVQConfig.downscale``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from export.configs import MoVQConfig
from export.group_norm import group_norm

GROUPS = 32  # fixed in the released model, as is the epsilon below
EPS = 1e-6


class SpatialNorm(nn.Module):
    """GroupNorm whose scale and shift are 1x1 convolutions of the latent (none in the encoder).

    The released code enlarges the latent first and convolves after; a 1x1 convolution and a nearest-neighbour
    enlargement commute exactly, so this convolves the small one.
    """

    def __init__(self, channels: int, z_channels: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, eps=EPS)
        self.scale = nn.Conv2d(z_channels, channels, 1) if z_channels is not None else None
        self.shift = nn.Conv2d(z_channels, channels, 1) if z_channels is not None else None

    def forward(self, x: Tensor, latent: Tensor | None, enlarge: int) -> Tensor:
        x = group_norm(x, GROUPS, self.norm.weight, self.norm.bias, EPS)
        if self.scale is None or self.shift is None or latent is None:
            return x
        scale, shift = self.scale(latent), self.shift(latent)
        if enlarge > 1:
            scale = F.interpolate(scale, scale_factor=float(enlarge), mode="nearest")
            shift = F.interpolate(shift, scale_factor=float(enlarge), mode="nearest")
        return x * scale + shift


class ResnetBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, z_channels: int | None) -> None:
        super().__init__()
        self.norm1 = SpatialNorm(in_channels, z_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = SpatialNorm(out_channels, z_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, latent: Tensor | None, enlarge: int) -> Tensor:
        out = self.conv1(F.silu(self.norm1(x, latent, enlarge)))
        out = self.conv2(F.silu(self.norm2(out, latent, enlarge)))
        return self.shortcut(x) + out


class AttnBlock(nn.Module):
    """One-head self-attention over all positions of one image."""

    def __init__(self, channels: int, z_channels: int | None) -> None:
        super().__init__()
        self.norm = SpatialNorm(channels, z_channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, latent: Tensor | None, enlarge: int) -> Tensor:
        normed = self.norm(x, latent, enlarge)
        query, key, value = (
            conv(normed).flatten(2).transpose(1, 2) for conv in (self.query, self.key, self.value)
        )  # [N, h*w, C]
        scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
        attended = scores.softmax(dim=-1) @ value
        return x + self.output(attended.transpose(1, 2).reshape(x.shape))


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where the configuration asks for it."""

    def __init__(self, widths: list[tuple[int, int]], attention: bool, z_channels: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResnetBlock(i, o, z_channels) for i, o in widths)
        self.attentions = nn.ModuleList(AttnBlock(o, z_channels) for _, o in widths if attention)

    def forward(self, x: Tensor, latent: Tensor | None, enlarge: int) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x, latent, enlarge)
            if len(self.attentions) > 0:
                x = self.attentions[index](x, latent, enlarge)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int, z_channels: int | None) -> None:
        super().__init__()
        self.block1 = ResnetBlock(channels, channels, z_channels)
        self.attention = AttnBlock(channels, z_channels)
        self.block2 = ResnetBlock(channels, channels, z_channels)

    def forward(self, x: Tensor, latent: Tensor | None) -> Tensor:
        x = self.block1(x, latent, 1)
        x = self.attention(x, latent, 1)
        return self.block2(x, latent, 1)


class MoVQEncoder(nn.Module):
    """``[N, 3, H, W]`` -> ``[N, 4, h, w]``."""

    def __init__(self, config: MoVQConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.levels = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        before, resolution = config.ch, config.resolution
        for index, width in enumerate(widths):
            pairs = [(before, width)] + [(width, width)] * (config.num_res_blocks - 1)
            self.levels.append(Level(pairs, resolution in config.attn_resolutions, None))
            if index != len(widths) - 1:
                self.downsamples.append(nn.Conv2d(width, width, 3, stride=2))
                resolution //= 2
            before = width
        self.middle = Middle(before, None)
        self.norm_out = SpatialNorm(before, None)
        self.conv_out = nn.Conv2d(before, config.z_channels, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.z_channels, config.z_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(image)
        for index, level in enumerate(self.levels):
            x = level(x, None, 1)
            if index < len(self.downsamples):
                x = self.downsamples[index](F.pad(x, (0, 1, 0, 1)))  # the released one pads right and below only
        x = self.middle(x, None)
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(x, None, 1))))


class MoVQDecoder(nn.Module):
    """``[N, 4, h, w]`` -> ``[N, 3, H, W]``; every norm looks at the latent."""

    def __init__(self, config: MoVQConfig) -> None:
        super().__init__()
        z_channels = config.z_channels
        before = config.ch * config.ch_mult[-1]
        resolution = config.resolution // config.downscale
        self.post_quant_conv = nn.Conv2d(z_channels, z_channels, 1)
        self.conv_in = nn.Conv2d(z_channels, before, 3, padding=1)
        self.middle = Middle(before, z_channels)
        self.levels = nn.ModuleList()  # from the smallest resolution to the full one
        self.upsamples = nn.ModuleList()
        for index, multiplier in enumerate(reversed(config.ch_mult)):
            width = config.ch * multiplier
            pairs = [(before, width)] + [(width, width)] * config.num_res_blocks
            self.levels.append(Level(pairs, resolution in config.attn_resolutions, z_channels))
            if index != len(config.ch_mult) - 1:
                self.upsamples.append(nn.Conv2d(width, width, 3, padding=1))
                resolution *= 2
            before = width
        self.norm_out = SpatialNorm(before, z_channels)
        self.conv_out = nn.Conv2d(before, config.out_ch, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.conv_in(self.post_quant_conv(latent))
        x = self.middle(x, latent)
        enlarge = 1
        for index, level in enumerate(self.levels):
            x = level(x, latent, enlarge)
            if index < len(self.upsamples):
                x = self.upsamples[index](F.interpolate(x, scale_factor=2.0, mode="nearest"))
                enlarge *= 2
        return self.conv_out(F.silu(self.norm_out(x, latent, enlarge)))


class MoVQ(nn.Module):
    """Both halves, for training; they are exported one by one."""

    def __init__(self, config: MoVQConfig) -> None:
        super().__init__()
        self.encoder = MoVQEncoder(config)
        self.decoder = MoVQDecoder(config)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        latent: Tensor = self.encoder(image)
        return latent, self.decoder(latent)
