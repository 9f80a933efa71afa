"""Files, graphs and their parts, as `manifest.json` lists them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ffrt.families.contract import TensorSpec, require

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileSpec:
    """Size in bytes and sha256 (64 hex digits) of one file of the bundle."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        require(0 <= self.bytes < 1 << 63, "bytes", "0 to 2**63 - 1", self.bytes)
        require(_DIGEST.fullmatch(self.sha256) is not None, "sha256", "64 hex digits", self.sha256)


@dataclass(frozen=True)
class Parity:
    """Measured difference from the PyTorch module, and the relative RMS limit it had to stay under."""

    max_abs: float
    relative_rms: float
    floor: float


@dataclass(frozen=True)
class PartSpec:
    """One file of a graph that was split, with the names of its inputs and outputs."""

    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_suffix(self.file)


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX graph: its file, its contract, and its difference from the module it was exported from.

    A graph that was split has `parts`, which run in order; the last one is `file`. Each takes inputs of the graph and
    outputs of earlier parts, and need not run again while these stay the same.
    """

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parity: Parity
    parts: tuple[PartSpec, ...] = ()

    def __post_init__(self) -> None:
        _check_suffix(self.file)
        if len(self.parts) == 0:
            return
        known = {tensor.name for tensor in self.inputs}
        for part in self.parts:
            require(set(part.inputs) <= known, f"parts.{part.file}.inputs", f"some of {sorted(known)}", part.inputs)
            known |= set(part.outputs)
        last, made = self.parts[-1], tuple(tensor.name for tensor in self.outputs)
        require(last.file == self.file, "parts", f"{self.file!r} last", last.file)
        require(last.outputs == made, f"parts.{last.file}.outputs", f"{list(made)}", last.outputs)

    @property
    def files(self) -> tuple[str, ...]:
        """The graph files that an engine opens, each once."""
        return tuple(dict.fromkeys((*(part.file for part in self.parts), self.file)))


@dataclass(frozen=True)
class Optimised:
    """How the graphs of a bundle were rewritten: for which provider, by which passes, and to compute in which dtype.

    `psnr` in dB compares its videos with those of the original bundle; None if none were made.
    """

    provider: str
    passes: tuple[str, ...]
    dtype: Literal["float32", "float16", "bfloat16"]
    psnr: float | None = None


def _check_suffix(file: str) -> None:
    """An engine takes a file of another suffix for another format, which nothing here has checked."""
    require(file.endswith(".onnx"), "file", "a name that ends in .onnx", file)
