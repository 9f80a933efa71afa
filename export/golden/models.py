"""The networks of a golden file, built from its configuration and filled strictly with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from export.checkpoints.configs import (
    image_keyframe_config,
    interpolation_config,
    keyframe_config,
    movq_config,
    texted_interpolation_config,
)
from export.checkpoints.names import load_released, movq_key, projection_key, unet_key
from export.checkpoints.text_config import text_config
from export.golden.file import Golden
from export.models.image_keyframes import ImageKeyframeUNet
from export.models.interpolation import InterpolationUNet, TextedInterpolationUNet
from export.models.keyframes import KeyframeUNet
from export.models.movq import MoVQ
from export.models.text import TextEncoder


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
    encoder = TextEncoder(text_config("t5", golden.config["t5"], golden.config["context_dim"]))
    parameters = part(golden, "t5/")
    parameters.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
    renamed = {
        key.replace("shared.", "embed_tokens.").removeprefix("encoder."): value for key, value in parameters.items()
    }
    state = {f"encoder.{key}": value for key, value in renamed.items()}
    state |= {projection_key(key): value for key, value in part(golden, f"{projection}/").items()}
    state["null_embedding"] = encoder.null_embedding.detach()
    return load_released(encoder, state, lambda key, value: (key, value))


def part(golden: Golden, prefix: str) -> dict[str, Tensor]:
    """The parameters of one network of several in a file."""
    return {key.removeprefix(prefix): value for key, value in golden.parameters.items() if key.startswith(prefix)}
