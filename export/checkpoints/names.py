"""Released state dicts -> ours: one pure function a network, ``(key, tensor) -> (key, tensor)``, from a table each.

Sources: branch ``kandinsky_video_1_0`` of the released code (U-Nets, MoVQ) and Hugging Face's T5 encoder. Every
released key has exactly one place; loading is strict on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
Rename = Callable[[str, Tensor], tuple[str, Tensor]]

_UNET = [
    (r"^to_time_embed\.1\.", "time_embed.linear1."),
    (r"^to_time_embed\.3\.", "time_embed.linear2."),
    (r"^to_temporal_embed\.1\.", "frame_embed.linear1."),
    (r"^to_temporal_embed\.3\.", "frame_embed.linear2."),
    (r"^perturbation_to_time_embed\.1\.", "perturbation_embed.linear1."),
    (r"^perturbation_to_time_embed\.3\.", "perturbation_embed.linear2."),
    (r"^temporal_noise_aug_time_encoding\.1\.", "noise_embed.linear1."),
    (r"^temporal_noise_aug_time_encoding\.3\.", "noise_embed.linear2."),
    (r"^temporal_motion_score_encoding\.1\.", "motion_embed.linear1."),
    (r"^temporal_motion_score_encoding\.3\.", "motion_embed.linear2."),
    (r"^time_embed_merge$", "perturbation_merge"),
    (r"^skip_embeddings\.", "skip_embed."),
    (r"^feature_pooling\.", "text_pooling."),
    (r"^in_layer\.", "body.in_conv."),
    (r"^image_in_layer\.", "image_in_conv."),
    (r"^temporal_conv_(in|out)\.", r"body.group_conv_\1."),
    (r"^out_layer\.0\.", "body.out_norm."),
    (r"^out_layer\.2\.", "body.out_conv."),
    (r"^down_samples\.", "body.down."),
    (r"^up_samples\.", "body.up."),
    (r"\.self_attention_block\.", ".self_attention."),
    (r"\.temporal_attention_block\.temporal_attention\.", ".temporal_attention.attention."),
    (r"\.temporal_attention_block\.temporal_norm\.", ".temporal_attention.in_norm."),
    (r"\.temporal_attention_block\.ff_norm\.", ".temporal_attention.out_norm."),
    (r"\.temporal_attention_block\.temporal_merge1$", ".temporal_attention.attention_merge"),
    (r"\.temporal_attention_block\.temporal_merge2$", ".temporal_attention.feed_merge"),
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
    (r"\.resnet_blocks\.(\d+)\.temporal_projection_new\.", r".blocks.\1.group_conv."),
    (r"\.resnet_blocks\.(\d+)\.temporal_post_(up|down)sample\.", r".blocks.\1.group_conv_\2."),
    (r"\.temporal_post_(up|down)sample\.", r".shortcut_group_conv_\1."),
    (r"(group_conv\w*)\.temporal_merge$", r"\1.merge"),
    (r"(group_conv\w*)\.temporal_projection\.", r"\1.conv."),
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
    (r"\.mid\.block_1\.temporal_flicker_proj\.", ".middle.flicker."),
    (r"\.mid\.(temporal_)?block_(\d)\.", r".middle.\1block\2."),
    (r"\.mid\.(temporal_)?attn_1\.", r".middle.\1attention."),
    (r"\.(?:down|up)\.(\d+)\.(temporal_)?block\.", r".levels.\1.\2blocks."),
    (r"\.(?:down|up)\.(\d+)\.(temporal_)?attn\.", r".levels.\1.\2attentions."),
    (r"\.temporal_merge(\d)$", r".temporal\1.merge"),
    (r"\.temporal_projection(\d)\.", r".temporal\1.conv."),
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
    ("shared.", "embedding."),
    ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.", "position.bias."),
    ("encoder.block.#.layer.0.SelfAttention.relative_attention_bias.", "layers.#.position.bias."),  # UMT5
    ("encoder.final_layer_norm.", "norm."),
    ("encoder.block.#.layer.0.SelfAttention.q.", "layers.#.query."),
    ("encoder.block.#.layer.0.SelfAttention.k.", "layers.#.key."),
    ("encoder.block.#.layer.0.SelfAttention.v.", "layers.#.value."),
    ("encoder.block.#.layer.0.SelfAttention.o.", "layers.#.output."),
    ("encoder.block.#.layer.0.layer_norm.", "layers.#.attention_norm."),
    ("encoder.block.#.layer.1.DenseReluDense.wi_0.", "layers.#.gate."),
    ("encoder.block.#.layer.1.DenseReluDense.wi_1.", "layers.#.linear."),
    ("encoder.block.#.layer.1.DenseReluDense.wi.", "layers.#.feed_input."),
    ("encoder.block.#.layer.1.DenseReluDense.wo.", "layers.#.feed_output."),
    ("encoder.block.#.layer.1.layer_norm.", "layers.#.feed_norm."),
]

_CLIP = [
    ("text_model.embeddings.token_embedding.", "embedding."),
    ("text_model.embeddings.position_embedding.", "position."),
    ("text_model.final_layer_norm.", "norm."),
    ("text_model.encoder.layers.#.self_attn.q_proj.", "layers.#.query."),
    ("text_model.encoder.layers.#.self_attn.k_proj.", "layers.#.key."),
    ("text_model.encoder.layers.#.self_attn.v_proj.", "layers.#.value."),
    ("text_model.encoder.layers.#.self_attn.out_proj.", "layers.#.output."),
    ("text_model.encoder.layers.#.layer_norm1.", "layers.#.attention_norm."),
    ("text_model.encoder.layers.#.layer_norm2.", "layers.#.feed_norm."),
    ("text_model.encoder.layers.#.mlp.fc1.", "layers.#.feed_input."),
    ("text_model.encoder.layers.#.mlp.fc2.", "layers.#.feed_output."),
]


def _apply(table: list[tuple[str, str]], key: str) -> str:
    for pattern, ours in table:
        key = re.sub(pattern, ours, key)
    return key


def unet_key(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A U-Net of the 1.0 or the 1.1 release, keyframes or interpolation: (k, 1, 1) kernels become (k, 1)."""
    return _apply(_UNET, key), tensor.squeeze(-1) if tensor.dim() == 5 else tensor


def movq_key(levels: int) -> Rename:
    """The MoVQ of both releases with any decoder of the paper's Table 3: (k, 1, 1) kernels become (k, 1).

    The released decoder counts its levels from the full resolution down; ours go up.
    """

    def rename(key: str, tensor: Tensor) -> tuple[str, Tensor]:
        turned = re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up.{levels - 1 - int(found[1])}.", key)
        over_time = tensor.dim() == 5 and tensor.shape[3:] == (1, 1)
        return _apply(_MOVQ, turned), tensor.squeeze(-1) if over_time else tensor

    return rename


def _begin(table: list[tuple[str, str]], key: str) -> str:
    """Replace the beginning that the first fitting row names; ``#`` stands for the same number on both sides."""
    for theirs, ours in table:
        found = re.match(re.escape(theirs).replace(r"\#", r"(\d+)"), key)
        if found:
            return ours.replace("#", found[1] if "#" in theirs else "") + key[found.end() :]
    return key


def t5_key(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Hugging Face's T5 and UMT5 encoders -> :class:`export.models.t5.T5Encoder`."""
    return _begin(_T5, key), tensor


def clip_key(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Hugging Face's CLIP text model -> :class:`export.models.clip.ClipText`."""
    return _begin(_CLIP, key), tensor


def hugging_face_key(key: str) -> str:
    """The way back of :func:`t5_key` and :func:`clip_key`, for messages: the name in the file.

    ``t5.`` or ``clip.`` in front says which; any other name is returned as it is.
    """
    for beginning, table in (("t5.", _T5), ("clip.", _CLIP)):
        if key.startswith(beginning):
            return _begin([(ours, theirs) for theirs, ours in table], key.removeprefix(beginning))
    return key


def projection_key(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The projection behind the text encoder, Linear and LayerNorm, as 1.0 (``t5.0.weight``) and 1.1 keep it."""
    bare = key.removeprefix("projections.").removeprefix("t5.")
    return _begin([("0.", "projection."), ("1.", "projection_norm.")], bare), tensor


def load_released(module: Network, released: Mapping[str, Tensor], rename: Rename) -> Network:
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
