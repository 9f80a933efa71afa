"""Released names of weights <-> ours: one table a network, which is read in both directions.

A function takes `(key, tensor)` and gives `(key, tensor)`. Sources: branch `kandinsky_video_1_0` of the released code
and its main branch (1.1). Every released key has exactly one place; loading is strict on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from export.errors import CheckpointError

Network = TypeVar("Network", bound=nn.Module)
Rename = Callable[[str, Tensor], tuple[str, Tensor]]
Table = Sequence[tuple[str, str]]
"""Rows `(released, ours)`: `^` is the beginning of a name, `$` its end, `#` the same number on both sides. Rows are
applied from the first to the last, and backwards from the last to the first."""

_UNET = [
    ("^to_time_embed.1.", "^time_embed.linear1."),
    ("^to_time_embed.3.", "^time_embed.linear2."),
    ("^to_temporal_embed.1.", "^frame_embed.linear1."),
    ("^to_temporal_embed.3.", "^frame_embed.linear2."),
    ("^perturbation_to_time_embed.1.", "^perturbation_embed.linear1."),
    ("^perturbation_to_time_embed.3.", "^perturbation_embed.linear2."),
    ("^time_embed_merge$", "^perturbation_merge$"),
    ("^skip_embeddings.", "^skip_embed."),
    ("^feature_pooling.", "^text_pooling."),
    ("^in_layer.", "^body.in_conv."),
    ("^out_layer.0.", "^body.out_norm."),
    ("^out_layer.2.", "^body.out_conv."),
    ("^down_samples.", "^body.down."),
    ("^up_samples.", "^body.up."),
    (".self_attention_block.", ".self_attention."),
    (".temporal_attention_block.", ".temporal_attention."),
    (".temporal_attention.temporal_attention.", ".temporal_attention.attention."),
    (".resnet_attn_blocks.#.0.", ".pairs.#.resnet_in."),
    (".resnet_attn_blocks.#.1.", ".pairs.#.cross_attention."),
    (".resnet_attn_blocks.#.2.", ".pairs.#.resnet_out."),
    (".resnet_attn_blocks.#.3.", ".pairs.#.temporal_in."),
    (".resnet_attn_blocks.#.4.", ".pairs.#.temporal_out."),
    (".temporal_resnet_blocks.#.0.context_mlp.1.", ".norms.#.linear."),
    (".temporal_resnet_blocks.#.2.", ".convs.#."),
    (".resnet_blocks.#.temporal_merge$", ".blocks.#.group_conv.merge$"),
    (".resnet_blocks.#.temporal_projection.", ".blocks.#.group_conv.conv."),
    (".resnet_blocks.#.group_norm.", ".blocks.#.norm."),
    (".resnet_blocks.#.projection.", ".blocks.#.conv."),
    (".resnet_blocks.#.up_sample.", ".blocks.#.up."),
    (".resnet_blocks.#.down_sample.", ".blocks.#.down."),
    (".shortcut_up_sample.", ".shortcut_up."),
    (".shortcut_projection.", ".shortcut."),
    (".shortcut_down_sample.", ".shortcut_down."),
    ("norm.context_mlp.1.", "norm.linear."),
    (".feed_forward.0.", ".feed_forward.conv1."),
    (".feed_forward.2.", ".feed_forward.conv2."),
    (".to_query.", ".query."),
    (".to_key.", ".key."),
    (".to_value.", ".value."),
    (".output_layer.", ".output."),
]
# Regular expressions, applied first. 1.1 spells some layers of 1.0 in another way, so there is no way back.
_ONLY_1_1 = [
    (r"^temporal_noise_aug_time_encoding\.1\.", "noise_embed.linear1."),
    (r"^temporal_noise_aug_time_encoding\.3\.", "noise_embed.linear2."),
    (r"^temporal_motion_score_encoding\.1\.", "motion_embed.linear1."),
    (r"^temporal_motion_score_encoding\.3\.", "motion_embed.linear2."),
    (r"^image_in_layer\.", "image_in_conv."),
    (r"^temporal_conv_(in|out)\.", r"body.group_conv_\1."),
    (r"\.temporal_attention_block\.temporal_norm\.", ".temporal_attention.in_norm."),
    (r"\.temporal_attention_block\.ff_norm\.", ".temporal_attention.out_norm."),
    (r"\.temporal_attention_block\.temporal_merge1$", ".temporal_attention.attention_merge"),
    (r"\.temporal_attention_block\.temporal_merge2$", ".temporal_attention.feed_merge"),
    (r"\.resnet_blocks\.(\d+)\.temporal_projection_new\.", r".blocks.\1.group_conv."),
    (r"\.resnet_blocks\.(\d+)\.temporal_post_(up|down)sample\.", r".blocks.\1.group_conv_\2."),
    (r"\.temporal_post_(up|down)sample\.", r".shortcut_group_conv_\1."),
    (r"(group_conv\w*)\.temporal_merge$", r"\1.merge"),
    (r"(group_conv\w*)\.temporal_projection\.", r"\1.conv."),
]
_MOVQ = [
    ("^quant_conv.", "^encoder.quant_conv."),
    ("^post_quant_conv.", "^decoder.post_quant_conv."),
    (".mid.block_1.temporal_flicker_proj.", ".middle.flicker."),
    (".mid.block_#.", ".middle.block#."),
    (".mid.attn_1.", ".middle.attention."),
    (".mid.temporal_block_#.", ".middle.temporal_block#."),
    (".mid.temporal_attn_1.", ".middle.temporal_attention."),
    ("^encoder.down.#.block.", "^encoder.levels.#.blocks."),
    ("^encoder.down.#.attn.", "^encoder.levels.#.attentions."),
    ("^encoder.down.#.downsample.conv.", "^encoder.downsamples.#."),
    ("^decoder.up.#.block.", "^decoder.levels.#.blocks."),
    ("^decoder.up.#.attn.", "^decoder.levels.#.attentions."),
    ("^decoder.up.#.temporal_block.", "^decoder.levels.#.temporal_blocks."),
    ("^decoder.up.#.temporal_attn.", "^decoder.levels.#.temporal_attentions."),
    ("^decoder.up.#.upsample.conv.", "^decoder.upsamples.#."),
    (".temporal_merge#$", ".temporal#.merge$"),
    (".temporal_projection#.", ".temporal#.conv."),
    (".norm_layer.weight$", ".norm.weight$"),
    (".norm_layer.bias$", ".norm.bias$"),
    (".conv_y.", ".scale."),
    (".conv_b.", ".shift."),
    (".nin_shortcut.", ".shortcut."),
    (".q.", ".query."),
    (".k.", ".key."),
    (".v.", ".value."),
    (".proj_out.", ".output."),
]

_TEXT_BEFORE = [
    ("^t5.embedding.", "^encoder.embed_tokens."),
    ("^t5.position.bias.", "^encoder.block.0.layer.0.SelfAttention.relative_attention_bias."),
    ("^t5.norm.", "^encoder.final_layer_norm."),
    ("^t5.layers.#.query.", "^encoder.block.#.layer.0.SelfAttention.q."),
    ("^t5.layers.#.key.", "^encoder.block.#.layer.0.SelfAttention.k."),
    ("^t5.layers.#.value.", "^encoder.block.#.layer.0.SelfAttention.v."),
    ("^t5.layers.#.output.", "^encoder.block.#.layer.0.SelfAttention.o."),
    ("^t5.layers.#.attention_norm.", "^encoder.block.#.layer.0.layer_norm."),
    ("^t5.layers.#.gate.", "^encoder.block.#.layer.1.DenseReluDense.wi_0."),
    ("^t5.layers.#.linear.", "^encoder.block.#.layer.1.DenseReluDense.wi_1."),
    ("^t5.layers.#.feed_output.", "^encoder.block.#.layer.1.DenseReluDense.wo."),
    ("^t5.layers.#.feed_norm.", "^encoder.block.#.layer.1.layer_norm."),
]


def _replace(key: str, rows: Table) -> str:
    """Apply rows `(from, to)` in order."""
    for old, new in rows:
        pattern = re.escape(old).replace(r"\^", "^").replace(r"\$", "$").replace(r"\#", r"(\d+)")
        key = re.sub(pattern, new.strip("^$").replace("#", r"\1"), key)
    return key


def _backwards(table: Table) -> Table:
    return [(ours, released) for released, ours in reversed(table)]


def unet_key(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A released U-Net of 1.0 or 1.1, keyframes or interpolation -> ours: (k, 1, 1) kernels become (k, 1)."""
    for pattern, ours in _ONLY_1_1:
        key = re.sub(pattern, ours, key)
    return _replace(key, _UNET), tensor.squeeze(-1) if tensor.dim() == 5 else tensor


def released_unet_key(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The way back of `unet_key` for a U-Net of 1.0: (k, 1) kernels over time become (k, 1, 1) again."""
    name = _replace(key, _backwards(_UNET))
    over_time = tensor.dim() == 4 and (".temporal_projection." in name or ".temporal_resnet_blocks." in name)
    return name, tensor.unsqueeze(-1) if over_time else tensor


def movq_key(levels: int) -> Rename:
    """A released MoVQ with any decoder of the paper's Table 3 -> ours: (k, 1, 1) kernels become (k, 1).

    The released decoder counts its `levels` from the full resolution down; ours go up.
    """

    def rename(key: str, tensor: Tensor) -> tuple[str, Tensor]:
        over_time = tensor.dim() == 5 and tensor.shape[3:] == (1, 1)
        return _replace(_turned(key, levels), _MOVQ), tensor.squeeze(-1) if over_time else tensor

    return rename


def released_movq_key(levels: int) -> Rename:
    """The way back of `movq_key` for the decoder of images."""

    def rename(key: str, tensor: Tensor) -> tuple[str, Tensor]:
        return _turned(_replace(key, _backwards(_MOVQ)), levels), tensor

    return rename


def _turned(key: str, levels: int) -> str:
    """Count the decoder's levels from the other end."""
    return re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up.{levels - 1 - int(found[1])}.", key)


def text_key(key: str) -> str:
    """The demo's text encoder, whose weights were saved when its T5 was written here -> today's name."""
    return _replace(key, _TEXT_BEFORE)


def projection_key(key: str) -> str:
    """The projection behind the text encoder, Linear and LayerNorm, as 1.0 (`t5.0.weight`) and 1.1 keep it."""
    bare = key.removeprefix("projections.").removeprefix("t5.")
    return _replace(bare, [("^0.", "projection."), ("^1.", "projection_norm.")])


def load_released(module: Network, released: Mapping[str, Tensor], rename: Rename) -> Network:
    """Fill `module` from a released state dict, in its own dtype; returns it in evaluation mode.

    Raises CheckpointError naming the keys that are missing or left over, or a tensor of another shape.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in released.items():
        ours, value = rename(key, tensor)
        if ours in renamed:
            raise CheckpointError(f"two released keys become {ours!r}; the second is {key!r}")
        renamed[ours] = value
    expected = module.state_dict()
    missing, left = sorted(expected.keys() - renamed.keys()), sorted(renamed.keys() - expected.keys())
    if missing or left:
        raise CheckpointError(
            f"the checkpoint does not fit this configuration: missing {missing[:5]}, left over {left[:5]}"
        )
    for key, value in renamed.items():
        if value.shape != expected[key].shape:
            raise CheckpointError(f"{key}: expected shape {list(expected[key].shape)}, got {list(value.shape)}")
    module.load_state_dict({key: value.to(expected[key].dtype) for key, value in renamed.items()}, strict=True)
    return module.eval()
