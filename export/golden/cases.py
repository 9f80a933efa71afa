"""What is compared for each golden file: which network, fed with what, gives which of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.checkpoints.configs import movq_config
from export.checkpoints.defaults import INTERPOLATION_1_0, INTERPOLATION_1_1, KEYFRAMES_1_0, KEYFRAMES_1_1
from export.checkpoints.file import CheckpointError
from export.golden import models
from export.golden.file import LIMIT, Golden, Row, read_golden
from export.golden.pipeline import Made, Run, run_released
from export.models.image_keyframes import FirstFrameUNet
from export.onnx.inputs import Limits, draw_inputs, multiples_of
from export.onnx.parity import errors
from export.onnx.trace import Traced, trace
from ffrt.bundle import InterpolationConfig, KeyframeConfig
from ffrt.families import KANDINSKY_1_0, KANDINSKY_1_1, Signature
from ffrt.sampling import Array, denoise, drain, guide
from ffrt.stages.text import Context

PIPELINE_LIMIT, FRAMES_DB = 2e-2, 40.0
SAMPLER_LIMIT = 2e-3
SAMPLING: Mapping[str, KeyframeConfig | InterpolationConfig] = {
    "v1_0_keyframes": KEYFRAMES_1_0,
    "v1_0_interpolation": INTERPOLATION_1_0,
    "v1_1_keyframes": KEYFRAMES_1_1,
    "v1_1_interpolation": INTERPOLATION_1_1,
}
_TEXTED = KANDINSKY_1_1.contract["interpolation_unet"]
WITH_CONTEXT: Signature = (_TEXTED[0][:-1], _TEXTED[1])
"""The 1.0 interpolation U-Net before its null context became a constant."""


@dataclass(frozen=True)
class Network:
    """A module, the graph that it becomes, and what bounds its inputs."""

    graph: str
    module: nn.Module
    signature: Signature
    limits: Limits

    def in_torch(self) -> Run:
        """The PyTorch module as a function of named arrays."""
        names = [spec.name for spec in self.signature[0]]

        def run(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            with torch.no_grad():
                given = self.module(*(torch.from_numpy(np.ascontiguousarray(feed[name])) for name in names))
            outputs = given if isinstance(given, tuple) else (given,)
            return {spec.name: one.numpy() for spec, one in zip(self.signature[1], outputs, strict=True)}

        return run

    def in_onnx(self) -> Run:
        """The exported graph in ONNX Runtime, traced with other sizes than it is then run with."""
        example = draw_inputs(self.signature, self.limits, 0)
        contract = {self.graph: self.signature}
        axes = multiples_of(self.signature, self.limits)
        model = trace(Traced(self.graph, self.module, example, axes, contract))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [spec.name for spec in self.signature[1]]

        def run(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return dict(zip(names, session.run(names, dict(feed)), strict=True))

        return run


@dataclass(frozen=True)
class Case:
    """One expected output of a network: its name in the file, the feed, and the first rows of axis 1 that count."""

    network: Network
    output: str
    feed: Mapping[str, NDArray[Any]]
    expected: NDArray[Any]
    kept: int | None = None


def check_file(path: Path, onnx: bool) -> Iterator[Row]:
    """A row for each output and each way to run it. Raises CheckpointError for a file of no known kind."""
    golden = read_golden(path)
    if golden.config.get("release") is not None:
        yield from check_pipeline(path.name, golden, onnx)
        return
    if not golden.config:
        yield from check_samplers(path.name, golden)
        return
    cases = cases_of(golden)
    for way in ("PyTorch", "ONNX") if onnx else ("PyTorch",):
        made: dict[int, Run] = {}
        for case in cases:
            network = case.network
            if id(network) not in made:
                made[id(network)] = network.in_torch() if way == "PyTorch" else network.in_onnx()
            value = made[id(network)](case.feed)[network.signature[1][0].name]
            largest, relative = errors(case.expected, value[:, : case.kept])
            yield Row(path.name, case.output, way, largest, relative, "relative", LIMIT)


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
    raise CheckpointError(f"wanted a U-Net, a MoVQ, a text encoder, sampling loops or a pipeline, got {sorted(config)}")


def keyframe_cases(golden: Golden) -> Sequence[Case]:
    unet, given = models.keyframe_unet(golden.config, golden.parameters), golden.inputs
    frames = golden.config["num_frames"]
    feed = {
        "x": given["x"].numpy(),
        **rows(prompt(given), frames),
        "temporal_positions": given["temporal_positions"][:frames].long().numpy(),
    }
    signature = signature_of(KANDINSKY_1_0.contract["keyframe_unet"], feed)
    network = Network("keyframe_unet", unet, signature, unet_limits(golden.config))
    return [Case(network, "y", feed, golden.outputs["y"])]


def image_keyframe_cases(golden: Golden) -> Sequence[Case]:
    unet, given = models.image_keyframe_unet(golden.config, golden.parameters), golden.inputs
    frames, limits = int(given["num_frames"]), unet_limits(golden.config)
    none = torch.zeros(len(given["x"]))  # a network without these embeddings does not look at them
    levels = {
        "noise_augmentation": given.get("noise_aug_time", none).long(),
        "motion_score": given.get("motion_score", none).long(),
    }
    feed = {
        "x": given["x"].numpy(),
        **rows({**prompt(given), **levels}, frames),
        "temporal_positions": given["temporal_embed"][:frames].long().numpy(),
    }
    keyframes = Network("keyframe_unet", unet, signature_of(KANDINSKY_1_1.contract["keyframe_unet"], feed), limits)
    cases = [Case(keyframes, "y", feed, golden.outputs["y"])]
    if "image_y" in golden.outputs:
        names = ("x", "time", "context", "context_mask")
        image = {name: given[f"image_{name}"].numpy() for name in names}
        network = Network("image_unet", FirstFrameUNet(unet).eval(), KANDINSKY_1_1.contract["image_unet"], limits)
        cases.append(Case(network, "image_y", image, golden.outputs["image_y"]))
    return cases


def interpolation_cases(golden: Golden, texted: bool) -> Sequence[Case]:
    given, config = golden.inputs, golden.config
    groups = int(given["num_predicted_groups" if texted else "num_temporal_groups"])
    told = prompt(given)
    if texted:
        told["temporal_mask"] = given.get("temporal_mask", torch.ones(len(given["x"])))
    feed = {
        "x": given["x"].numpy(),
        **rows(told, groups),
        "skip_frames": given["skip_frames"][:groups].long().numpy(),
        "perturbation": np.zeros(groups, np.float32),
    }
    if texted:
        feed["perturbation"] = given["perturbation_time"][:groups].float().numpy()
        unet: nn.Module = models.texted_interpolation_unet(config, golden.parameters)
    else:
        unet = models.interpolation_unet(config, golden.parameters)
    signature = signature_of(_TEXTED if texted else WITH_CONTEXT, feed)
    network = Network("interpolation_unet", unet, signature, unet_limits(config))
    return [Case(network, "y", feed, golden.outputs["y"])]


def movq_cases(golden: Golden) -> Sequence[Case]:
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


def unet_limits(config: Mapping[str, Any]) -> Limits:
    levels = len(config.get("dim_mult", (1, 2, 4, 8)))
    return Limits(2 ** (levels - 1), 8, config["context_dim"], 1, 180)


def rows(values: Mapping[str, Tensor], frames: int) -> dict[str, NDArray[Any]]:
    """``[B*T, ...]`` -> one row a video where in all of ``values`` its frames have the same, else one a frame."""
    videos = {name: value.unflatten(0, (-1, frames)) for name, value in values.items()}
    if all(bool((value == value[:, :1]).all()) for value in videos.values()):
        values = {name: value[:, 0].contiguous() for name, value in videos.items()}
    return {name: value.numpy() for name, value in values.items()}


def prompt(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: given[name] for name in ("time", "context", "context_mask")}


def signature_of(signature: Signature, feed: Mapping[str, NDArray[Any]]) -> Signature:
    """The contract, or where the feed has a row a frame the same with that axis."""
    axis, frames = signature[0][0].shape[0], len(feed["x"])
    inputs = (
        replace(one, shape=(axis, *one.shape[1:])) if one.shape[0] == "B" and len(feed[one.name]) == frames else one
        for one in signature[0]
    )
    return tuple(inputs), signature[1]


def check_samplers(file: str, golden: Golden) -> Iterator[Row]:
    """Every released loop around the stand-in network. Raises CheckpointError where there is none that is known."""
    loops = {name.split("/")[0] for name in golden.others}
    if not loops or not loops <= SAMPLING.keys():
        raise CheckpointError(f"wanted the sampling loops {sorted(SAMPLING)}, got {sorted(loops)}")
    for loop in sorted(loops):
        config, noise = SAMPLING[loop], golden.others[f"{loop}/noise"]
        scale = float(golden.others[f"{loop}/guidance"])
        has = f"{loop}/timesteps" in golden.others
        steps = len(golden.others[f"{loop}/timesteps"]) if has else len(noise) - 1
        y = drain(denoise(stand_in(scale), iter(noise), config, steps=steps, sampler="ddpm"))
        largest, relative = errors(golden.others[f"{loop}/y"], y)
        yield Row(file, loop, "sampler", largest, relative, "relative", SAMPLER_LIMIT)


def stand_in(scale: float) -> Callable[[Array, float], Array]:
    """The network of the sampling loops, guided."""

    def bent(x: Array, time: float, given: float) -> Array:
        return np.tanh(np.float32(0.6) * x + np.float32(0.0007 * time + 0.25 * given))

    return lambda x, time: guide(bent(x, time, 1), bent(x, time, 0), scale)


def check_pipeline(file: str, golden: Golden, onnx: bool) -> Iterator[Row]:
    """A whole 1.1 pipeline behind the text encoder."""
    config = golden.config
    if config["release"] != "1.1":
        raise CheckpointError(f"release: wanted '1.1', got {config['release']!r}")
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
    for way in ("PyTorch", "ONNX") if onnx else ("PyTorch",):
        used = {n: one for n, one in networks.items() if image is None or n not in ("image_unet", "image_decoder")}
        graphs = {name: one.in_torch() if way == "PyTorch" else one.in_onnx() for name, one in used.items()}
        yield from pipeline_rows(file, way, golden, run_released(graphs, config, context, image, noise))


def pipeline_networks(golden: Golden) -> dict[str, Network]:
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


def pipeline_rows(file: str, way: str, golden: Golden, made: Made) -> Iterator[Row]:
    for output, value in (("keyframes", made.keyframes), ("latents", made.latents)):
        largest, relative = errors(golden.outputs[output], value)
        yield Row(file, output, way, largest, relative, "relative", PIPELINE_LIMIT)
    difference = golden.outputs["frames"].astype(np.float64) - made.frames
    mean = float(np.square(difference).mean())
    decibel = float("inf") if mean == 0 else 10 * float(np.log10(255**2 / mean))
    yield Row(file, "frames", way, float(np.abs(difference).max()), decibel, "dB", FRAMES_DB)
