"""A release becomes a bundle: weights streamed, graphs traced without weights, each compared with PyTorch at full size.

Everything is made in a hidden folder beside the wanted one, and takes its place in one step at the end. Stopped or
killed, the hidden folder stays and the same command goes on: at the last whole tensor, behind the last traced graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx
import torch

import ffrt
from export.checkpoints.file import given_back
from export.checkpoints.on_disk import on_disk
from export.checkpoints.progress import Progress
from export.checkpoints.release import Part, Release
from export.checkpoints.stream import check_space, stream_weights
from export.checkpoints.tokenizer import write_tokenizer
from export.errors import MemoryShortError
from export.onnx.inputs import draw_inputs, multiples_of
from export.onnx.parity import NOT_MEASURED, compare
from export.onnx.trace import Traced, point_to, trace
from ffrt.backend.free_memory import free_memory
from ffrt.backend.graph import Graph
from ffrt.bundle import (
    Bundle,
    FileSpec,
    GraphSpec,
    Manifest,
    Parity,
    TextConfig,
    VideoConfig,
    check_place,
    list_files,
    open_bundle,
    why_no_bundle,
    write_manifest,
)
from ffrt.families import Signature
from ffrt.output.interrupts import held_interrupts
from ffrt.output.whole_file import sync, sync_names, whole_file
from ffrt.output.whole_folder import publish_folder
from ffrt.output.work import ASIDE, kept_folder

Dtype = Literal["float16", "float32"]

LEAST_MEMORY, MORE_MEMORY = 1_000_000_000, 2_000_000_000
"""Bytes that an export needs, and at most so many more for large networks (bench.export_memory)."""
SIDE = 512
"""Pixels along each side of a video where a request says nothing, as released."""
LICENSE = "see LICENSE: that of the released weights"
NOTE = "These are weights of {name}, converted to ONNX by ffrt. Their licence is the one they were released under.\n"


def write_release(release: Release, out: Path, dtype: Dtype, rounds: int, report: Callable[[str], None]) -> Bundle:
    """Write the bundle of a release to `out`, which is replaced only by one whose every graph agrees with PyTorch.

    `rounds` is how many random inputs, each of other sizes, every graph is compared on. Only a bundle is replaced:
    raises OutputError for anything else that is there, and while another process writes it. Raises ParityError where a
    graph differs, CheckpointError where a number does not fit `dtype`, DiskFullError where the disk is full; what is
    done by then stays for the next try in `.NAME.writing`.
    """
    check_place(out)
    work = out.parent / f".{out.name}.writing"
    left = _left(release, work / out.name, dtype)
    _check_room(left, work / out.name, dtype)
    out.parent.mkdir(parents=True, exist_ok=True)
    with kept_folder(work):
        (work / out.name).mkdir(exist_ok=True)
        _write_files(release, work / out.name, dtype, rounds, report)
        check_place(out)
        with held_interrupts():
            _done_in(work / out.name).forget()  # what lies there next is the old bundle
            publish_folder(work / out.name, out, work / ASIDE, why_no_bundle)
    return open_bundle(out, verify=False)


def _write_files(release: Release, beside: Path, dtype: Dtype, rounds: int, report: Callable[[str], None]) -> None:
    """Make the bundle in `beside`, as far as an earlier try has not."""
    contract = release.family.contract
    done = _done_in(beside)
    _tidy(release, beside)
    for name, part in release.parts.items():
        mark = _mark(part, dtype)
        weights = beside / f"{name}.safetensors"
        if not (done.has(weights.name, mark) and weights.is_file()):
            stream_weights(part.module, part.source, part.rename, weights, dtype, Progress(name), part.stamp)
            done.add(weights, mark)
        for graph, module in part.graphs.items():
            file = beside / f"{graph}.onnx"
            if not (done.has(file.name, mark) and file.is_file()):
                report(f"{graph}: tracing")
                onnx.save(_traced(release, contract, graph, module, weights), file)
                done.add(file, mark)
    write_tokenizer(release.text_folder, beside / "tokenizer.json")
    (beside / "LICENSE").write_text(NOTE.format(name=release.name), encoding="utf-8")
    names = [graph for part in release.parts.values() for graph in part.graphs]
    graphs = {name: GraphSpec(f"{name}.onnx", *contract[name], NOT_MEASURED) for name in names}
    report("taking digests")
    bundle = _write(release, beside, graphs, {})
    for name, part in release.parts.items():
        weights = beside / f"{name}.safetensors"
        on_disk(part.module, weights)
        for graph, module in part.graphs.items():
            with given_back(weights):
                parity = _parity(release, bundle, graph, module, rounds)
            graphs[graph] = replace(graphs[graph], parity=parity)
            report(f"{graph}: relative RMS {parity.relative_rms:.1e}, largest difference {parity.max_abs:.1e}")
    _write(release, beside, graphs, bundle.files)


def _left(release: Release, beside: Path, dtype: Dtype) -> dict[str, Part]:
    """The parts whose weights are still to be written."""
    done = _done_in(beside)
    return {n: p for n, p in release.parts.items() if not done.has(f"{n}.safetensors", _mark(p, dtype))}


def _traced(
    release: Release, contract: Mapping[str, Signature], graph: str, module: torch.nn.Module, weights: Path
) -> onnx.ModelProto:
    inputs = draw_inputs(contract[graph], release.limits, 0)
    example = tuple(value.to("meta") for value in inputs)
    axes = multiples_of(contract[graph], release.limits)
    return point_to(
        trace(
            Traced(graph, module, example, axes, contract, {"L": release.max_tokens} if graph == "text_encoder" else {})
        ),
        weights,
    )


def _parity(release: Release, bundle: Bundle, graph: str, module: torch.nn.Module, rounds: int) -> Parity:
    session, signature = Graph(bundle, graph, provider="cpu", memory="low"), bundle.contract[graph]
    return compare(graph, module.eval(), session, lambda number: draw_inputs(signature, release.limits, number), rounds)


def _write(release: Release, folder: Path, graphs: dict[str, GraphSpec], known: Mapping[str, FileSpec]) -> Bundle:
    movq = release.movq
    multiple = release.limits.cell * movq.downscale
    side = max(multiple, SIDE // multiple * multiple)
    manifest = Manifest(
        name=release.name,
        family=release.family,
        files=list_files(folder, known),
        license=LICENSE,
        created_with={"ffrt": ffrt.__version__, "torch": torch.__version__, "onnx": onnx.__version__},
        graphs=graphs,
        text=TextConfig("tokenizer.json", release.max_tokens),
        video=VideoConfig(side, side, movq.z_channels, movq.downscale, multiple, movq.decodes_clips),
        keyframes=release.keyframes,
        interpolation=release.interpolation,
    )
    return write_manifest(folder, manifest, verify=False)


def _check_room(parts: Mapping[str, Part], folder: Path, dtype: Dtype) -> None:
    """Raise DiskFullError or MemoryShortError where the disk or the memory is too small, before anything is written."""
    counts = [sum(value.numel() for value in part.module.state_dict().values()) for part in parts.values()]
    begun = folder.glob("*.part") if folder.is_dir() else ()
    around = next(parent for parent in folder.parents if parent.is_dir())
    written = sum(path.stat().st_size for path in begun)
    check_space(around / folder.name, sum(counts) * getattr(torch, dtype).itemsize - written)
    needed = LEAST_MEMORY + min(MORE_MEMORY, 4 * max(counts, default=0))
    free = free_memory()
    if free is not None and free.bytes < needed:
        raise MemoryShortError(
            f"memory: expected {needed / 1e9:.1f} GB free, got {free.bytes / 1e9:.1f}, which {free.limit} leaves; end "
            "other programs and start again"
        )


def _tidy(release: Release, folder: Path) -> None:
    """Remove what another release may have left in the hidden folder."""
    weights = [f"{name}.safetensors" for name in release.parts]
    graphs = [f"{graph}.onnx" for part in release.parts.values() for graph in part.graphs]
    for entry in folder.iterdir():
        if entry.name.removesuffix(".part") not in (*weights, *graphs):
            entry.unlink()


def _mark(part: Part, dtype: Dtype) -> str:
    """What a file of an earlier try must have been made of to be used again."""
    shapes = [(key, tuple(value.shape)) for key, value in part.module.state_dict().items()]
    return hashlib.sha256(json.dumps([part.stamp, dtype, shapes, ffrt.__version__]).encode()).hexdigest()


class _Done:
    """Which files of a bundle that is being made are whole, and what they were made of; kept beside its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marks: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):  # without a readable one, everything is made again
            marks = json.loads(path.read_bytes())
            self._marks = marks if isinstance(marks, dict) else {}

    def has(self, file: str, mark: str) -> bool:
        return self._marks.get(file) == mark

    def add(self, file: Path, mark: str) -> None:
        """The file is brought to the disk before its mark is."""
        sync(file)
        sync_names(file.parent)
        self._marks[file.name] = mark
        with whole_file(self.path) as part:
            part.write_text(json.dumps(self._marks))

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        sync_names(self.path.parent)


def _done_in(beside: Path) -> _Done:
    return _Done(beside.with_name(".ffrt-done.json"))
