"""Does the exported graph compute what PyTorch computes? Asked before a bundle is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.errors import ParityError
from ffrt.backend.graph import Graph
from ffrt.bundle import Parity

NOT_MEASURED = Parity(max_abs=0.0, relative_rms=0.0, floor=0.0)
"""What a manifest says before a graph was compared."""
FLOOR = 1e-3
"""Largest relative RMS error at which a graph is accepted (float32 against float32)."""


def compare(
    name: str, module: nn.Module, graph: Graph, draw: Callable[[int], tuple[Tensor, ...]], rounds: int
) -> Parity:
    """Run both on `rounds` random inputs of different sizes; raises ParityError above `FLOOR`."""
    worst_abs, worst_relative = 0.0, 0.0
    for number in range(rounds):
        inputs = draw(number)
        with torch.no_grad():
            expected = module(*inputs)
        expected = expected if isinstance(expected, tuple) else (expected,)
        got = graph(dict(zip(graph.input_names, (tensor.numpy() for tensor in inputs), strict=True)))
        for reference, (output, value) in zip(expected, got.items(), strict=True):
            largest, relative = errors(reference.numpy(), value)
            worst_abs, worst_relative = max(worst_abs, largest), max(worst_relative, relative)
            if not relative <= FLOOR:
                shapes = [list(tensor.shape) for tensor in inputs]
                raise ParityError(
                    f"{name}.{output}: expected a relative RMS error of at most {FLOOR} against PyTorch, got "
                    f"{relative:.3g} (largest difference {largest:.3g}) on inputs {shapes}; nothing was written"
                )
    return Parity(max_abs=worst_abs, relative_rms=worst_relative, floor=FLOOR)


def errors(reference: NDArray[np.floating], value: NDArray[np.floating]) -> tuple[float, float]:
    """Largest absolute difference, and RMS of the difference over the RMS of the reference."""
    difference = value.astype(np.float64) - reference
    scale = float(np.sqrt(np.square(reference, dtype=np.float64).mean()))
    relative = float(np.sqrt(np.square(difference).mean())) / max(scale, 1e-12)
    return float(np.abs(difference).max()), relative
