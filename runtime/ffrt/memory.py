"""How much memory a request needs at least, how much is free, and what would fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ffrt.backend.free_memory import FreeMemory, free_memory
from ffrt.backend.runner import Memory
from ffrt.bundle import Bundle
from ffrt.errors import OutOfMemoryError
from ffrt.stages.decode import CHUNK_FRAMES
from ffrt.stages.interpolate import WINDOW_GROUPS


@dataclass(frozen=True)
class Room:
    """The memory that requests must fit in: how sessions hold weights, on which device, and how much is free."""

    memory: Memory
    on_gpu: bool
    free: FreeMemory | None

    @classmethod
    def here(cls, memory: Memory = "fast", on_gpu: bool = False) -> Room:
        """What is free now on this machine, or on its first GPU."""
        return cls(memory, on_gpu, free_memory(on_gpu))


@dataclass(frozen=True)
class Need:
    """What the memory of a request depends on: size in pixels, frame rate, guidance rows of both U-Nets, device."""

    height: int
    width: int
    fps: int
    rows: tuple[int, int]
    memory: Memory
    on_gpu: bool


def wanted_bytes(bundle: Bundle, need: Need) -> int:
    """A lower bound, so that no request is refused that fits: the size of the weight files, and activations.

    Activations are taken to be sqrt(P) / 2 bytes per batch item and latent pixel of a U-Net, or per pixel of the
    decoder, with P parameters in float32; on a GPU, in float16, half of that. Measured peaks are several times higher.
    "fast" holds the weights of all graphs and the activations of the largest one. "low" holds one graph, whose weights
    the CPU maps from the file, and of which a GPU holds the step alone while it runs.
    """
    video = bundle.video
    pixels = need.height * need.width
    latent = pixels // video.downscale**2
    largest = [bundle.num_frames(fps) for fps in bundle.rates if fps <= need.fps]
    groups = min(largest[-2] - 1, WINDOW_GROUPS) if len(largest) > 1 else 0
    items = {
        "text_encoder": 0,
        "keyframe_unet": need.rows[0] * largest[0] * latent,
        "interpolation_unet": need.rows[1] * groups * latent,
        "movq_decoder": min(CHUNK_FRAMES, largest[-1]) * pixels,
    }
    if len(largest) == 1:
        del items["interpolation_unet"]
    parts = {name: weight_bytes(bundle, name) for name in items}
    weights = {name: sum(sizes) for name, sizes in parts.items()}
    share = 4 if need.on_gpu else 2
    activations = {name: int(math.sqrt(weights[name] / 4) * count / share) for name, count in items.items()}
    if need.memory == "fast":
        return sum(weights.values()) + max(activations.values())
    if not need.on_gpu:
        return max(activations.values())
    return max(max(weights[name], parts[name][-1] + activations[name]) for name in items)


def check_memory(bundle: Bundle, need: Need, free: FreeMemory | None) -> None:
    """Raise OutOfMemoryError, which says what would fit, if a request needs more than is `free`; None is unknown."""
    wanted = wanted_bytes(bundle, need)
    if free is None or wanted <= free.bytes:
        return
    fits = [told for told, other in _simpler(bundle, need) if wanted_bytes(bundle, other) <= free.bytes]
    sizes = (told for told, other in _smaller(bundle, need) if wanted_bytes(bundle, other) <= free.bytes)
    fits += [told for told in [next(sizes, None)] if told is not None]
    advice = f"what would fit: {' or '.join(fits)}" if fits else "no smaller request of this bundle would fit"
    raise OutOfMemoryError(
        f"{need.height}x{need.width} at {need.fps} fps with memory={need.memory!r} needs at least {_readable(wanted)}, "
        f"and {free.limit} leaves {_readable(free.bytes)}; {advice}"
    )


def _simpler(bundle: Bundle, need: Need) -> Iterator[tuple[str, Need]]:
    """Requests of the same size that need less, each with the argument that asks for it."""
    if need.memory == "fast":
        yield 'memory="low"', replace(need, memory="low")
    for fps in [*(p.fps for p in reversed(bundle.interpolation.passes)), bundle.keyframes.fps]:
        if fps < need.fps:
            yield f"fps={fps}", replace(need, fps=fps)


def _smaller(bundle: Bundle, need: Need) -> Iterator[tuple[str, Need]]:
    """Requests of smaller frames of about the same aspect ratio, the largest first."""
    multiple = bundle.video.size_multiple
    for height in range(need.height - multiple, 0, -multiple):
        width = max(multiple, need.width * height // need.height // multiple * multiple)
        yield f"height={height}, width={width}", replace(need, height=height, width=width)


def weight_bytes(bundle: Bundle, name: str) -> list[int]:
    """Bytes of the weights of a graph's parts in the order in which they run, or of its one file."""
    spec = bundle.graphs[name]
    files = [part.file for part in spec.parts] if spec.parts else [spec.file]
    own = [(file, f"{Path(file).stem}.safetensors") for file in files]
    return [sum(bundle.files[one].bytes for one in pair if one in bundle.files) for pair in own]


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
