"""Released state dicts -> ours: one pure function a network, ``(key, tensor) -> (key, tensor)``, from a table each.

Sources: branch ``kandinsky_video_1_0`` of the released code (U-Nets, MoVQ) and Hugging Face's T5 encoder. Every
released key has exactly one place; loading is strict on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

Rename = Callable[[str, Tensor], tuple[str, Tensor]]

_UNET = [
    (r"^to_time_embed\.1\.", "time_embed.linear1."),
    (r"^to_time_embed\.3\.", "time_embed.linear2."),
    (r"^to_temporal_embed\.1\.", "frame_embed.linear1."),
    (r"^to_temporal_embed\.3\.", "frame_embed.linear2."),
    (r"^perturbation_to_time_embed\.1\.", "perturbation_embed.linear1."),
    (r"^perturbation_to_time_embed\.3\.", "perturbation_embed.linear2."),
    (r"^time_embed_merge$", "perturbation_merge"),
    (r"^skip_embeddings\.", "skip_embed."),
    (r"^feature_pooling\.", "text_pooling."),
    (r"^in_layer\.", "body.in_conv."),
    (r"^out_layer\.0\.", "body.out_norm."),
    (r"^out_layer\.2\.", "body.out_conv."),
    (r"^down_samples\.", "body.down."),
    (r"^up_samples\.", "body.up."),
    (r"\.self_attention_block\.", ".self_attention."),
    (r"\.temporal_attention_block\.temporal_attention\.", ".temporal_attention.attention."),
    (r"\.temporal_attention_block\.", ".temporal_attention."),
    (r"\.resnet_attn_blocks\.(\d+)\.0\.", r".pairs.\1.resnet_in."),
    (r"\.resnet_attn_blocks\.(\d+)\.1\.", r".pairs.\1.cross_attention."),
    (r"\.resnet_attn_blocks\.(\d+)\.2\.", r".pairs.\1.resnet_out."),
    (r"\.resnet_attn_blocks\.(\d+)\.3\.", r".pairs.\1.temporal_in."),
    (r"\.resnet_attn_blocks\.(\d+)\.4\.", r".pairs.\1.temporal_out."),
    (r"\.temporal_resnet_blocks\.(\d+)\.0\.context_mlp\.1\.", r".norms.\1.linear."),
    (r"\.temporal_resnet_blocks\.(\d+)\.2\.", r".convs.\1."),
    (r"\.resnet_blocks\.(\d+)\.temporal_merge$", r".blocks.\1.group_conv.merge"),
    (r"\.resnet_blocks\.(\d+)\.temporal_projection\.", r".blocks.\1.group_conv.conv."),
    (r"\.resnet_blocks\.(\d+)\.group_norm\.", r".blocks.\1.norm."),
    (r"\.resnet_blocks\.(\d+)\.projection\.", r".blocks.\1.conv."),
    (r"\.resnet_blocks\.(\d+)\.up_sample\.", r".blocks.\1.up."),
    (r"\.resnet_blocks\.(\d+)\.down_sample\.", r".blocks.\1.down."),
    (r"\.shortcut_up_sample\.", ".shortcut_up."),
    (r"\.shortcut_projection\.", ".shortcut."),
    (r"\.shortcut_down_sample\.", ".shortcut_down."),
    (r"norm\.context_mlp\.1\.", "norm.linear."),
    (r"\.feed_forward\.0\.", ".feed_forward.conv1."),
    (r"\.feed_forward\.2\.", ".feed_forward.conv2."),
    (r"\.to_query\.", ".query."),
    (r"\.to_key\.", ".key."),
    (r"\.to_value\.", ".value."),
    (r"\.output_layer\.", ".output."),
]

_MOVQ = [
    (r"^quant_conv\.", "encoder.quant_conv."),
    (r"^post_quant_conv\.", "decoder.post_quant_conv."),
    (r"\.mid\.block_(\d)\.", r".middle.block\1."),
    (r"\.mid\.attn_1\.", ".middle.attention."),
    (r"\.(?:down|up)\.(\d+)\.block\.", r".levels.\1.blocks."),
    (r"\.(?:down|up)\.(\d+)\.attn\.", r".levels.\1.attentions."),
    (r"\.down\.(\d+)\.downsample\.conv\.", r".downsamples.\1."),
    (r"\.up\.(\d+)\.upsample\.conv\.", r".upsamples.\1."),
    (r"\.norm_layer\.", ".norm."),
    (r"\.conv_y\.", ".scale."),
    (r"\.conv_b\.", ".shift."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.q\.", ".query."),
    (r"\.k\.", ".key."),
    (r"\.v\.", ".value."),
    (r"\.proj_out\.", ".output."),
]

_T5 = [
    (r"^shared\.", "embedding."),
    (r"^encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.", "position.bias."),
    (r"^encoder\.final_layer_norm\.", "norm."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.q\.", r"layers.\1.query."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.k\.", r"layers.\1.key."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.v\.", r"layers.\1.value."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.o\.", r"layers.\1.output."),
    (r"^encoder\.block\.(\d+)\.layer\.0\.layer_norm\.", r"layers.\1.attention_norm."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.", r"layers.\1.gate."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.", r"layers.\1.linear."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.", r"layers.\1.feed_output."),
    (r"^encoder\.block\.(\d+)\.layer\.1\.layer_norm\.", r"layers.\1.feed_norm."),
]


def _apply(table: list[tuple[str, str]], key: str) -> str:
    for pattern, ours in table:
        key = re.sub(pattern, ours, key)
    return key


def unet_key(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A U-Net of the 1.0 release, keyframes or interpolation: (k, 1, 1) kernels become (k, 1)."""
    return _apply(_UNET, key), tensor.squeeze(-1) if tensor.dim() == 5 else tensor


def movq_key(levels: int) -> Rename:
    """The image MoVQ of the 1.0 release, which counts the decoder's levels from the full resolution down; we go up."""

    def rename(key: str, tensor: Tensor) -> tuple[str, Tensor]:
        turned = re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up.{levels - 1 - int(found[1])}.", key)
        return _apply(_MOVQ, turned), tensor

    return rename


def t5_key(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Hugging Face's T5 encoder (T5EncoderModel, gated GELU)."""
    return _apply(_T5, key), tensor


def load_released(module: nn.Module, released: Mapping[str, Tensor], rename: Rename) -> nn.Module:
    """Fill ``module`` from a released state dict, in its own dtype; returns it in evaluation mode.

    Raises ValueError naming the keys that are missing or left over, or a tensor of another shape.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in released.items():
        ours, value = rename(key, tensor)
        if ours in renamed:
            raise ValueError(f"two released keys become {ours!r}; the second is {key!r}")
        renamed[ours] = value
    wanted = module.state_dict()
    missing, left = sorted(wanted.keys() - renamed.keys()), sorted(renamed.keys() - wanted.keys())
    if missing or left:
        raise ValueError(f"the checkpoint does not fit this configuration: missing {missing[:5]}, left over {left[:5]}")
    for key, value in renamed.items():
        if value.shape != wanted[key].shape:
            raise ValueError(f"{key}: wanted shape {list(wanted[key].shape)}, got {list(value.shape)}")
    module.load_state_dict({key: value.to(wanted[key].dtype) for key, value in renamed.items()}, strict=True)
    return module.eval()
