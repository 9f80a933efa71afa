"""Bundles whose U-Nets have random weights, as large as wanted: what they cost can be measured, what
they make is noise. The weights are streamed to disk and never held in memory, neither here nor while tracing.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from export.checkpoints.safetensors import header_of
from export.models.configs import UNetConfig
from export.models.keyframes import KeyframeUNet
from export.models.limits import Limits
from export.onnx.demo import untexted
from export.onnx.inputs import draw_inputs, multiples_of
from export.onnx.parity import NOT_MEASURED
from export.onnx.trace import Traced, point_to, trace
from ffrt.bundle import Bundle, GraphSpec, list_files, open_bundle, write_manifest
from ffrt.families import KANDINSKY_1_0

CHUNK = 1 << 22
"""Numbers drawn at a time."""


def write_random(module: nn.Module, path: Path, seed: int) -> None:
    """Write float16 random values for the state dict of a module on the meta device as safetensors.

    Matrices and filters are normal with deviation 1/sqrt(inputs), so that activations keep their size; all else is
    uniform in 0.05..0.15, so that no zero-initialised layer drops out of the work.
    """
    rng = np.random.default_rng(seed)
    state = module.state_dict()
    with path.open("wb") as file:
        file.write(header_of({name: ("F16", tensor.shape) for name, tensor in state.items()}, {}))
        for tensor in state.values():
            fan_in = math.prod(tensor.shape[1:])
            for at in range(0, tensor.numel(), CHUNK):
                count = min(CHUNK, tensor.numel() - at)
                if tensor.dim() > 1:
                    values = rng.standard_normal(count, np.float32) / np.float32(math.sqrt(fan_in))
                else:
                    values = rng.uniform(0.05, 0.15, count)
                file.write(values.astype(np.float16).tobytes())


def write_random_bundle(
    base: Bundle, networks: dict[str, UNetConfig], out: Path, report: Callable[[str], None], seed: int = 0
) -> Bundle:
    """Write the bundle ``base`` with the given graphs replaced by random ones; ``out`` appears when all is written.

    ``networks`` names U-Nets of the 1.0 contract. Raises OSError, with nothing left at
    ``out``, where the disk is full.
    """
    beside = out.parent / f".{out.name}.writing"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for file in base.files:
            if Path(file).stem not in networks:
                shutil.copyfile(base.path(file), beside / file)
        for number, (name, config) in enumerate(networks.items()):
            with torch.device("meta"):
                module = KeyframeUNet(config) if name == "keyframe_unet" else untexted(config)
            weights = beside / f"{name}.safetensors"
            report(f"{name}: {sum(p.numel() for p in module.parameters()) / 1e6:.1f} M random weights")
            write_random(module, weights, seed + number)
            report(f"{name}: tracing")
            positions = base.keyframes.position_range
            limits = Limits(config.size_multiple, base.video.downscale, config.context_dim, 1, positions)
            example = tuple(value.to("meta") for value in draw_inputs(KANDINSKY_1_0.contract[name], limits, 0))
            traced = Traced(name, module, example, multiples_of(KANDINSKY_1_0.contract[name], limits))
            onnx.save(point_to(trace(traced), weights), beside / f"{name}.onnx")
        specs = {name: GraphSpec(f"{name}.onnx", *KANDINSKY_1_0.contract[name], NOT_MEASURED) for name in networks}
        multiple = base.video.downscale * max(config.size_multiple for config in networks.values())
        manifest = replace(
            base.manifest,
            name=out.name,
            files=list_files(beside),
            graphs={**base.graphs, **specs},
            video=replace(base.video, height=multiple, width=multiple, size_multiple=multiple),
        )
        write_manifest(beside, manifest)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return open_bundle(out)
