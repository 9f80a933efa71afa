"""Files of reference numbers of the released implementation.

Any folder of .npz files in this format: `config` (JSON bytes, the released constructor's arguments), `param/NAME`
(the state dict), `in/NAME` and `out/NAME`; whole pipelines have `noise/NNN_kind` too, sampling loops
`LOOP/noise` and `LOOP/y`. What a file is, is read from what is in it, never from its name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.errors import CheckpointError

LIMIT = 2e-3
"""Relative RMS error at which a model counts as the released one; float32 itself is off float64 by up to 2e-4."""


@dataclass(frozen=True)
class Golden:
    """One file: the released constructor's arguments, its state dict, forward inputs and expected outputs."""

    config: dict[str, Any]
    parameters: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, np.ndarray]
    others: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One compared output: largest and relative RMS error (or PSNR in dB, where `unit` is "dB") of one way to run."""

    file: str
    output: str
    runtime: str
    largest: float
    value: float
    unit: str
    limit: float

    @property
    def good(self) -> bool:
        """Whether the value is within its limit."""
        return self.value >= self.limit if self.unit == "dB" else self.value <= self.limit


def read_golden(path: Path) -> Golden:
    """Read an .npz of the format; parameters come as float32. Raises CheckpointError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        config = json.loads(bytes(arrays["config"])) if "config" in arrays else {}
    except Exception as error:  # a damaged file raises nearly anything
        raise CheckpointError(f"{path}: expected an .npz of arrays with a JSON config, got {error}") from error

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

    known = ("config", "param/", "in/", "out/")
    return Golden(
        config=config,
        parameters={name: torch.from_numpy(value.astype(np.float32)) for name, value in part("param/").items()},
        inputs={name: torch.from_numpy(np.asarray(value)) for name, value in part("in/").items()},
        outputs=part("out/"),
        others={name: value for name, value in arrays.items() if not name.startswith(known)},
    )
