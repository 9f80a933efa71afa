"""Text encoders of transformers, and what optimum says of them: inputs, dynamic axes, dummy inputs.

T5, mT5, UMT5 and the text half of CLIP are registered here with optimum's `TasksManager`: optimum 2.1 knows T5 only as
a whole model or without an attention mask, UMT5 not at all. Other encoders are taken as optimum describes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.onnx.model_configs import register_tasks_manager_onnx
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForTextEncoding, PretrainedConfig

from export.errors import ConfigError

T5_TYPES = ("t5", "mt5", "umt5")
CLIP_TYPES = ("clip_text_model", "clip")
TASK = "feature-extraction"
_REGISTERED = {**dict.fromkeys(T5_TYPES, "t5-encoder"), **dict.fromkeys(CLIP_TYPES, "clip-text")}
"""Model types whose encoder alone is registered under another name, since optimum has the whole model by their own."""


@register_tasks_manager_onnx("t5-encoder", TASK)
@register_tasks_manager_onnx("clip-text", TASK)
class MaskedEncoderOnnxConfig(TextEncoderOnnxConfig):  # type: ignore[misc]
    """An encoder of tokens and their mask: `[B, L]` both -> `last_hidden_state` `[B, L, width]`."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """The dynamic axes of every input."""
        axes = {0: "batch_size", 1: "sequence_length"}
        return {"input_ids": axes, "attention_mask": axes}


def encoder_types() -> list[str]:
    """The model types whose text encoders can be exported: those of this file and those that optimum knows."""
    known = TasksManager.get_supported_model_type_for_task(TASK, "onnx")
    others = (kind for kind in known if kind in CONFIG_MAPPING and _is_text_encoder(kind))
    return sorted({*T5_TYPES, *CLIP_TYPES, *others})


def describe(config: PretrainedConfig) -> TextEncoderOnnxConfig:
    """What optimum says of an encoder. Raises ConfigError where it knows none of this type."""
    kind = config.model_type
    if not _is_text_encoder(kind):
        raise ConfigError(f"model_type: expected one of {', '.join(encoder_types())}, got {kind!r}")
    return _constructor(kind)(config)


def sizes_of(model_type: str, sizes: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration of transformers. Raises ConfigError for a type that it has not and for sizes it refuses."""
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(f"model_type: expected one of {', '.join(encoder_types())}, got {model_type!r:.80}")
    kind = CONFIG_MAPPING["clip_text_model" if model_type == "clip" else model_type]
    try:
        return kind(**sizes)
    except Exception as error:  # as below
        raise ConfigError(f"expected the sizes of a {model_type} encoder, got {error!r:.300}") from error


def build(config: PretrainedConfig) -> nn.Module:
    """The encoder alone, in float32: no decoder, no pooled vector. Raises ConfigError for sizes that do not fit.

    Buffers that a state dict would leave out, such as the positions of CLIP, become a part of it, so that the weights
    of a bundle are all that its graph reads.
    """
    settings = {"attn_implementation": "eager", "torch_dtype": torch.float32}
    try:
        if config.model_type in T5_TYPES:
            encoder = AutoModelForTextEncoding.from_config(config, **settings).get_encoder()
        else:
            encoder = AutoModel.from_config(config, **settings)
    except Exception as error:  # each model checks its sizes, or does not, in its own way
        raise ConfigError(f"expected the sizes of a {config.model_type} encoder, got {error!r:.300}") from error
    if config.model_type in T5_TYPES:
        use_exact_buckets(encoder, config)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    stored = encoder.state_dict()
    for key, value in list(encoder.named_buffers()):
        if key not in stored:
            owner, _, name = key.rpartition(".")
            encoder.get_submodule(owner).register_buffer(name, value.contiguous().clone())
    return encoder


def use_exact_buckets(encoder: nn.Module, config: PretrainedConfig) -> None:
    """Let T5 count the buckets of its relative positions in whole numbers.

    T5 takes `floor(log(distance / exact) / log(max_distance / exact) * (half - exact))`. At a power of two that is a
    whole number, and float32 falls on either side of it, by machine and by execution provider: a logarithm that is one
    unit in the last place too small puts the distances 16, 32 and 64 of every T5 into another bucket.
    """
    half = config.relative_attention_num_buckets // 2
    starts = bucket_starts(half, config.relative_attention_max_distance)
    for module in encoder.modules():
        if getattr(module, "has_relative_attention_bias", False):
            setattr(module, "_relative_position_bucket", partial(bucket, half=half, starts=starts))  # noqa: B010


def bucket(distance: Tensor, *_: object, half: int, starts: list[int], **__: object) -> Tensor:
    """Key position minus query position -> number of the learned bias, both int64 `[L, L]`."""
    away = distance.abs()
    found = away.clamp_max(half // 2)
    for start in starts:
        found = found + (away >= start)
    return found + half * (distance > 0)


def bucket_starts(half: int, max_distance: int) -> list[int]:
    """The distance at which each growing bucket but the first begins, out of `half` buckets for one direction.

    Raises ConfigError where `max_distance` leaves no room for them.
    """
    exact = half // 2
    growing = half - exact
    if exact < 1 or max_distance <= exact:
        raise ConfigError(
            f"relative_attention_max_distance: expected more than {max(exact, 1)}, a quarter of "
            f"relative_attention_num_buckets, got {max_distance}"
        )
    starts, distance = [], exact
    for step in range(1, growing):
        while distance**growing * exact**step < max_distance**step * exact**growing:
            distance += 1
        starts.append(distance)
    return starts


def _constructor(kind: str) -> Any:
    return TasksManager.get_exporter_config_constructor(
        "onnx", task=TASK, model_type=_REGISTERED.get(kind, kind), library_name="transformers"
    )


def _is_text_encoder(kind: str) -> bool:
    known = TasksManager.get_supported_model_type_for_task(TASK, "onnx")
    name = _REGISTERED.get(kind, kind)
    if name not in known:
        return False
    constructor = _constructor(kind)
    return issubclass(constructor.func, TextEncoderOnnxConfig)
