"""A whole released 1.1 pipeline behind the text encoder, run by the runtime's own stages with the release's own noise.

Stages take graphs as functions of named arrays, so PyTorch modules and ONNX sessions run the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.checkpoints.defaults import INTERPOLATION_1_1, KEYFRAMES_1_1
from ffrt.media.image import fit_image
from ffrt.sampling import Array, Sampling, drain
from ffrt.stages.decode import clip_frames, decode_chunks, encode_image, to_frames
from ffrt.stages.first_frame import first_frame_steps
from ffrt.stages.interpolate import interpolation_steps
from ffrt.stages.keyframes import ImageConditioning, image_keyframe_steps
from ffrt.stages.text import Context

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

RATES = {"low": 2, "medium": 8, "high": 30}
"""Frames per second behind the release's words."""


@dataclass(frozen=True)
class Made:
    """Latents [T, 4, h, w], latents [N, 4, h, w] after interpolation, frames uint8 [N, H, W, 3]."""

    keyframes: Array
    latents: Array
    frames: NDArray[np.uint8]


def run_released(
    graphs: Mapping[str, Run],
    config: Mapping[str, Any],
    context: Context,
    image: NDArray[np.uint8] | None,
    noise: Sequence[tuple[str, Array]],
) -> Made:
    """Run the pipeline of a golden file.

    ``graphs`` are those of IMAGE_CONTRACT but the text encoder, ``config`` is the file's, ``noise`` every draw in order
    beside its kind. Raises StopIteration where there are too few draws.
    """
    starts = iter(sequences(noise))
    scores = KEYFRAMES_1_1.image.motion_scores
    rows, count = context.rows(), KEYFRAMES_1_1.num_inference_steps
    if image is None:
        made = first_frame_steps(
            graphs["image_unet"],
            KEYFRAMES_1_1,
            rows,
            iter(next(starts)),
            Sampling(count, config["key_frame_guidance_scale"], "ddpm"),
        )
        image = to_frames(graphs["image_decoder"]({"latent": drain(made)})["image"], rounded=False)[0]
    frame = encode_image(graphs["movq_encoder"], fit_image(image, config["height"], config["width"])[None])[0]
    uniform = next(value for kind, value in noise if kind == "rand")
    steps = image_keyframe_steps(
        graphs["keyframe_unet"],
        KEYFRAMES_1_1,
        rows,
        frame,
        uniform,
        iter(next(starts)),
        Sampling(count, config["guidance_weight_prompt"], "ddpm"),
        ImageConditioning(
            scores.get(config["motion"], scores["medium"]),  # as the release takes an unknown word
            config["guidance_weight_image"],
            config["noise_augmentation"],
        ),
    )
    keyframes = latents = drain(steps)
    for one_pass in INTERPOLATION_1_1.passes:
        if one_pass.fps <= RATES[config["fps"]]:
            steps = interpolation_steps(
                graphs["interpolation_unet"],
                INTERPOLATION_1_1,
                one_pass,
                latents,
                iter(next(starts)),
                Sampling(INTERPOLATION_1_1.num_inference_steps, config["interpolation_guidance_scale"], "ddpm"),
                prompt=context.interpolation_rows(),
            )
            latents = drain(steps)
    frames = np.concatenate(list(decode_chunks(graphs["movq_decoder"], latents, clip_frames(len(latents)))))
    return Made(keyframes, latents, frames)


def sequences(noise: Sequence[tuple[str, Array]]) -> list[list[Array]]:
    """The draws of each sampling loop: a start ("randn") and the steps that follow it."""
    loops: list[list[Array]] = []
    for kind, value in noise:
        if kind == "randn":
            loops.append([value])
        elif kind == "step":
            loops[-1].append(value)
    return loops
