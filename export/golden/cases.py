"""What is compared for each golden file: which network, fed with what, gives which of its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.checkpoints.configs import movq_config
from export.errors import CheckpointError
from export.golden import models
from export.golden.file import Golden
from export.golden.network import Network, unet_limits
from export.models.image_keyframes import FirstFrameUNet
from export.models.limits import Limits
from ffrt.families import KANDINSKY_1_0, KANDINSKY_1_1, Signature

_TEXTED = KANDINSKY_1_1.contract["interpolation_unet"]
WITH_CONTEXT: Signature = (_TEXTED[0][:-1], _TEXTED[1])
"""The 1.0 interpolation U-Net before its null context became a constant."""


@dataclass(frozen=True)
class Case:
    """One expected output of a network: its name in the file, the feed, and the first rows of axis 1 that count."""

    network: Network
    output: str
    feed: Mapping[str, NDArray[Any]]
    expected: NDArray[Any]
    kept: int | None = None


def cases_of(golden: Golden) -> Sequence[Case]:
    """The comparisons of a file that holds one network. Raises CheckpointError where it holds none that is known."""
    config = golden.config
    if "t5" in config:
        return text_cases(golden)
    if "ch_mult" in config:
        return movq_cases(golden)
    if "num_predicted_groups" in golden.inputs:
        return interpolation_cases(golden, texted=True)
    if "temporal_embed" in golden.inputs:
        return image_keyframe_cases(golden)
    if config.get("interpolation"):
        return interpolation_cases(golden, texted=False)
    if "temporal_positions" in golden.inputs:
        return keyframe_cases(golden)
    raise CheckpointError(
        f"expected a U-Net, a MoVQ, a text encoder, sampling loops or a pipeline, got {sorted(config)}"
    )


def keyframe_cases(golden: Golden) -> Sequence[Case]:
    """The keyframe U-Net of 1.0."""
    unet, inputs = models.keyframe_unet(golden.config, golden.parameters), golden.inputs
    frames = golden.config["num_frames"]
    feed = {
        "x": inputs["x"].numpy(),
        **rows(prompt(inputs), frames),
        "temporal_positions": inputs["temporal_positions"][:frames].long().numpy(),
    }
    signature = signature_of(KANDINSKY_1_0.contract["keyframe_unet"], feed)
    network = Network("keyframe_unet", unet, signature, unet_limits(golden.config))
    return [Case(network, "y", feed, golden.outputs["y"])]


def image_keyframe_cases(golden: Golden) -> Sequence[Case]:
    """The keyframe U-Net of 1.1, and its use for single images."""
    unet, inputs = models.image_keyframe_unet(golden.config, golden.parameters), golden.inputs
    frames, limits = int(inputs["num_frames"]), unet_limits(golden.config)
    none = torch.zeros(len(inputs["x"]))  # a network without these embeddings does not look at them
    levels = {
        "noise_augmentation": inputs.get("noise_aug_time", none).long(),
        "motion_score": inputs.get("motion_score", none).long(),
    }
    feed = {
        "x": inputs["x"].numpy(),
        **rows({**prompt(inputs), **levels}, frames),
        "temporal_positions": inputs["temporal_embed"][:frames].long().numpy(),
    }
    keyframes = Network("keyframe_unet", unet, signature_of(KANDINSKY_1_1.contract["keyframe_unet"], feed), limits)
    cases = [Case(keyframes, "y", feed, golden.outputs["y"])]
    if "image_y" in golden.outputs:
        names = ("x", "time", "context", "context_mask")
        image = {name: inputs[f"image_{name}"].numpy() for name in names}
        network = Network("image_unet", FirstFrameUNet(unet).eval(), KANDINSKY_1_1.contract["image_unet"], limits)
        cases.append(Case(network, "image_y", image, golden.outputs["image_y"]))
    return cases


def interpolation_cases(golden: Golden, texted: bool) -> Sequence[Case]:
    """The interpolation U-Net, of 1.1 where it is `texted`."""
    inputs, config = golden.inputs, golden.config
    groups = int(inputs["num_predicted_groups" if texted else "num_temporal_groups"])
    conditioning = prompt(inputs)
    if texted:
        conditioning["temporal_mask"] = inputs.get("temporal_mask", torch.ones(len(inputs["x"])))
    feed = {
        "x": inputs["x"].numpy(),
        **rows(conditioning, groups),
        "skip_frames": inputs["skip_frames"][:groups].long().numpy(),
        "perturbation": np.zeros(groups, np.float32),
    }
    if texted:
        feed["perturbation"] = inputs["perturbation_time"][:groups].float().numpy()
        unet: nn.Module = models.texted_interpolation_unet(config, golden.parameters)
    else:
        unet = models.interpolation_unet(config, golden.parameters)
    signature = signature_of(_TEXTED if texted else WITH_CONTEXT, feed)
    network = Network("interpolation_unet", unet, signature, unet_limits(config))
    return [Case(network, "y", feed, golden.outputs["y"])]


def movq_cases(golden: Golden) -> Sequence[Case]:
    """The halves of a MoVQ that the file has outputs of."""
    model, sizes = models.movq(golden.config, golden.parameters), movq_config(golden.config)
    limits = Limits(cell=2, downscale=sizes.downscale, context_dim=1, vocab_size=1, position_range=1)
    halves = {
        "latent": Network("movq_encoder", model.encoder.eval(), KANDINSKY_1_0.contract["movq_encoder"], limits),
        "image": Network("movq_decoder", model.decoder.eval(), KANDINSKY_1_0.contract["movq_decoder"], limits),
    }
    other = {"latent": "image", "image": "latent"}
    return [
        Case(halves[name], name, {other[name]: golden.inputs[other[name]].numpy()}, expected)
        for name, expected in golden.outputs.items()
    ]


def text_cases(golden: Golden) -> Sequence[Case]:
    """The text encoder behind each projection."""
    cases, networks = [], {}
    limits = Limits(1, 1, golden.config["context_dim"], golden.config["t5"]["vocab_size"], 1)
    for name, expected in golden.outputs.items():
        number, projection, what = name.split("/")
        if what != "context":
            continue
        if projection not in networks:
            encoder = models.text_encoder(golden, projection)
            networks[projection] = Network("text_encoder", encoder, KANDINSKY_1_0.contract["text_encoder"], limits)
        feed = {key: golden.inputs[f"{number}/{key}"].long().numpy() for key in ("input_ids", "attention_mask")}
        cases.append(Case(networks[projection], name, feed, expected, kept=expected.shape[1]))
    return cases


def rows(values: Mapping[str, Tensor], frames: int) -> dict[str, NDArray[Any]]:
    """`[B*T, ...]` -> one row a video where in all of `values` its frames have the same, else one a frame."""
    videos = {name: value.unflatten(0, (-1, frames)) for name, value in values.items()}
    if all(bool((value == value[:, :1]).all()) for value in videos.values()):
        values = {name: value[:, 0].contiguous() for name, value in videos.items()}
    return {name: value.numpy() for name, value in values.items()}


def prompt(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that every U-Net has."""
    return {name: inputs[name] for name in ("time", "context", "context_mask")}


def signature_of(signature: Signature, feed: Mapping[str, NDArray[Any]]) -> Signature:
    """The contract, or where the feed has a row a frame the same with that axis."""
    axis, frames = signature[0][0].shape[0], len(feed["x"])
    inputs = (
        replace(one, shape=(axis, *one.shape[1:])) if one.shape[0] == "B" and len(feed[one.name]) == frames else one
        for one in signature[0]
    )
    return tuple(inputs), signature[1]
