"""The demo bundle: trained weights in, five graphs, a tokenizer and a manifest out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import torch

import ffrt
from export.checkpoints.weights import copy_half, load_half
from export.models.configs import ModelConfig, UNetConfig
from export.models.interpolation import InterpolationUNet, UntextedInterpolationUNet
from export.models.keyframes import KeyframeUNet
from export.models.limits import Limits
from export.models.movq import MoVQDecoder, MoVQEncoder
from export.models.residual import ResidualInterpolation, ResidualMasked
from export.models.text import TextEncoder
from export.onnx.inputs import draw_inputs, multiples_of
from export.onnx.parity import NOT_MEASURED, compare
from export.onnx.trace import Traced, point_to, trace
from ffrt.backend.graph import Graph
from ffrt.bundle import (
    Bundle,
    GraphSpec,
    InterpolationConfig,
    InterpolationPass,
    KeyframeConfig,
    Manifest,
    TextConfig,
    VideoConfig,
    check_place,
    list_files,
    open_bundle,
    why_no_bundle,
    write_manifest,
)
from ffrt.families import KANDINSKY_1_0
from ffrt.output.whole_folder import whole_folder

MAX_TOKENS = 128
PARITY_ROUNDS = 3


def load_modules(config: ModelConfig, weights: Path) -> dict[str, torch.nn.Module]:
    """The modules with the trained weights, by graph name."""
    modules: dict[str, torch.nn.Module] = {
        "text_encoder": TextEncoder(config.text),
        "keyframe_unet": KeyframeUNet(config.keyframes),
        "interpolation_unet": between(config, config.interpolation),
        "movq_encoder": MoVQEncoder(config.movq),
        "movq_decoder": MoVQDecoder(config.movq),
    }
    if config.masked_interpolation is not None and (weights / "masked_interpolation_unet.safetensors").exists():
        modules["masked_interpolation_unet"] = between(config, config.masked_interpolation)
    return {name: load_half(module, weights / f"{name}.safetensors") for name, module in modules.items()}


def between(config: ModelConfig, shape: UNetConfig) -> UntextedInterpolationUNet:
    """An interpolation U-Net of this model: of its `interpolation` or `masked_interpolation`."""
    if not config.residual:
        return untexted(shape)
    kind = ResidualInterpolation if shape == config.interpolation else ResidualMasked
    return kind(InterpolationUNet(shape), torch.zeros(shape.context_dim))


def untexted(config: UNetConfig) -> UntextedInterpolationUNet:
    """The interpolation U-Net of 1.0, whose null context is a constant."""
    return UntextedInterpolationUNet(InterpolationUNet(config), torch.zeros(config.context_dim))


def limits(config: ModelConfig, graph: str) -> Limits:
    """What the inputs of a graph may be."""
    between = "interpolation" in graph
    cell = config.interpolation.size_multiple if between else config.keyframes.size_multiple
    return Limits(
        cell, config.movq.downscale, config.keyframes.context_dim, config.text.vocab_size, config.position_range
    )


def write_bundle(config: ModelConfig, weights: Path, out: Path, report: Callable[[str], None]) -> Bundle:
    """Trace, compare and write; `out` is replaced only by a bundle whose every graph agrees with PyTorch.

    Only a bundle is replaced. Raises OutputError for anything else that is there, ParityError below the floor,
    CheckpointError for weights that are missing or do not fit.
    """
    check_place(out)
    with whole_folder(out, why_no_bundle) as beside:
        modules = load_modules(config, weights)
        inputs = {name: partial(draw_inputs, KANDINSKY_1_0.contract[name], limits(config, name)) for name in modules}
        for name, module in modules.items():
            report(f"{name}: tracing")
            axes = multiples_of(KANDINSKY_1_0.contract[name], limits(config, name))
            model = trace(Traced(name, module, inputs[name](0), axes))
            copy_half(module, weights / f"{name}.safetensors", beside / f"{name}.safetensors")
            onnx.save(point_to(model, beside / f"{name}.safetensors"), beside / f"{name}.onnx")
        shutil.copyfile(weights / "tokenizer.json", beside / "tokenizer.json")
        shutil.copyfile(Path(__file__).parents[2] / "LICENSE", beside / "LICENSE")
        graphs = {name: GraphSpec(f"{name}.onnx", *KANDINSKY_1_0.contract[name], NOT_MEASURED) for name in modules}
        bundle = write(config, beside, graphs)
        for name, module in modules.items():
            parity = compare(name, module, Graph(bundle, name, provider="cpu"), inputs[name], PARITY_ROUNDS)
            graphs[name] = replace(graphs[name], parity=parity)
            report(f"{name}: relative RMS {parity.relative_rms:.1e}, largest difference {parity.max_abs:.1e}")
        write(config, beside, graphs)
    return open_bundle(out)


def write(config: ModelConfig, folder: Path, graphs: dict[str, GraphSpec]) -> Bundle:
    """The manifest; sampling defaults as released where the demo has no reason to differ."""
    multiple = config.keyframes.size_multiple * config.movq.downscale
    height = config.image_size if config.image_height is None else config.image_height
    manifest = Manifest(
        name=config.name,
        family=KANDINSKY_1_0,
        files=list_files(folder),
        license="Apache-2.0",
        created_with={"ffrt": ffrt.__version__, "torch": torch.__version__, "onnx": onnx.__version__},
        graphs=graphs,
        text=TextConfig("tokenizer.json", MAX_TOKENS),
        video=VideoConfig(height, config.image_size, config.movq.z_channels, config.movq.downscale, multiple),
        keyframes=KeyframeConfig(
            num_frames=config.num_frames,
            fps=2,
            position_range=config.position_range,
            prediction=config.keyframe_prediction,
            sampler=config.sampler,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            threshold=0.98,
        ),
        interpolation=InterpolationConfig(
            prediction="v",
            sampler=config.interpolation_sampler,
            num_inference_steps=config.interpolation_steps,
            guidance_scale=config.interpolation_guidance_scale,
            threshold=None if config.residual else 0.98,
            told_times="exact" if config.residual else "released",
            passes=(InterpolationPass(8, 3), InterpolationPass(30, 1)),
        ),
    )
    return write_manifest(folder, manifest)
