"""Sizes of every network: frozen dataclasses and one dictionary of presets, a line each.

Field names are those of the released constructors (branch ``kandinsky_video_1_0``), so a released configuration
fills the dataclass key by key.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class T5Config:
    """T5-type text encoder and the projection behind it (released: Flan-UL2, 4096 wide, 128 tokens)."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    context_dim: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


@dataclass(frozen=True)
class UNetConfig:
    """One U-Net. ``num_channels`` in, ``out_channels`` out; per-level tuples run from full resolution downwards."""

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

    def __post_init__(self) -> None:
        levels = {len(self.dim_mult), len(self.num_blocks), len(self.add_cross_attention), len(self.add_self_attention)}
        if len(levels) != 1:
            raise ValueError(f"wanted one entry per level in all four tuples, got lengths {sorted(levels)}")
        if min(self.num_blocks) < 2:
            raise ValueError(f"wanted at least 2 blocks per level (the way up needs them), got {self.num_blocks}")

    @property
    def size_multiple(self) -> int:
        """Latent height and width must be multiples of this: one halving per level but the last."""
        return int(2 ** (len(self.dim_mult) - 1))


@dataclass(frozen=True)
class MoVQConfig:
    """MoVQ encoder and image decoder (released: ch 128, multipliers 1 2 2 4, attention at 32)."""

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    resolution: int
    z_channels: int = 4
    in_channels: int = 3
    out_ch: int = 3

    @property
    def downscale(self) -> int:
        """Pixels per latent cell along one axis (the paper's f)."""
        return int(2 ** (len(self.ch_mult) - 1))


@dataclass(frozen=True)
class ModelConfig:
    """Everything one bundle is made of."""

    name: str
    text: T5Config
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
    masked_interpolation: UNetConfig | None = None  # the baseline of the benchmark; the released models have none


def _demo_keyframes() -> UNetConfig:
    return UNetConfig(
        model_channels=32, init_channels=48, time_embed_dim=64, context_dim=96, num_channels=4, out_channels=4,
        groups=8, head_dim=16, expansion_ratio=2, dim_mult=(1, 3, 3), num_blocks=(2, 2, 2),
        add_cross_attention=(False, True, True), add_self_attention=(False, True, True),
    )  # fmt: skip


def masked_shape(group: UNetConfig) -> UNetConfig:
    """The masked network of the same blocks: per frame noised 4, given 4 and mask 1 in, 4 out."""
    return replace(group, num_channels=9, out_channels=4)


def _demo_interpolation() -> UNetConfig:
    """Wider and less deep than the keyframe U-Net: skips start after the first halving, where each cell must hold the
    noise of 4 latent pixels (48 numbers) and both keyframes (32), or the finest detail is lost for good."""
    return UNetConfig(
        model_channels=80, init_channels=64, time_embed_dim=32, context_dim=96, num_channels=20,
        out_channels=12, groups=8, head_dim=16, expansion_ratio=2, dim_mult=(1, 1), num_blocks=(2, 2),
        add_cross_attention=(False, True), add_self_attention=(False, True),
    )  # fmt: skip


PRESETS = {
    "demo": ModelConfig(
        name="demo",
        text=T5Config(vocab_size=512, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, context_dim=96),
        keyframes=_demo_keyframes(),
        interpolation=_demo_interpolation(),
        masked_interpolation=masked_shape(_demo_interpolation()),
        movq=MoVQConfig(ch=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1, attn_resolutions=(16,), resolution=128),
        num_frames=16,
        image_size=128,
        keyframe_prediction="v",
        guidance_scale=2.0,
        interpolation_sampler="ddim",
        interpolation_steps=4,
        interpolation_guidance_scale=0.0,
    ),
}


def _released_interpolation(model_channels: int, init_channels: int, embed: int, head: int, blocks: int) -> UNetConfig:
    return UNetConfig(
        model_channels=model_channels, init_channels=init_channels, time_embed_dim=embed, context_dim=embed,
        num_channels=20, out_channels=12, head_dim=head, num_blocks=(blocks,) * 4,
    )  # fmt: skip


INTERPOLATION_SHAPES = {
    "small": _released_interpolation(64, 32, 256, 32, 2),  # 72.9 M parameters: the paper's shape, less wide and deep
    "full": replace(_released_interpolation(384, 192, 1536, 64, 3), context_dim=4096),  # released, 3872.6 M
}
