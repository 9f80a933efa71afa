"""Whether a rewritten bundle still computes what the one it was made from does: graph by graph, and as whole videos.

The error of a graph alone says little: a sampler may amplify it or wash it out. So bundles that round more than float32
also make the same videos, and a PSNR decides. No other file of graphs/ runs a graph or the pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ffrt.backend.graph import Graph
from ffrt.bundle import Bundle
from ffrt.errors import FfrtError
from ffrt.families import DEEP, SHALLOW, TensorSpec
from ffrt.generation.request import Request
from ffrt.pipeline import Pipeline
from graphs.metrics import psnr, relative_rms
from graphs.store import graph_of

MIN_PSNR_DB = 35.0
"""Bundles whose videos are further from the original ones than this are refused."""
REFERENCE = "cpu"
"""The provider that plain graphs are run on."""
PROMPTS = ("a red circle moves right", "a blue square moves left on black")
"""What the videos show; the seed of each is its index."""
SIZES: Mapping[str, int] = {"B": 2, "T": 4, "G": 3, "F": 5, "L": 8, "N": 2, "h": 8, "w": 8, "H": 64, "W": 64}
"""Axis sizes for `random_inputs`; the width `D` of a context has to be added."""


class PassError(FfrtError):
    """A rewritten graph does not compute what it did before; no bundle was written."""


class FidelityError(FfrtError):
    """A rewritten bundle makes another video than the bundle it was made from; no bundle was written."""


@dataclass(frozen=True)
class Difference:
    """Errors of a rewritten graph over all its outputs, against the plain one."""

    max_abs: float
    relative_rms: float


def compare_graph(plain: Bundle, other: Bundle, name: str, limit: float) -> Difference:
    """Run graph `name` of both bundles on the same random inputs.

    Raises PassError if the relative RMS error is over `limit` or not a number.
    """
    with graph_of(plain, name) as model:
        inputs = _inputs_of(plain, name, model)
    want = Graph(plain, name, provider=REFERENCE)(inputs)  # one at a time: two of the released size need more memory
    got = Graph(other, name, provider=REFERENCE)(inputs)
    difference = Difference(
        max(float(np.abs(got[key] - want[key]).max()) for key in want),
        max(relative_rms(got[key], want[key]) for key in want),
    )
    if not difference.relative_rms <= limit:
        raise PassError(
            f"{name}: expected a relative RMS error of at most {limit} against the graph it was made from, got "
            f"{difference.relative_rms:.3g}; nothing was written. Leave passes out with --without to find the wrong one"
        )
    return difference


def compare_videos(
    plain: Bundle,
    other: Bundle,
    requests: Sequence[Request] | None = None,
    *,
    provider: str = REFERENCE,
    other_provider: str = REFERENCE,
    threads: int | None = None,
    metric: Callable[[NDArray[Any], NDArray[Any]], float] = psnr,
) -> float:
    """`metric(got, want)` over all pixels of the videos of both bundles; by default their PSNR in dB, inf if equal.

    `requests` None is a video of each of `PROMPTS`, of few steps and with one pass of interpolation. Keyframes,
    interpolation and decoding run on the same noise. To compare float16 on the CPU, build `other` from
    `graphs.passes.half.emulate_half` graphs: that provider does not compute in float16. Raises FfrtError if a bundle
    or provider cannot be used, GraphInputError if numbers overflow.
    """
    if requests is None:
        requests = _few_steps(plain)
    pipes = [Pipeline(plain, provider=provider, threads=threads)]
    pipes += [Pipeline(other, provider=other_provider, threads=threads)]
    want, got = (np.concatenate([_pixels(pipe, request) for request in requests]) for pipe in pipes)
    return metric(got, want)


def check_psnr(decibels: float, dtype: str = "float16", least: float = MIN_PSNR_DB) -> None:
    """Raise FidelityError if a PSNR is below `least` or not a number."""
    if not decibels >= least:
        raise FidelityError(
            f"the {dtype} video is {decibels:.1f} dB from the float32 one, expected {least:g} dB or more; nothing was "
            "written. Type python -m graphs optimise again with --dtype float32"
        )


def random_inputs(specs: Sequence[TensorSpec], sizes: Mapping[str, int] = SIZES) -> dict[str, NDArray[Any]]:
    """Valid inputs for a graph of the bundle format: normal noise, the middle of the schedule, full-length prompts."""
    rng = np.random.default_rng(0)
    return {spec.name: _random(rng, spec, sizes) for spec in specs}


def _few_steps(bundle: Bundle) -> list[Request]:
    """Short requests that use all stages."""
    rates = [interpolation.fps for interpolation in bundle.interpolation.passes]
    fps = rates[0] if rates else bundle.keyframes.fps
    return [Request(prompt, fps=fps, seed=seed, num_inference_steps=4) for seed, prompt in enumerate(PROMPTS)]


def _pixels(pipe: Pipeline, request: Request) -> NDArray[np.uint8]:
    """All pixels of a video, flat."""
    return np.concatenate([np.ravel(frame) for frame in pipe(request)])


def _inputs_of(bundle: Bundle, name: str, model: ir.Model) -> dict[str, NDArray[Any]]:
    """Random inputs of a few frames; the deep features of a shallow graph come from the whole network."""
    specs = [spec for spec in bundle.graphs[name].inputs if spec.name != DEEP]
    cell = bundle.video.size_multiple // bundle.video.downscale
    side = 2 * max(cell, 4)
    sizes = {"B": 2, "N": 2, "T": 4, "G": 3, "F": 5, "L": 8, "D": 8, "h": side, "w": side}
    sizes |= {axis: side * bundle.video.downscale for axis in ("H", "W")}
    shapes = {value.name: value.shape for value in model.graph.inputs if value.shape is not None}
    for spec in specs:
        fixed = zip(spec.shape, shapes.get(spec.name, ()), strict=False)
        sizes |= {axis: size for axis, size in fixed if isinstance(axis, str) and isinstance(size, int)}
    inputs = random_inputs(specs, sizes)
    for whole, shallow in SHALLOW.items():
        if shallow == name:
            inputs[DEEP] = Graph(bundle, whole, provider=REFERENCE)(inputs)[DEEP]
    return inputs


def _random(rng: np.random.Generator, spec: TensorSpec, sizes: Mapping[str, int]) -> NDArray[Any]:
    shape = [axis if isinstance(axis, int) else math.prod(sizes[s] for s in axis.split("*")) for axis in spec.shape]
    if spec.name == "time":
        return np.full(shape, 637, spec.dtype)
    if spec.name in ("perturbation", "temporal_mask"):
        return np.zeros(shape, spec.dtype) if spec.name == "perturbation" else np.ones(shape, spec.dtype)
    if spec.name in ("temporal_positions", "input_ids"):
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(spec.dtype)
    if spec.dtype.startswith("float"):
        return rng.standard_normal(shape).astype(spec.dtype)
    return np.ones(shape, spec.dtype)
