"""`python -m export.golden FOLDER`: reference numbers of the released implementation against ours, PyTorch and ONNX.

Any folder of .npz files in this format: ``config`` (JSON bytes, the released constructor's arguments), ``param/NAME``
(the state dict), ``in/NAME`` and ``out/NAME``; whole pipelines have ``noise/NNN_kind`` too, sampling loops
``LOOP/noise`` and ``LOOP/y``. What a file is, is read from what is in it, never from its name.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.checkpoints.file import CheckpointError

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
    """One compared output: largest and relative RMS error (or PSNR in dB, where ``unit`` is "dB") of one way to run."""

    file: str
    output: str
    way: str
    largest: float
    value: float
    unit: str
    limit: float

    @property
    def good(self) -> bool:
        return self.value >= self.limit if self.unit == "dB" else self.value <= self.limit


def read_golden(path: Path) -> Golden:
    """Read an .npz of the format; parameters come as float32. Raises CheckpointError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        config = json.loads(bytes(arrays["config"])) if "config" in arrays else {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: wanted an .npz of arrays with a JSON config, got {error}") from error

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


def table_row(row: Row) -> str:
    """A row of the printed table."""
    largest = f"{row.largest:.2e}"
    value = f"{row.value:6.1f} dB" if row.unit == "dB" else f"{row.value:9.2e}"
    return f"{row.file:34}  {row.output:26}  {row.way:11}  {largest:>9}  {value}  {'ok' if row.good else 'TOO FAR'}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m export.golden", description=__doc__.splitlines()[0])
    line.add_argument("folder", type=Path, help="folder of .npz files")
    line.add_argument("--no-onnx", action="store_true", help="PyTorch only; tracing takes most of the time")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a folder. 0: every file agrees; 1: one is too far off, or could not be run; 2: no file to check."""
    from export.golden.cases import check_file

    asked = parser().parse_args(arguments)
    files = sorted(asked.folder.glob("*.npz")) if asked.folder.is_dir() else []
    if not files:
        print(f"{asked.folder}: wanted a folder of .npz files, found none", file=sys.stderr)
        return 2
    status, began = 0, time.monotonic()
    print(f"{'file':34}  {'output':26}  {'':11}  {'largest':>9}  relative RMS")
    for number, path in enumerate(files):
        print(f"{number + 1} of {len(files)}: {path.name}, after {time.monotonic() - began:.0f} s", file=sys.stderr)
        try:
            for row in check_file(path, onnx=not asked.no_onnx):
                print(table_row(row), flush=True)
                status = status if row.good else 1
        except Exception as error:  # one file that cannot be run must not hide the others
            print(f"{path.name:34}  could not be run: {type(error).__name__}: {error}", flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
