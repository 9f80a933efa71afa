"""`ffrt inspect`: what a bundle holds, or how a video was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ffrt.bundle import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Bundle,
    InterpolationConfig,
    KeyframeConfig,
    find_bundle,
    open_bundle,
)
from ffrt.cli.table import columns, readable, size_of
from ffrt.families import TensorSpec
from ffrt.files import path_of, shown
from ffrt.media.metadata import CONTAINERS, read_metadata


def inspect(what: str, as_json: bool = False) -> str:
    """A bundle (folder or "demo") or a video that ffrt wrote, as a table or as JSON. Raises FfrtError if unreadable."""
    path = path_of("what", what)
    if path.suffix.lower() in (".png", *CONTAINERS) and not path.is_dir():
        metadata = read_metadata(path)
        if as_json:
            return json.dumps(metadata, indent=2, ensure_ascii=False)
        return columns(list(metadata.items())) if metadata else f"{what} holds no metadata of ffrt"
    bundle = open_bundle(find_bundle(what))
    if as_json:
        manifest = json.loads(bundle.read(MANIFEST, MAX_MANIFEST_BYTES))
        return json.dumps({"folder": str(bundle.folder), "digest": bundle.digest, **manifest}, indent=2)
    return "\n\n".join([columns(_summary(bundle)), columns(_graph_rows(bundle)), columns(_tensor_rows(bundle))])


def _summary(bundle: Bundle) -> list[Sequence[str]]:
    video, keys, between = bundle.video, bundle.keyframes, bundle.interpolation
    h, w, count = video.height // video.downscale, video.width // video.downscale, keys.num_frames
    rows: list[Sequence[str]] = [
        ("name", bundle.name),
        ("family", bundle.family.title),
        ("format", f"{FORMAT} {FORMAT_VERSION}"),
        ("licence", bundle.license),
        ("folder", shown(bundle.folder)),
        ("digest", bundle.digest),
        ("size", f"{readable(size_of(bundle))} in {len(bundle.files)} files, every digest verified"),
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


def _sampling(config: KeyframeConfig | InterpolationConfig) -> str:
    most = "" if config.threshold_max is None else f" up to {config.threshold_max:g}"
    threshold = "no threshold" if config.threshold is None else f"threshold {config.threshold:g}{most}"
    return (
        f"{config.prediction}-prediction, {config.sampler}, {config.num_inference_steps} steps, "
        f"guidance {config.guidance_scale:g}, {threshold}, {config.schedule} schedule"
    )


def _graph_rows(bundle: Bundle) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("graph", "size", "parity with PyTorch: max abs", "relative rms", "floor")]
    for name, graph in bundle.graphs.items():
        own = (graph.file, f"{Path(graph.file).stem}.safetensors")  # two graphs may read one file: it counts once
        files = [bundle.files[file].bytes for file in own if file in bundle.files]
        parity = graph.parity
        measured = [f"{number:.1e}" for number in (parity.max_abs, parity.relative_rms, parity.floor)]
        rows.append((name, readable(sum(files)), *measured))
    return rows


def _tensor_rows(bundle: Bundle) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("graph", "", "tensor", "dtype", "shape")]
    for name, graph in bundle.graphs.items():
        tensors: list[tuple[str, TensorSpec]] = [("in", t) for t in graph.inputs] + [("out", t) for t in graph.outputs]
        for i, (side, tensor) in enumerate(tensors):
            shape = f"[{', '.join(map(str, tensor.shape))}]"
            rows.append(("" if i else name, side, tensor.name, tensor.dtype, shape))
    return rows
