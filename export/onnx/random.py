"""Bundles whose networks have random weights, as large as wanted: their cost can be measured, their videos are noise.

The weights are streamed to disk and never held in memory, neither here nor while tracing.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from export.checkpoints.safetensors import header_of
from export.models.configs import UNetConfig
from export.models.keyframes import KeyframeUNet
from export.models.limits import Limits
from export.onnx.demo import untexted
from export.onnx.inputs import draw_inputs, multiples_of
from export.onnx.parity import NOT_MEASURED
from export.onnx.trace import Traced, point_to, trace
from ffrt.bundle import Bundle, GraphSpec, check_place, list_files, open_bundle, why_no_bundle, write_manifest
from ffrt.families import KANDINSKY_1_0, Family
from ffrt.output.whole_folder import whole_folder

CHUNK = 1 << 22
"""Numbers drawn at a time."""
Draw = Callable[[int, int | None], NDArray[np.float16]]
"""Draws so many numbers: normal with deviation 1/sqrt(inputs), or uniform in 0.05..0.15 where inputs are None."""


def numbers(seed: int) -> Draw:
    """Random numbers of NumPy."""
    rng = np.random.default_rng(seed)

    def draw(count: int, fan_in: int | None) -> NDArray[np.float16]:
        if fan_in is None:
            return rng.uniform(0.05, 0.15, count).astype(np.float16)
        return (rng.standard_normal(count, np.float32) / np.float32(math.sqrt(fan_in))).astype(np.float16)

    return draw


def write_random(module: nn.Module, path: Path, draw: Draw) -> None:
    """Write float16 random values for the state dict of a module on the meta device as safetensors.

    Matrices and filters are normal with deviation 1/sqrt(inputs), so that activations keep their size; all else is
    uniform, so that no zero-initialised layer drops out of the work.
    """
    state = module.state_dict()
    with path.open("wb") as file:
        file.write(header_of({name: ("F16", tensor.shape) for name, tensor in state.items()}, {}))
        for tensor in state.values():
            fan_in = math.prod(tensor.shape[1:]) if tensor.dim() > 1 else None
            for at in range(0, tensor.numel(), CHUNK):
                file.write(draw(min(CHUNK, tensor.numel() - at), fan_in).tobytes())


def write_random_graph(
    name: str, module: nn.Module, limits: Limits, folder: Path, draw: Draw, family: Family = KANDINSKY_1_0
) -> GraphSpec:
    """Write NAME.safetensors and NAME.onnx of a module on the meta device, a graph of the family's contract."""
    signature, weights = family.contract[name], folder / f"{name}.safetensors"
    write_random(module, weights, draw)
    example = tuple(value.to("meta") for value in draw_inputs(signature, limits, 0))
    model = trace(Traced(name, module, example, multiples_of(signature, limits), family.contract))
    onnx.save(point_to(model, weights), folder / f"{name}.onnx")
    return GraphSpec(f"{name}.onnx", *signature, NOT_MEASURED)


def write_random_bundle(
    base: Bundle, networks: dict[str, UNetConfig], out: Path, report: Callable[[str], None], seed: int = 0
) -> Bundle:
    """Write the bundle `base` with the given graphs replaced by random ones; `out` appears when all is written.

    `networks` names U-Nets of the 1.0 contract. Only a bundle is replaced: raises OutputError for anything else, and
    OSError, with nothing left at `out`, where the disk is full.
    """
    check_place(out)
    specs = {}
    with whole_folder(out, why_no_bundle) as beside:
        for file in base.files:
            if Path(file).stem not in networks:
                shutil.copyfile(base.path(file), beside / file)
        for number, (name, config) in enumerate(networks.items()):
            with torch.device("meta"):
                module = KeyframeUNet(config) if name == "keyframe_unet" else untexted(config)
            report(f"{name}: {sum(p.numel() for p in module.parameters()) / 1e6:.1f} M random weights, tracing")
            positions = base.keyframes.position_range
            limits = Limits(config.size_multiple, base.video.downscale, config.context_dim, 1, positions)
            specs[name] = write_random_graph(name, module, limits, beside, numbers(seed + number))
        multiple = base.video.downscale * max(config.size_multiple for config in networks.values())
        manifest = replace(
            base.manifest,
            name=out.name,
            files=list_files(beside),
            graphs={**base.graphs, **specs},
            video=replace(base.video, height=multiple, width=multiple, size_multiple=multiple),
        )
        write_manifest(beside, manifest)
    return open_bundle(out)
