"""Reference numbers of the released implementation: read a file, build the model from its configuration, fill it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.checkpoints import load_released, movq_key, t5_key, unet_key
from export.configs import MoVQConfig, T5Config, UNetConfig
from export.interpolation_unet import InterpolationUNet
from export.keyframe_unet import KeyframeUNet
from export.movq import MoVQ
from export.text_encoder import T5Encoder

LIMIT = 2e-3
"""Relative RMS error at which a model counts as the released one; float32 itself is off float64 by up to 2e-4."""


@dataclass(frozen=True)
class Golden:
    """One file: the released constructor's arguments, its state dict, forward inputs and expected outputs."""

    config: dict[str, Any]
    parameters: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, np.ndarray]


def read_golden(path: Path) -> Golden:
    """Read an .npz of the format; parameters come as float32."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

    return Golden(
        config=json.loads(bytes(arrays["config"])),
        parameters={name: torch.from_numpy(value.astype(np.float32)) for name, value in part("param/").items()},
        inputs={name: torch.from_numpy(np.asarray(value)) for name, value in part("in/").items()},
        outputs=part("out/"),
    )


def released_fields(kind: Any, released: dict[str, Any]) -> dict[str, Any]:
    """The released arguments that a configuration of ours has a field for, lists as tuples."""
    known = {field.name for field in fields(kind)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in released.items() if k in known}


def keyframe_unet(golden: Golden) -> KeyframeUNet:
    unet = KeyframeUNet(UNetConfig(**released_fields(UNetConfig, golden.config)))
    load_released(unet, golden.parameters, unet_key)
    return unet


def interpolation_unet(golden: Golden) -> InterpolationUNet:
    unet = InterpolationUNet(UNetConfig(**released_fields(UNetConfig, golden.config)))
    load_released(unet, golden.parameters, unet_key)
    return unet


def movq(golden: Golden) -> MoVQ:
    config = MoVQConfig(**released_fields(MoVQConfig, golden.config))
    model = MoVQ(config)
    load_released(model, golden.parameters, movq_key(len(config.ch_mult)))
    return model


def t5_encoder(golden: Golden) -> T5Encoder:
    config = T5Config(context_dim=golden.config["context_dim"], **released_fields(T5Config, golden.config["t5"]))
    parameters = {k.removeprefix("t5/"): v for k, v in golden.parameters.items() if k.startswith("t5/")}
    parameters.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
    model = T5Encoder(config)
    load_released(model, parameters, t5_key)
    return model
