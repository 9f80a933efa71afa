"""Our names -> released ones, the way back of export.checkpoints.names: for files of released layout at any size."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

_UNET = [
    (r"\.feed_forward\.conv1\.", ".feed_forward.0."),
    (r"\.feed_forward\.conv2\.", ".feed_forward.2."),
    (r"\.(query|key|value)\.", r".to_\1."),
    (r"\.output\.", ".output_layer."),
    (r"_norm\.linear\.", "_norm.context_mlp.1."),
    (r"\.norms\.(\d+)\.linear\.", r".temporal_resnet_blocks.\1.0.context_mlp.1."),
    (r"\.convs\.(\d+)\.", r".temporal_resnet_blocks.\1.2."),
    (r"\.blocks\.(\d+)\.group_conv\.merge$", r".resnet_blocks.\1.temporal_merge"),
    (r"\.blocks\.(\d+)\.group_conv\.conv\.", r".resnet_blocks.\1.temporal_projection."),
    (r"\.blocks\.(\d+)\.norm\.linear\.", r".resnet_blocks.\1.group_norm.context_mlp.1."),
    (r"\.blocks\.(\d+)\.conv\.", r".resnet_blocks.\1.projection."),
    (r"\.blocks\.(\d+)\.(up|down)\.", r".resnet_blocks.\1.\2_sample."),
    (r"\.shortcut_(up|down)\.", r".shortcut_\1_sample."),
    (r"\.shortcut\.", ".shortcut_projection."),
    (r"\.temporal_attention\.", ".temporal_attention_block."),
    (r"\.temporal_attention_block\.attention\.", ".temporal_attention_block.temporal_attention."),
    (r"\.self_attention\.", ".self_attention_block."),
    (r"\.pairs\.(\d+)\.resnet_in\.", r".resnet_attn_blocks.\1.0."),
    (r"\.pairs\.(\d+)\.cross_attention\.", r".resnet_attn_blocks.\1.1."),
    (r"\.pairs\.(\d+)\.resnet_out\.", r".resnet_attn_blocks.\1.2."),
    (r"\.pairs\.(\d+)\.temporal_in\.", r".resnet_attn_blocks.\1.3."),
    (r"\.pairs\.(\d+)\.temporal_out\.", r".resnet_attn_blocks.\1.4."),
    (r"^body\.down\.", "down_samples."),
    (r"^body\.up\.", "up_samples."),
    (r"^body\.in_conv\.", "in_layer."),
    (r"^body\.out_norm\.", "out_layer.0."),
    (r"^body\.out_conv\.", "out_layer.2."),
    (r"^time_embed\.linear1\.", "to_time_embed.1."),
    (r"^time_embed\.linear2\.", "to_time_embed.3."),
    (r"^frame_embed\.linear1\.", "to_temporal_embed.1."),
    (r"^frame_embed\.linear2\.", "to_temporal_embed.3."),
    (r"^perturbation_embed\.linear1\.", "perturbation_to_time_embed.1."),
    (r"^perturbation_embed\.linear2\.", "perturbation_to_time_embed.3."),
    (r"^perturbation_merge$", "time_embed_merge"),
    (r"^skip_embed\.", "skip_embeddings."),
    (r"^text_pooling\.", "feature_pooling."),
]

_MOVQ = [
    (r"^encoder\.quant_conv\.", "quant_conv."),
    (r"^decoder\.post_quant_conv\.", "post_quant_conv."),
    (r"\.middle\.block(\d)\.", r".mid.block_\1."),
    (r"\.middle\.attention\.", ".mid.attn_1."),
    (r"\.levels\.(\d+)\.blocks\.", r".LEVEL.\1.block."),
    (r"\.levels\.(\d+)\.attentions\.", r".LEVEL.\1.attn."),
    (r"\.downsamples\.(\d+)\.", r".LEVEL.\1.downsample.conv."),
    (r"\.upsamples\.(\d+)\.", r".LEVEL.\1.upsample.conv."),
    (r"\.norm\.(?=weight|bias)", ".norm_layer."),
    (r"\.scale\.", ".conv_y."),
    (r"\.shift\.", ".conv_b."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.query\.", ".q."),
    (r"\.key\.", ".k."),
    (r"\.value\.", ".v."),
    (r"\.output\.", ".proj_out."),
]


def _apply(table: list[tuple[str, str]], key: str) -> str:
    for ours, released in table:
        key = re.sub(ours, released, key)
    return key


def released_unet(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A U-Net of 1.0: (k, 1) kernels over time become (k, 1, 1) again."""
    name = _apply(_UNET, key)
    over_time = tensor.dim() == 4 and (".temporal_projection." in name or ".temporal_resnet_blocks." in name)
    return name, tensor.unsqueeze(-1) if over_time else tensor


def released_movq(levels: int) -> Callable[[str, Tensor], tuple[str, Tensor]]:
    """The image MoVQ, whose released decoder counts its levels from the full resolution down."""

    def rename(key: str, tensor: Tensor) -> tuple[str, Tensor]:
        name = _apply(_MOVQ, key)
        if name.startswith("decoder."):
            name = re.sub(r"\.LEVEL\.(\d+)\.", lambda found: f".up.{levels - 1 - int(found[1])}.", name)
        return name.replace(".LEVEL.", ".down."), tensor

    return rename
