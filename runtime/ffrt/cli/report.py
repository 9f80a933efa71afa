"""What `ffrt inspect` and `ffrt doctor` print, as text."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ffrt import __version__
from ffrt.backend.graph import Graph
from ffrt.backend.openvino import multiplies_bfloat16
from ffrt.backend.providers import PLUGINS, engines_folder, files_below, packaged, plugged_in
from ffrt.backend.session import available_providers, check_provider, runtime_version
from ffrt.bundle import FORMAT, FORMAT_VERSION, MANIFEST, Bundle, find_bundle, open_bundle
from ffrt.errors import BundleError, FfrtError
from ffrt.families import TensorSpec
from ffrt.media.video_file import SUFFIXES, read_metadata
from ffrt.memory import free_bytes

TRY = 'ffrt generate "a red circle moving right on a black background" --seed 7 -o circle.mp4'


def inspect(what: str, as_json: bool = False) -> str:
    """A bundle (folder or "demo") or a video that ffrt wrote, as a table or as JSON. Raises FfrtError if unreadable."""
    if Path(what).suffix.lower() in SUFFIXES and not Path(what).is_dir():
        metadata = read_metadata(what)
        if as_json:
            return json.dumps(metadata, indent=2, ensure_ascii=False)
        return _columns(list(metadata.items())) if metadata else f"{what} holds no metadata of ffrt"
    bundle = open_bundle(find_bundle(what))
    if as_json:
        manifest = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
        return json.dumps({"folder": str(bundle.folder), "digest": bundle.digest, **manifest}, indent=2)
    return "\n\n".join([_columns(_summary(bundle)), _columns(_graph_rows(bundle)), _columns(_tensor_rows(bundle))])


def doctor() -> tuple[str, int]:
    """Versions, providers and the demo bundle; the status is 0 if a video can be made here, else 1."""
    rows: list[Sequence[str]] = [
        ("ffrt", __version__, str(Path(__file__).parents[1])),
        ("python", platform.python_version(), f"{platform.system()} {platform.machine()}"),
        ("numpy", importlib.metadata.version("numpy"), ""),
        ("tokenizers", importlib.metadata.version("tokenizers"), ""),
        ("av", importlib.metadata.version("av"), "writes mp4, webm and gif"),
        ("onnxruntime", runtime_version(), f"has the providers {', '.join(map(_provided, available_providers()))}"),
        *_machine_rows(),
    ]
    try:
        bundle = open_bundle(find_bundle("demo"))
    except BundleError as error:
        rows += [("demo bundle", "no", "see below"), ("cuda", "?", "tried with the demo bundle")]
        rows += [("auto", check_provider("auto"), "unless it does not start")]
        return f"{_columns(rows)}\n\nnext: {error}", 1
    cuda, why = _cuda(bundle)
    rows += [
        ("demo bundle", "ok", f"{bundle.folder}, {_readable(_size_of(bundle))}, every digest verified"),
        ("cuda", cuda, why),
        ("auto", "cuda" if cuda == "ok" else "cpu", "the provider of a request that names none"),
    ]
    return f"{_columns(rows)}\n\nnext: {TRY}", 0


def _provided(word: str) -> str:
    if packaged(word):
        return f"{word} ({importlib.metadata.version(word)}, {'with' if multiplies_bfloat16() else 'without'} bfloat16)"
    return f"{word} (plugged in by {PLUGINS[word]})" if plugged_in(word) else word


def _machine_rows() -> list[Sequence[str]]:
    """Processors, free memory, and what is kept in the cache folder."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    folder = engines_folder()
    engines = files_below(folder)
    told = str(folder) if engines else f"{folder} is empty; TensorRT keeps its engines there"
    rows: list[Sequence[str]] = [("threads", str(cores), "processors here; ONNX Runtime takes a thread for each core")]
    for name, free in (("memory", free_bytes(on_gpu=False)), ("gpu memory", free_bytes(on_gpu=True))):
        if free is not None:
            rows.append((name, f"{free / 1e9:.1f} GB", "free"))
    return [*rows, ("engines", _readable(sum(file.stat().st_size for file in engines)), told)]


def _cuda(bundle: Bundle) -> tuple[str, str]:
    """Whether a session really runs on CUDA, and why or what to install."""
    driver = shutil.which("nvidia-smi") is not None
    if "cuda" not in available_providers():
        if driver:
            return "no", 'there is an NVIDIA driver: pip uninstall onnxruntime, then pip install "ffrt[cuda]"'
        return "no", "no NVIDIA driver here; the CPU is used"
    try:
        Graph(bundle, "text_encoder", provider="cuda")
    except FfrtError as error:
        return "no", str(error) if driver else f"no NVIDIA driver here ({error})"
    return "ok", "a session really ran on it"


def _summary(bundle: Bundle) -> list[Sequence[str]]:
    video, keys, between = bundle.video, bundle.keyframes, bundle.interpolation
    h, w, count = video.height // video.downscale, video.width // video.downscale, keys.num_frames
    rows: list[Sequence[str]] = [
        ("name", bundle.name),
        ("format", f"{FORMAT} {FORMAT_VERSION}"),
        ("licence", bundle.license),
        ("folder", str(bundle.folder)),
        ("digest", bundle.digest),
        ("size", f"{_readable(_size_of(bundle))} in {len(bundle.files)} files, every digest verified"),
        ("made with", ", ".join(f"{name} {version}" for name, version in bundle.created_with.items())),
        ("text", f"up to {bundle.text.max_tokens} tokens"),
        (
            "video",
            f"{video.height}x{video.width} pixels (multiples of {video.size_multiple}), "
            f"latent {video.latent_channels}x{h}x{w}",
        ),
        ("keyframes", f"{count} at {keys.fps} fps; {_sampling(keys)}"),
    ]
    if keys.image is not None:
        motions = ", ".join(f"{name} {score}" for name, score in keys.image.motion_scores.items())
        rows.append(("", f"follow a first frame, given or made of the prompt; motion {motions} ({keys.image.motion})"))
    if bundle.optimised is not None:
        psnr = bundle.optimised.psnr
        far = "" if psnr is None else f", {psnr:.1f} dB from the bundle that it was made of"
        rows.insert(1, ("optimised", f"for {bundle.optimised.provider} in {bundle.optimised.dtype}{far}"))
    for i, one_pass in enumerate(between.passes):
        count = 4 * count - 3
        rows.append(
            (
                "" if i else "interpolation",
                f"{count} at {one_pass.fps} fps, skip_frames {one_pass.skip_frames}; {_sampling(between)}",
            )
        )
    return rows


def _sampling(config: Any) -> str:
    most = "" if config.threshold_max is None else f" up to {config.threshold_max:g}"
    return (
        f"{config.prediction}-prediction, {config.sampler}, {config.num_inference_steps} steps, "
        f"guidance {config.guidance_scale:g}, threshold {config.threshold:g}{most}, {config.schedule} schedule"
    )


def _graph_rows(bundle: Bundle) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("graph", "size", "parity with PyTorch: max abs", "relative rms", "floor")]
    for name, graph in bundle.graphs.items():
        own = (graph.file, f"{Path(graph.file).stem}.safetensors")  # two graphs may read one file: it counts once
        files = [bundle.files[file].bytes for file in own if file in bundle.files]
        parity = graph.parity
        measured = [f"{number:.1e}" for number in (parity.max_abs, parity.relative_rms, parity.floor)]
        rows.append((name, _readable(sum(files)), *measured))
    return rows


def _tensor_rows(bundle: Bundle) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("graph", "", "tensor", "dtype", "shape")]
    for name, graph in bundle.graphs.items():
        tensors: list[tuple[str, TensorSpec]] = [("in", t) for t in graph.inputs] + [("out", t) for t in graph.outputs]
        for i, (side, tensor) in enumerate(tensors):
            shape = f"[{', '.join(map(str, tensor.shape))}]"
            rows.append(("" if i else name, side, tensor.name, tensor.dtype, shape))
    return rows


def _size_of(bundle: Bundle) -> int:
    return sum(file.bytes for file in bundle.files.values())


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as left-aligned columns, two spaces apart."""
    table = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in table if i < len(row)) for i in range(max(map(len, table)))]
    lines = ("  ".join(cell.ljust(widths[i]) for i, cell in enumerate(row)) for row in table)
    return "\n".join(line.rstrip() for line in lines)
