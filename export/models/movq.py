"""MoVQ: image -> latent -> image, f = 8 (paper section 4.3; decoder with spatial norm as in MoVQ, Zheng et al. 2022).

Latents are used unquantised, as the released pipelines do. Shapes: image `[N, 3, H, W]` in -1..1, latent
`[N, 4, h, w]`; H and W must be multiples of `MoVQConfig.downscale`. The encoder and the image decoder treat the N
images alone; the temporal decoders of Table 3 (released in `kandinsky_video/movq.py`) take them as one clip.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from export.models.configs import MoVQConfig
from export.models.group_norm import group_norm
from export.models.movq_temporal import ClipConv, TemporalConv, TimeConv

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
    """Two convolutions around a shortcut; where `temporal`, each is followed by one over the clip."""

    def __init__(self, in_channels: int, out_channels: int, decoder: MoVQConfig | None, temporal: bool) -> None:
        super().__init__()
        z_channels = None if decoder is None else decoder.z_channels
        conv = ClipConv if decoder is not None and decoder.build_3D_decoder else nn.Conv2d
        self.norm1 = SpatialNorm(in_channels, z_channels)
        self.conv1 = conv(in_channels, out_channels, 3, padding=1)
        self.norm2 = SpatialNorm(out_channels, z_channels)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.temporal1: nn.Module = nn.Identity()
        self.temporal2: nn.Module = nn.Identity()
        if decoder is not None and temporal:
            kernel, padding = decoder.temporal_kernel_size, decoder.temporal_conv_padding
            self.temporal1 = TemporalConv(out_channels, kernel, padding)
            self.temporal2 = TemporalConv(out_channels, kernel, padding)

    def forward(self, x: Tensor, latent: Tensor | None, enlarge: int) -> Tensor:
        out = self.temporal1(self.conv1(F.silu(self.norm1(x, latent, enlarge))))
        out = self.temporal2(self.conv2(F.silu(self.norm2(out, latent, enlarge))))
        return self.shortcut(x) + out


class TemporalResnetBlock(nn.Module):
    """A residual block of its own with two (3, 1, 1) convolutions; its norms see each frame and its latent alone.

    The last convolution starts at zero, as the paper's new parameters do (section 4.3).
    """

    def __init__(self, channels: int, z_channels: int) -> None:
        super().__init__()
        self.norm1 = SpatialNorm(channels, z_channels)
        self.conv1 = TimeConv(channels, channels, (3, 1), padding=(1, 0))
        self.norm2 = SpatialNorm(channels, z_channels)
        self.conv2 = TimeConv(channels, channels, (3, 1), padding=(1, 0))
        start_at_zero(self.conv2)

    def forward(self, x: Tensor, latent: Tensor, enlarge: int) -> Tensor:
        out = self.conv1(F.silu(self.norm1(x, latent, enlarge)))
        return x + self.conv2(F.silu(self.norm2(out, latent, enlarge)))


class AttnBlock(nn.Module):
    """One-head self-attention over all positions of one image.

    In a decoder of clips the norm takes the first frame's latent for every frame, as the released 1.1 code does (it
    hands the norm one frame and the latents of all).
    """

    def __init__(self, channels: int, decoder: MoVQConfig | None) -> None:
        super().__init__()
        self.of_clips = decoder is not None and decoder.decodes_clips
        self.norm = SpatialNorm(channels, None if decoder is None else decoder.z_channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, latent: Tensor | None, enlarge: int) -> Tensor:
        normed = self.norm(x, latent[:1] if latent is not None and self.of_clips else latent, enlarge)
        query, key, value = (
            conv(normed).flatten(2).transpose(1, 2) for conv in (self.query, self.key, self.value)
        )  # [N, h*w, C]
        return x + self.output(attend(query, key, value).transpose(1, 2).reshape(x.shape))


class TemporalAttnBlock(nn.Module):
    """One-head self-attention of each pixel over the frames of the clip.

    Its norm has convolutions of the latent which no forward pass uses, in the released code either; they are kept so
    that released weights load strictly. The output starts at zero, as the paper's new parameters do (section 4.3).
    """

    def __init__(self, channels: int, z_channels: int) -> None:
        super().__init__()
        self.norm = SpatialNorm(channels, z_channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        start_at_zero(self.output)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x, None, 1)
        query, key, value = (
            conv(normed).flatten(2).permute(2, 0, 1) for conv in (self.query, self.key, self.value)
        )  # [h*w, T, C]
        return x + self.output(attend(query, key, value).permute(1, 2, 0).reshape(x.shape))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One head: each `[B, n, C]`, all n attend to all n."""
    scores = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ value


def start_at_zero(layer: nn.Conv2d) -> None:
    """Set weight and bias to zero: a residual block then starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Level(nn.Module):
    """Residual blocks at one resolution, with attention and temporal blocks where the configuration asks for them.

    `decoder` is None in the encoder, which has no latent and sees one image at a time.
    """

    def __init__(self, widths: list[tuple[int, int]], attention: bool, decoder: MoVQConfig | None) -> None:
        super().__init__()
        temporal = decoder is not None and decoder.temporal
        self.blocks = nn.ModuleList(ResnetBlock(i, o, decoder, temporal) for i, o in widths)
        self.attentions = nn.ModuleList(AttnBlock(o, decoder) for _, o in widths if attention)
        self.temporal_blocks, self.temporal_attentions = nn.ModuleList(), nn.ModuleList()
        if decoder is not None and decoder.temporal_blocks:
            self.temporal_blocks.extend(TemporalResnetBlock(o, decoder.z_channels) for _, o in widths)
        if decoder is not None and decoder.temporal_attention_block and attention:
            self.temporal_attentions.extend(TemporalAttnBlock(o, decoder.z_channels) for _, o in widths)

    def forward(self, x: Tensor, latent: Tensor | None, enlarge: int) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x, latent, enlarge)
            if len(self.temporal_blocks) > 0:
                x = self.temporal_blocks[index](x, latent, enlarge)
            if len(self.attentions) > 0:
                x = self.attentions[index](x, latent, enlarge)
            if len(self.temporal_attentions) > 0:
                x = self.temporal_attentions[index](x)
        return x


class Middle(nn.Module):
    """The middle of both halves: two residual blocks around attention, and what looks along time."""

    def __init__(self, channels: int, decoder: MoVQConfig | None) -> None:
        super().__init__()
        temporal = decoder is not None and decoder.temporal and decoder.temporal_mid_blocks
        self.block1 = ResnetBlock(channels, channels, decoder, temporal)
        self.attention = AttnBlock(channels, decoder)
        self.block2 = ResnetBlock(channels, channels, decoder, temporal)
        self.temporal_attention: TemporalAttnBlock | None = None
        self.temporal_block1: TemporalResnetBlock | None = None
        self.temporal_block2: TemporalResnetBlock | None = None
        if decoder is not None and decoder.temporal_attention_block:
            self.temporal_attention = TemporalAttnBlock(channels, decoder.z_channels)
        if decoder is not None and decoder.temporal_blocks:
            self.temporal_block1 = TemporalResnetBlock(channels, decoder.z_channels)
            self.temporal_block2 = TemporalResnetBlock(channels, decoder.z_channels)
        self.flicker: nn.Linear | None = None  # used in training alone; kept so that released weights load strictly
        if decoder is not None and temporal and decoder.flicker_augmentation:
            self.flicker = nn.Linear(1, channels)

    def forward(self, x: Tensor, latent: Tensor | None) -> Tensor:
        x = self.block1(x, latent, 1)
        x = self.attention(x, latent, 1)
        if self.temporal_attention is not None:
            x = self.temporal_attention(x)
        if self.temporal_block1 is not None:
            x = self.temporal_block1(x, latent, 1)
        x = self.block2(x, latent, 1)
        return x if self.temporal_block2 is None else self.temporal_block2(x, latent, 1)


class MoVQEncoder(nn.Module):
    """`[N, 3, H, W]` -> `[N, 4, h, w]`."""

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
    """`[N, 4, h, w]` -> `[N, 3, H, W]`; every norm looks at the latent.

    Where `config.decodes_clips` the N frames are one clip and see each other. `build_3D_decoder` is the paper's
    "2D -> 3D conv": 3x3x3 convolutions of the clip in the residual blocks. The released code builds them but cannot run
    them (it hands Conv3d single frames), so that one follows the paper; the parameter count is the published one.
    """

    def __init__(self, config: MoVQConfig) -> None:
        super().__init__()
        z_channels = config.z_channels
        before = config.ch * config.ch_mult[-1]
        resolution = config.resolution // config.downscale
        self.post_quant_conv = nn.Conv2d(z_channels, z_channels, 1)
        self.conv_in = nn.Conv2d(z_channels, before, 3, padding=1)
        self.middle = Middle(before, config)
        self.levels = nn.ModuleList()  # from the smallest resolution to the full one
        self.upsamples = nn.ModuleList()
        for index, multiplier in enumerate(reversed(config.ch_mult)):
            width = config.ch * multiplier
            pairs = [(before, width)] + [(width, width)] * config.num_res_blocks
            self.levels.append(Level(pairs, resolution in config.attn_resolutions, config))
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
