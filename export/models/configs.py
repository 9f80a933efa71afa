"""Sizes of every network: frozen dataclasses and one dictionary of presets, a line each.

Field names are those of the released constructors (branch `kandinsky_video_1_0`), so a released configuration
fills the dataclass key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from export.errors import ConfigError

TemporalConditioning = Literal["Conv1dAttn1dLayers", "Conv1dAttn1dBlocks", "Conv1dAttn3dBlocks", "Conv3dAttn1dBlocks"]
"""How the keyframe U-Net looks along time (paper section 4.1, Table 1); both releases are the second."""


@dataclass(frozen=True)
class TextConfig:
    """A text encoder and the projection behind it (released: Flan-UL2, 4096 wide, 128 tokens).

    `model_type` and `sizes` are those of the encoder's config.json, by the names of transformers, whose defaults hold
    where a size is missing. Without `projection` the context is the encoder's own output, and `context_dim` its width.
    """

    model_type: str
    sizes: Mapping[str, Any]
    context_dim: int
    projection: bool = True
    max_tokens: int = 128

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return int(self.sizes["vocab_size"])


@dataclass(frozen=True)
class UNetConfig:
    """One U-Net. `num_channels` in, `out_channels` out; per-level tuples run from full resolution downwards.

    `temporal` belongs to the keyframe U-Nets, `noise_augmentation` and `motion_score` to the 1.1 one, the two
    `add_` at the end to the 1.1 interpolation U-Net. Released dictionaries: `export.checkpoints.configs`.
    """

    model_channels: int
    init_channels: int
    time_embed_dim: int
    context_dim: int
    num_channels: int = 4
    out_channels: int = 4
    groups: int = 32
    head_dim: int = 64
    expansion_ratio: int = 4
    compression_ratio: int = 2
    dim_mult: tuple[int, ...] = (1, 2, 4, 8)
    num_blocks: tuple[int, ...] = (3, 3, 3, 3)
    add_cross_attention: tuple[bool, ...] = (False, True, True, True)
    add_self_attention: tuple[bool, ...] = (False, True, True, True)
    temporal: TemporalConditioning = "Conv1dAttn1dBlocks"
    noise_augmentation: bool = False
    motion_score: bool = False
    add_temporal_attention: bool = False
    add_new_temporal_params: bool = False

    def __post_init__(self) -> None:
        levels = {len(self.dim_mult), len(self.num_blocks), len(self.add_cross_attention), len(self.add_self_attention)}
        if len(levels) != 1:
            raise ConfigError(f"expected one entry per level in all four tuples, got lengths {sorted(levels)}")
        if min(self.num_blocks) < 2:
            raise ConfigError(f"expected at least 2 blocks per level (the way up needs them), got {self.num_blocks}")
        if self.temporal not in get_args(TemporalConditioning):
            raise ConfigError(f"temporal: expected one of {get_args(TemporalConditioning)}, got {self.temporal!r}")

    @property
    def size_multiple(self) -> int:
        """Latent height and width must be multiples of this.

        There is one halving per level but the last, and an even size wherever Conv1dAttn3dBlocks attends.
        """
        halvings = len(self.dim_mult) - 1
        if self.temporal == "Conv1dAttn3dBlocks" and self.add_self_attention[-1]:
            halvings += 1
        return int(2**halvings)


@dataclass(frozen=True)
class MoVQConfig:
    """MoVQ encoder and decoder (released: ch 256, multipliers 1 2 2 4, attention at 32).

    `DECODERS` names those of the paper's Table 3. Temporal fields are of the decoder alone; kernels are (frames,
    height, width).
    """

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    resolution: int
    z_channels: int = 4
    in_channels: int = 3
    out_ch: int = 3
    temporal: bool = False  # convolutions over the clip inside the residual blocks
    temporal_mid_blocks: bool = True  # in those of the middle too
    temporal_kernel_size: tuple[int, int, int] = (3, 3, 3)
    temporal_conv_padding: tuple[int, int, int] = (1, 1, 1)
    temporal_attention_block: bool = False
    temporal_blocks: bool = False  # residual blocks of their own, with (3, 1, 1) convolutions
    build_3D_decoder: bool = False  # 3x3x3 instead of 3x3 convolutions in the residual blocks
    flicker_augmentation: bool = False  # one more layer, which only training uses

    def __post_init__(self) -> None:
        kernel, padding = self.temporal_kernel_size, self.temporal_conv_padding
        fits = len(kernel) == len(padding) == 3 and all(k == 2 * p + 1 for k, p in zip(kernel, padding, strict=True))
        if self.temporal and not fits:
            raise ConfigError(
                f"expected three odd sizes in temporal_kernel_size and their halves in temporal_conv_padding, such as "
                f"(3, 1, 1) and (1, 0, 0), so that the clip keeps its shape; got {kernel} and {padding}"
            )

    @property
    def decodes_clips(self) -> bool:
        """Whether the frames of one decoder call see each other, so that a call must be one clip."""
        return self.temporal or self.temporal_blocks or self.temporal_attention_block or self.build_3D_decoder

    @property
    def downscale(self) -> int:
        """Pixels per latent cell along one axis (the paper's f)."""
        return int(2 ** (len(self.ch_mult) - 1))


@dataclass(frozen=True)
class ModelConfig:
    """Everything one bundle is made of."""

    name: str
    text: TextConfig
    keyframes: UNetConfig
    interpolation: UNetConfig
    movq: MoVQConfig
    num_frames: int
    image_size: int
    keyframe_prediction: Literal["epsilon", "v"] = "epsilon"
    position_range: int = 180  # frame t of T keyframes stands at t * (180 // T)
    sampler: str = "ddpm"  # these six: what the bundle uses where a request says nothing
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    interpolation_sampler: str = "ddpm"
    interpolation_steps: int = 50
    interpolation_guidance_scale: float = 0.25
    image_height: int | None = None  # pixels; None: `image_size`, which then is the width alone
    residual: bool = False  # interpolation networks say what linear blending leaves (`export.models.residual`)
    masked_interpolation: UNetConfig | None = None  # the baseline of the benchmark; the released models have none


def _demo_keyframes() -> UNetConfig:
    return UNetConfig(
        model_channels=32,
        init_channels=48,
        time_embed_dim=64,
        context_dim=96,
        num_channels=4,
        out_channels=4,
        groups=8,
        head_dim=16,
        expansion_ratio=2,
        dim_mult=(1, 3, 3),
        num_blocks=(2, 2, 2),
        add_cross_attention=(False, True, True),
        add_self_attention=(False, True, True),
    )


def masked_shape(group: UNetConfig) -> UNetConfig:
    """The masked network of the same blocks: per frame noised 4, given 4 and mask 1 in, 4 out."""
    return replace(group, num_channels=9, out_channels=4)


def _demo_interpolation() -> UNetConfig:
    """Wider and less deep than the keyframe U-Net.

    Skips start after the first halving, where each cell must hold the noise of 4 latent pixels (48 numbers) and both
    keyframes (32), or the finest detail is lost for good.
    """
    return UNetConfig(
        model_channels=80,
        init_channels=64,
        time_embed_dim=32,
        context_dim=96,
        num_channels=20,
        out_channels=12,
        groups=8,
        head_dim=16,
        expansion_ratio=2,
        dim_mult=(1, 1),
        num_blocks=(2, 2),
        add_cross_attention=(False, True),
        add_self_attention=(False, True),
    )


_DEMO_TEXT = {
    "vocab_size": 512,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}
PRESETS = {
    "demo": ModelConfig(
        name="demo",
        text=TextConfig("t5", _DEMO_TEXT, context_dim=96),
        keyframes=_demo_keyframes(),
        interpolation=_demo_interpolation(),
        masked_interpolation=masked_shape(_demo_interpolation()),
        movq=MoVQConfig(ch=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1, attn_resolutions=(16,), resolution=128),
        num_frames=16,
        image_size=128,
        keyframe_prediction="v",
        guidance_scale=2.0,
        interpolation_sampler="ddim",
        interpolation_steps=1,
        interpolation_guidance_scale=0.0,
        residual=True,
    ),
}

_SMALL_MOVQ = MoVQConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(16,), resolution=64)
"""For 64 px: a quarter of the side, so that latents are 16 x 16 as in the demo."""
PRESETS["digits"] = replace(PRESETS["demo"], name="digits", image_size=64, movq=_SMALL_MOVQ)
PRESETS["people"] = replace(PRESETS["demo"], name="people", image_size=64, movq=_SMALL_MOVQ, num_frames=24)
"""The demo's networks for other domains of clips (`export.datasets.domains`)."""

PRESETS["film"] = replace(PRESETS["demo"], name="film", image_height=64, residual=True)
"""The demo's networks, trained on a film; its words and keyframes stay those of the demo."""


def _released_interpolation(model_channels: int, init_channels: int, embed: int, head: int, blocks: int) -> UNetConfig:
    return UNetConfig(
        model_channels=model_channels,
        init_channels=init_channels,
        time_embed_dim=embed,
        context_dim=embed,
        num_channels=20,
        out_channels=12,
        head_dim=head,
        num_blocks=(blocks,) * 4,
    )


INTERPOLATION_SHAPES = {
    "small": _released_interpolation(64, 32, 256, 32, 2),  # 72.9 M parameters: the paper's shape, less wide and deep
    "full": replace(_released_interpolation(384, 192, 1536, 64, 3), context_dim=4096),  # released, 3872.6 M
}

KEYFRAME_SHAPES_SMALL = replace(INTERPOLATION_SHAPES["small"], num_channels=4, out_channels=4)  # 79.4 M
"""The keyframe network beside the small interpolation network."""

_IMAGE_DECODER = MoVQConfig(ch=256, ch_mult=(1, 2, 2, 4), num_res_blocks=2, attn_resolutions=(32,), resolution=256)
_CONV_3X1X1 = replace(_IMAGE_DECODER, temporal=True, temporal_kernel_size=(3, 1, 1), temporal_conv_padding=(1, 0, 0))
_CONV_3X3X3 = replace(_IMAGE_DECODER, temporal=True)

DECODERS: Mapping[str, MoVQConfig] = {
    "image": _IMAGE_DECODER,  # 1.0; 161.1 M parameters, counted with post_quant_conv as in Table 3
    "conv3x1x1": _CONV_3X1X1,  # 203.2 M
    "conv3x3x3": _CONV_3X3X3,  # 539.8 M
    "conv3x1x1_attention": replace(_CONV_3X1X1, temporal_attention_block=True),  # 220.0 M
    "conv3x3x3_attention": replace(_CONV_3X3X3, temporal_attention_block=True),  # 1.1; 556.6 M, the best of the table
    "resnet_attention": replace(_IMAGE_DECODER, temporal_blocks=True, temporal_attention_block=True),  # 220.2 M
    "conv3d": replace(_IMAGE_DECODER, build_3D_decoder=True),  # 419.5 M
}
"""The MoVQ decoders of the paper's Table 3 at their released size."""


_RELEASED = UNetConfig(model_channels=384, init_channels=192, time_embed_dim=1536, context_dim=4096)

KEYFRAME_SHAPES: dict[TemporalConditioning, UNetConfig] = {
    name: replace(_RELEASED, temporal=name) for name in get_args(TemporalConditioning)
}
"""The paper's Table 1 at the released size, on the 3038.6 M frozen parameters of text-to-image."""
