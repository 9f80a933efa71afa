"""The networks of a golden file, built from its configuration and filled strictly with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from export.checkpoints.configs import (
    image_keyframe_config,
    interpolation_config,
    keyframe_config,
    known_fields,
    movq_config,
    texted_interpolation_config,
)
from export.checkpoints.names import load_released, movq_key, t5_key, unet_key
from export.golden.file import Golden
from export.models.configs import T5Config
from export.models.image_keyframes import ImageKeyframeUNet
from export.models.interpolation import InterpolationUNet, TextedInterpolationUNet
from export.models.keyframes import KeyframeUNet
from export.models.movq import MoVQ
from export.models.t5 import TextEncoder


def keyframe_unet(config: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> KeyframeUNet:
    """1.0. This and all below raise ExportError where parameters and configuration do not fit."""
    return load_released(KeyframeUNet(keyframe_config(config)), parameters, unet_key)


def interpolation_unet(config: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> InterpolationUNet:
    """1.0, with its context as an input."""
    return load_released(InterpolationUNet(interpolation_config(config)), parameters, unet_key)


def image_keyframe_unet(config: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> ImageKeyframeUNet:
    """1.1."""
    return load_released(ImageKeyframeUNet(image_keyframe_config(config)), parameters, unet_key)


def texted_interpolation_unet(config: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> TextedInterpolationUNet:
    """1.1."""
    return load_released(TextedInterpolationUNet(texted_interpolation_config(config)), parameters, unet_key)


def movq(config: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> MoVQ:
    """Either release."""
    sizes = movq_config(config)
    return load_released(MoVQ(sizes), parameters, movq_key(len(sizes.ch_mult)))


def text_encoder(golden: Golden, projection: str) -> TextEncoder:
    """T5 and one of the projections behind it; the file has no null embedding, so it stays zero."""
    t5 = known_fields(T5Config, golden.config["t5"])
    encoder = TextEncoder(T5Config(context_dim=golden.config["context_dim"], **t5))
    parameters = {k.removeprefix("t5/"): v for k, v in golden.parameters.items() if k.startswith("t5/")}
    parameters.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
    load_released(encoder.t5, parameters, t5_key)
    weight, scale, shift = (golden.parameters[f"{projection}/{key}"] for key in ("0.weight", "1.weight", "1.bias"))
    encoder.projection.load_state_dict({"weight": weight})
    encoder.projection_norm.load_state_dict({"weight": scale, "bias": shift})
    return encoder.eval()


def part(golden: Golden, prefix: str) -> dict[str, Tensor]:
    """The parameters of one network of several in a file."""
    return {key.removeprefix(prefix): value for key, value in golden.parameters.items() if key.startswith(prefix)}
