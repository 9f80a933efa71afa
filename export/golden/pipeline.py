"""A whole released 1.1 pipeline behind the text encoder, run by the runtime's own stages with the release's own noise.

Stages take graphs as functions of named arrays, so PyTorch modules and ONNX sessions run the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.checkpoints.configs import movq_config
from export.checkpoints.defaults import INTERPOLATION_1_1, KEYFRAMES_1_1
from export.errors import CheckpointError
from export.golden import models
from export.golden.file import Golden, Row
from export.golden.network import Network, Run, unet_limits
from export.models.image_keyframes import FirstFrameUNet
from export.models.limits import Limits
from export.onnx.parity import errors
from ffrt.families import KANDINSKY_1_1
from ffrt.media.image import fit_image
from ffrt.sampling import Array, Sampling, drain
from ffrt.stages.decode import clip_frames, decode_chunks, encode_image, to_frames
from ffrt.stages.first_frame import first_frame_steps
from ffrt.stages.interpolate import interpolation_steps
from ffrt.stages.keyframes import ImageConditioning, image_keyframe_steps
from ffrt.stages.text import Context

PIPELINE_LIMIT, FRAMES_DB = 2e-2, 40.0
RATES = {"low": 2, "medium": 8, "high": 30}
"""Frames per second behind the release's words."""


@dataclass(frozen=True)
class Result:
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
) -> Result:
    """Run the pipeline of a golden file.

    `graphs` are those of 1.1 but the text encoder, `config` is the file's, `noise` every draw in order
    beside its kind. Raises StopIteration where there are too few draws.
    """
    starts = iter(sequences(noise))
    assert KEYFRAMES_1_1.image is not None
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
    return Result(keyframes, latents, frames)


def sequences(noise: Sequence[tuple[str, Array]]) -> list[list[Array]]:
    """The draws of each sampling loop: a start ("randn") and the steps that follow it."""
    loops: list[list[Array]] = []
    for kind, value in noise:
        if kind == "randn":
            loops.append([value])
        elif kind == "step":
            loops[-1].append(value)
    return loops


def check_pipeline(file: str, golden: Golden, onnx: bool) -> Iterator[Row]:
    """A whole 1.1 pipeline behind the text encoder."""
    config = golden.config
    if config["release"] != "1.1":
        raise CheckpointError(f"release: expected '1.1', got {config['release']!r}")
    networks = pipeline_networks(golden)
    image = golden.inputs["image"].numpy() if "image" in golden.inputs else None
    noise = [
        (name.split("_")[-1], golden.others[name].astype(np.float32))
        for name in sorted(golden.others)
        if name.startswith("noise/")
    ]
    context = Context(
        golden.inputs["context"].numpy(),
        golden.inputs["context_mask"].bool().numpy(),
        golden.parameters["null_embedding"].reshape(-1).numpy(),
        interpolation_null_embedding=golden.parameters["interpolation_null_embedding"].reshape(-1).numpy(),
    )
    for runtime in ("PyTorch", "ONNX") if onnx else ("PyTorch",):
        used = {n: one for n, one in networks.items() if image is None or n not in ("image_unet", "image_decoder")}
        graphs = {name: one.in_torch() if runtime == "PyTorch" else one.in_onnx() for name, one in used.items()}
        yield from pipeline_rows(file, runtime, golden, run_released(graphs, config, context, image, noise))


def pipeline_networks(golden: Golden) -> dict[str, Network]:
    """The networks of a golden pipeline, by the name of their graph."""
    config = golden.config
    unet = models.image_keyframe_unet(config["t2v"], models.part(golden, "unet/"))
    texted = models.texted_interpolation_unet(config["interpolation"], models.part(golden, "interpolation/"))
    image_movq = models.movq(config["image_movq"], models.part(golden, "movq/")).eval()
    video_movq = models.movq(config["video_movq"], models.part(golden, "video_movq/")).eval()
    downscale = movq_config(config["image_movq"]).downscale
    modules: dict[str, nn.Module] = {
        "image_unet": FirstFrameUNet(unet).eval(),
        "keyframe_unet": unet,
        "interpolation_unet": texted,
        "movq_encoder": image_movq.encoder,
        "image_decoder": image_movq.decoder,
        "movq_decoder": video_movq.decoder,
    }
    limits = {
        **dict.fromkeys(("image_unet", "keyframe_unet"), unet_limits(config["t2v"])),
        "interpolation_unet": unet_limits(config["interpolation"]),
        **dict.fromkeys(("movq_encoder", "image_decoder", "movq_decoder"), Limits(2, downscale, 1, 1, 1)),
    }
    return {name: Network(name, one, KANDINSKY_1_1.contract[name], limits[name]) for name, one in modules.items()}


def pipeline_rows(file: str, runtime: str, golden: Golden, made: Result) -> Iterator[Row]:
    """A row for the keyframes, the latents and the frames."""
    for output, value in (("keyframes", made.keyframes), ("latents", made.latents)):
        largest, relative = errors(golden.outputs[output], value)
        yield Row(file, output, runtime, largest, relative, "relative", PIPELINE_LIMIT)
    difference = golden.outputs["frames"].astype(np.float64) - made.frames
    mean = float(np.square(difference).mean())
    decibel = float("inf") if mean == 0 else 10 * float(np.log10(255**2 / mean))
    yield Row(file, "frames", runtime, float(np.abs(difference).max()), decibel, "dB", FRAMES_DB)
