"""How close the video of a rewritten bundle is to that of the bundle it was made from.

A graph's own error says little: a sampler may amplify it or wash it out. So both bundles make the same videos, and the
answer is one PSNR. It is the one file of graphs/ that runs the pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.bundle import Bundle
from ffrt.errors import FfrtError
from ffrt.families import TensorSpec
from ffrt.pipeline import Pipeline

FLOOR = 35.0
"""Decibels below which a bundle is refused."""
SIZES: Mapping[str, int] = {"B": 2, "T": 4, "G": 3, "F": 5, "L": 8, "N": 2, "h": 8, "w": 8, "H": 64, "W": 64}
"""Sizes of the axes in :func:`random_inputs`; the width ``D`` of a context is to be added."""


class FidelityError(FfrtError):
    """A rewritten bundle makes another video than the bundle it was made from."""


@dataclass(frozen=True)
class Request:
    """A video that both bundles make: `fps` None is the first pass of interpolation, a side None the bundle's."""

    prompt: str
    seed: int = 0
    steps: int = 4
    fps: int | None = None
    height: int | None = None
    width: int | None = None


REQUESTS = (Request("a red circle moves right", 0), Request("a blue square moves left on black", 1))


def measure(
    plain: Bundle,
    other: Bundle,
    requests: Sequence[Request] = REQUESTS,
    *,
    provider: str = "cpu",
    other_provider: str = "cpu",
    threads: int | None = None,
) -> float:
    """PSNR in dB of the videos of ``other`` against those of ``plain``, over all their pixels; inf where they agree.

    Keyframes, interpolation and decoding run with the same noise. ``other`` on the CPU must be made of
    :func:`graphs.passes.half.rounded` graphs: that provider does not compute in float16. Raises FfrtError where a
    bundle or a provider cannot be had, and GraphInputError where numbers overflow.
    """
    squares = 0.0
    count = 0
    pipes = [
        Pipeline(bundle, provider=name, threads=threads)
        for bundle, name in ((plain, provider), (other, other_provider))
    ]
    for request in requests:
        want, got = (_frames(pipe, request) for pipe in pipes)
        squares += float(np.square(want - got).sum())
        count += want.size
    return psnr(squares / count)


def psnr(mean_square: float) -> float:
    """PSNR in dB of 8-bit pixels with that mean square error."""
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)


def check(decibels: float, dtype: str = "float16", floor: float = FLOOR) -> None:
    """Raise FidelityError if a PSNR is under ``floor``."""
    if not decibels >= floor:
        raise FidelityError(
            f"the {dtype} video is {decibels:.1f} dB from the float32 one, expected {floor:g} dB or more; nothing was "
            "written. Type python -m graphs optimise again with --dtype float32"
        )


def _frames(pipe: Pipeline, request: Request) -> NDArray[np.float64]:
    config = pipe.bundle
    rates = [one_pass.fps for one_pass in config.interpolation.passes]
    fps = request.fps if request.fps is not None else rates[0] if rates else config.keyframes.fps
    video = pipe(
        request.prompt,
        fps=fps,
        seed=request.seed,
        num_inference_steps=request.steps,
        height=request.height,
        width=request.width,
    )
    return np.stack([np.asarray(frame, np.float64) for frame in video])


def relative_rms(got: NDArray[Any], want: NDArray[Any]) -> float:
    """Root mean square of the difference, over that of ``want``; where that is zero, 0 for no difference, else inf."""
    difference, scale = float(np.square(got - want).mean()), float(np.square(want).mean())
    if scale == 0:
        return 0.0 if difference == 0 else math.inf
    return math.sqrt(difference / scale)


def random_inputs(specs: Sequence[TensorSpec], sizes: Mapping[str, int] = SIZES) -> dict[str, NDArray[Any]]:
    """Arrays that a graph of the bundle format takes: normal noise, the middle of the schedule, whole prompts."""
    rng = np.random.default_rng(0)
    return {spec.name: _random(rng, spec, sizes) for spec in specs}


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
