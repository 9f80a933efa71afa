"""Whether contenders compute the same, and how much faster one is than another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bench.contenders.work import Contender, Inputs, Scale, Stage, opened
from bench.harness.record import BenchError
from bench.harness.run import ratio_of

BASELINE: Mapping[str, str] = {"openvino": "eager_bfloat16"}
"""PyTorch at the precision of a contender; eager, in float32 on a CPU, for all that are not named."""


def difference(wanted: np.ndarray, got: np.ndarray) -> float:
    """Relative RMS of the difference between two arrays of one shape. Raises BenchError for two shapes."""
    wanted, got = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    if wanted.shape != got.shape:
        raise BenchError(f"difference: expected the shape {list(wanted.shape)}, got {list(got.shape)}")
    return float(np.sqrt(np.mean((got - wanted) ** 2) / max(float(np.mean(wanted**2)), 1e-30)))


def result(contender: Contender, stage: Stage, scale: Scale, inputs: Inputs) -> np.ndarray:
    """What a contender computes in a stage: the clean estimate of the first step, frames, or the context."""
    if stage == "decode_frame":
        return np.concatenate(list(contender.decode(inputs.pictures[:4])))
    if stage == "text":
        return contender.encode("a red circle").context
    steps = opened(contender, stage, scale, inputs)
    try:
        return next(steps).x0
    finally:
        steps.close()


def agree(
    contenders: Mapping[str, Contender], stage: Stage, scale: Scale, inputs: Inputs, largest: Mapping[str, float]
) -> dict[str, float]:
    """The relative RMS between each contender and eager. Raises BenchError if one is larger than `largest` allows."""
    wanted = result(contenders["eager"], stage, scale, inputs)
    differences = {}
    for name, contender in contenders.items():
        differences[name] = difference(wanted, result(contender, stage, scale, inputs))
        if not differences[name] <= largest[name]:
            raise BenchError(
                f"{name} computes something else than eager in {stage} of {scale.name}: relative RMS "
                f"{differences[name]:.1e}, expected at most {largest[name]:.0e}; export or optimise the bundle again"
            )
    return differences


Ratios = dict[str, dict[str, float]]


def ratios_of(seconds: Mapping[str, Sequence[float]]) -> tuple[Ratios, Ratios]:
    """PyTorch's seconds over those of every other contender, divided round by round: median and interquartile range.

    First over contenders of PyTorch's own precision ("optimised" over "eager", "openvino" over "eager_bfloat16"), then
    what a lower precision gains: PyTorch in float32 over every contender in bfloat16.
    """
    same: Ratios = {}
    gained: Ratios = {}
    for name, values in seconds.items():
        kind = name.removesuffix("_fast")
        reduced = kind in {*BASELINE, *BASELINE.values()}
        own = BASELINE.get(kind, "eager")
        if own in seconds and name not in ("eager", *BASELINE.values()):
            same[name] = ratio_of(list(seconds[own]), list(values))
        if reduced and "eager" in seconds:
            gained[name] = ratio_of(list(seconds["eager"]), list(values))
    return same, gained
