"""`ffrt doctor`: what is installed, what works, and what to type next."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from ffrt._version import __version__
from ffrt.backend.engines import engines_folder, files_below, graphs_folder
from ffrt.backend.free_memory import free_memory
from ffrt.backend.graph import Graph
from ffrt.backend.onnxruntime import has_plugin, runtime_version
from ffrt.backend.openvino import multiplies_bfloat16
from ffrt.backend.processors import processors
from ffrt.backend.providers import PROVIDERS, available_providers, choose_provider, has_package
from ffrt.backend.wheels import advice, problems
from ffrt.bundle import Bundle, find_bundle, open_bundle
from ffrt.cli.table import columns, readable, size_of
from ffrt.errors import BundleError, FfrtError

TRY = 'ffrt generate "a red circle moving right on a black background" --seed 7 -o circle.mp4'


def doctor() -> tuple[str, int]:
    """Versions, providers and the demo bundle; the status is 0 if a video can be made here, else 1."""
    rows: list[Sequence[str]] = [
        ("ffrt", __version__, str(Path(__file__).parents[1])),
        ("python", platform.python_version(), f"{platform.system()} {platform.machine()}"),
        ("numpy", importlib.metadata.version("numpy"), ""),
        ("tokenizers", importlib.metadata.version("tokenizers"), ""),
        ("av", importlib.metadata.version("av"), "writes mp4, webm and gif"),
        ("onnxruntime", runtime_version(), f"has the providers {', '.join(map(_provided, available_providers()))}"),
        *(("", "", told) for told in problems()),
        *_machine_rows(),
    ]
    try:
        bundle = open_bundle(find_bundle("demo"))
    except BundleError as error:
        rows += [("demo bundle", "no", "see below"), ("cuda", "?", "tried with the demo bundle")]
        rows += [("auto", choose_provider("auto").name, "unless it does not start")]
        return f"{columns(rows)}\n\nnext: {error}", 1
    cuda, why = _cuda(bundle)
    rows += [
        ("demo bundle", "ok", f"{bundle.folder}, {readable(size_of(bundle))}, every digest verified"),
        ("cuda", cuda, why),
        ("auto", "cuda" if cuda == "ok" else "cpu", "the provider of a request that names none"),
    ]
    return f"{columns(rows)}\n\nnext: {TRY}", 0


def _provided(name: str) -> str:
    row = PROVIDERS[name]
    if row.package is not None and has_package(row):
        version = importlib.metadata.version(row.package)
        return f"{name} ({version}, {'with' if multiplies_bfloat16() else 'without'} bfloat16)"
    return f"{name} (plugged in by {row.plugin})" if has_plugin(row) else name


def _machine_rows() -> list[Sequence[str]]:
    """Processors, free memory, and what is kept in the cache folder."""
    here = processors()
    rows: list[Sequence[str]] = [("threads", str(here.count), f"of a request that names none: {here.limit}")]
    for name, on_gpu in (("memory", False), ("gpu memory", True)):
        free = free_memory(on_gpu)
        if free is not None:
            rows.append((name, f"{free.bytes / 1e9:.1f} GB", f"free; the limit is {free.limit}"))
    kept = (("engines", engines_folder(), "TensorRT builds"), ("graphs", graphs_folder(), "ONNX Runtime optimises"))
    return rows + [_kept_row(name, folder, made) for name, folder, made in kept]


def _kept_row(name: str, folder: Path | None, made: str) -> Sequence[str]:
    """What is kept in a folder; `made` says by whom."""
    if folder is None:
        return name, "no", f"no home folder, so what {made} is not kept; XDG_CACHE_HOME gives one"
    files = files_below(folder)
    told = str(folder) if files else f"{folder} is empty; what {made} is kept there"
    return name, readable(sum(file.stat().st_size for file in files)), told


def _cuda(bundle: Bundle) -> tuple[str, str]:
    """Whether a session really runs on CUDA, and why or what to install."""
    driver = shutil.which("nvidia-smi") is not None
    if "cuda" not in available_providers():
        if driver:
            return "no", f"there is an NVIDIA driver: {advice(PROVIDERS['cuda'])}"
        return "no", "no NVIDIA driver here; the CPU is used"
    try:
        Graph(bundle, "text_encoder", provider="cuda")
    except FfrtError as error:
        return "no", str(error) if driver else f"no NVIDIA driver here ({error})"
    return "ok", "a session really ran on it"
