"""The demo bundle: trained weights in, five graphs, a tokenizer and a manifest out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

import ffrt
from export.configs import ModelConfig, UNetConfig
from export.interpolation_unet import InterpolationUNet, UntextedInterpolationUNet
from export.keyframe_unet import KeyframeUNet
from export.movq import MoVQDecoder, MoVQEncoder
from export.parity import compare
from export.text_encoder import TextEncoder
from export.trace import Traced, point_to, trace
from export.weights import load_half
from ffrt.bundle import (
    CONTRACT,
    Bundle,
    GraphSpec,
    InterpolationConfig,
    InterpolationPass,
    KeyframeConfig,
    Parity,
    TextConfig,
    VideoConfig,
    open_bundle,
    write_manifest,
)
from ffrt.graph import Graph

MAX_TOKENS = 128
PARITY_ROUNDS = 3
NOT_MEASURED = Parity(max_abs=0.0, relative_rms=0.0, floor=0.0)


def load_modules(config: ModelConfig, weights: Path) -> dict[str, torch.nn.Module]:
    """The modules with the trained weights, by graph name."""
    modules: dict[str, torch.nn.Module] = {
        "text_encoder": TextEncoder(config.text),
        "keyframe_unet": KeyframeUNet(config.keyframes),
        "interpolation_unet": untexted(config.interpolation),
        "movq_encoder": MoVQEncoder(config.movq),
        "movq_decoder": MoVQDecoder(config.movq),
    }
    if config.masked_interpolation is not None and (weights / "masked_interpolation_unet.safetensors").exists():
        modules["masked_interpolation_unet"] = untexted(config.masked_interpolation)
    return {name: load_half(module, weights / f"{name}.safetensors") for name, module in modules.items()}


def untexted(config: UNetConfig) -> UntextedInterpolationUNet:
    return UntextedInterpolationUNet(InterpolationUNet(config), torch.zeros(config.context_dim))


def draws(config: ModelConfig) -> dict[str, Callable[[int], tuple[Tensor, ...]]]:
    """Random inputs of each graph, by round number; every round has other sizes, the first has no axis of size one."""
    cell, pixel = config.keyframes.size_multiple, config.movq.downscale

    def sizes(number: int) -> tuple[np.random.Generator, int, int, int]:
        rng = np.random.default_rng(number)
        torch.manual_seed(number)
        return rng, 2 if number == 0 else 1 + number % 2, 2 * cell * (1 + number), 2 * cell * (2 + number % 2)

    def text(number: int) -> tuple[Tensor, ...]:
        rng, rows, _, _ = sizes(number)
        length = 5 + 7 * number
        kept = torch.tensor(rng.integers(1, length + 1, rows))
        ids = torch.tensor(rng.integers(0, config.text.vocab_size, (rows, length)))
        return ids, (torch.arange(length)[None, :] < kept[:, None]).long()

    def keyframes(number: int) -> tuple[Tensor, ...]:
        rng, rows, height, width = sizes(number)
        frames, length = 3 + 2 * number, 6 + 5 * number
        mask = torch.arange(length)[None, :] < torch.tensor(rng.integers(1, length + 1, rows))[:, None]
        context = torch.randn(rows, length, config.keyframes.context_dim)
        positions = torch.arange(frames) * (config.position_range // frames)
        time = torch.full((rows,), float(rng.integers(0, 1000)))
        return torch.randn(rows * frames, 4, height, width), time, context, mask, positions

    def interpolation(channels: int, number: int) -> tuple[Tensor, ...]:
        rng, rows, height, width = sizes(number)
        length = 2 + 3 * number  # of a sequence of groups, or of frames
        skip = torch.full((length,), int(rng.integers(1, 13)))
        time = torch.full((rows,), float(rng.integers(0, 1000)))
        return torch.randn(rows * length, channels, height, width), time, skip, torch.zeros(length)

    def encoder(number: int) -> tuple[Tensor, ...]:
        _, rows, height, width = sizes(number)
        return (torch.rand(rows, 3, height * pixel, width * pixel) * 2 - 1,)

    def decoder(number: int) -> tuple[Tensor, ...]:
        _, rows, height, width = sizes(number)
        return (torch.rand(rows, 4, height, width) * 2 - 1,)

    return {
        "text_encoder": text,
        "keyframe_unet": keyframes,
        "interpolation_unet": partial(interpolation, 20),
        "masked_interpolation_unet": partial(interpolation, 9),
        "movq_encoder": encoder,
        "movq_decoder": decoder,
    }


def multiples(config: ModelConfig) -> dict[str, dict[str, int]]:
    """What the axes of each graph must be multiples of."""
    pixel = config.movq.downscale
    return {
        "keyframe_unet": dict.fromkeys(("h", "w"), config.keyframes.size_multiple),
        "interpolation_unet": dict.fromkeys(("h", "w"), config.interpolation.size_multiple),
        "masked_interpolation_unet": dict.fromkeys(("h", "w"), config.interpolation.size_multiple),
        "movq_encoder": dict.fromkeys(("H", "W"), pixel),
    }


def write_bundle(config: ModelConfig, weights: Path, out: Path, report: Callable[[str], None]) -> Bundle:
    """Trace, compare and write; ``out`` is replaced only by a bundle whose every graph agrees with PyTorch.

    Raises ParityError below the floor, FileNotFoundError and RuntimeError for weights that are missing or do not fit.
    """
    beside = out.parent / f".{out.name}.writing"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        modules, inputs, axes = load_modules(config, weights), draws(config), multiples(config)
        for name, module in modules.items():
            report(f"{name}: tracing")
            model = trace(Traced(name, module, inputs[name](0), axes.get(name, {})))
            shutil.copyfile(weights / f"{name}.safetensors", beside / f"{name}.safetensors")
            onnx.save(point_to(model, beside / f"{name}.safetensors"), beside / f"{name}.onnx")
        shutil.copyfile(weights / "tokenizer.json", beside / "tokenizer.json")
        shutil.copyfile(Path(__file__).parents[1] / "LICENSE", beside / "LICENSE")
        graphs = {name: GraphSpec(f"{name}.onnx", *CONTRACT[name], NOT_MEASURED) for name in modules}
        bundle = write(config, beside, graphs)
        for name, module in modules.items():
            parity = compare(name, module, Graph(bundle, name, provider="cpu"), inputs[name], PARITY_ROUNDS)
            graphs[name] = replace(graphs[name], parity=parity)
            report(f"{name}: relative RMS {parity.relative_rms:.1e}, largest difference {parity.max_abs:.1e}")
        write(config, beside, graphs)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return open_bundle(out)


def write(config: ModelConfig, folder: Path, graphs: dict[str, GraphSpec]) -> Bundle:
    """The manifest; sampling defaults as released where the demo has no reason to differ."""
    multiple = config.keyframes.size_multiple * config.movq.downscale
    return write_manifest(
        folder,
        name=config.name,
        license="Apache-2.0",
        created_with={"ffrt": ffrt.__version__, "torch": torch.__version__, "onnx": onnx.__version__},
        graphs=graphs,
        text=TextConfig("tokenizer.json", MAX_TOKENS),
        video=VideoConfig(
            config.image_size, config.image_size, config.movq.z_channels, config.movq.downscale, multiple
        ),
        keyframes=KeyframeConfig(
            num_frames=config.num_frames, fps=2, position_range=config.position_range,
            prediction=config.keyframe_prediction, sampler=config.sampler,
            num_inference_steps=config.num_inference_steps, guidance_scale=config.guidance_scale, threshold=0.98,
        ),
        interpolation=InterpolationConfig(
            prediction="v", sampler=config.interpolation_sampler, num_inference_steps=config.interpolation_steps,
            guidance_scale=config.interpolation_guidance_scale, threshold=0.98,
            passes=(InterpolationPass(8, 3), InterpolationPass(30, 1)),
        ),
    )  # fmt: skip
