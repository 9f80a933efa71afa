"""How much memory the runs of graphs take: fitted to measured peaks, from what the files of a bundle say.

`python -m bench.memory` measures every stage in fresh processes, and holds estimates to 1.0 to 1.5 times the peaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ffrt.backend.graph import holds_weights
from ffrt.backend.runner import Memory
from ffrt.bundle import Bundle
from ffrt.families import OVER_PIXELS, SHALLOW

PROCESS_BYTES = 82_000_000
"""Python and the libraries, with no graph open."""
MARGIN = 1.2
"""An estimate over the fit, so that it lies in the middle of 1.0 to 1.5 measured peaks."""
LEAST = 1.6
"""An estimate over the least that a request takes, without what the process had before: there 1.55 was the most."""
NODES = 40
"""Bytes that an open graph takes for one byte of its file, which holds nodes."""
OPENING, OPEN, STREAMED = 2.4, 1.4, 0.06
"""Bytes for one of the weights in float32: while a session lays them out and its optimised graph is written, once it is
open, and where they stay in files."""
KEPT = 0.11
"""Of what earlier stages took with memory "low", what the allocator has not given back."""


@dataclass(frozen=True)
class Values:
    """The values of one kind of graph that are alive at once.

    Of the channels at full size there are so many times the network's width, with memory "fast" and "low". `scores` is
    the number of matrices of attention, each token with each, a token being `cells` latent pixels wide and high. The
    larger of the two counts, or their sum where both are alive `together`.
    """

    channels: tuple[float, float]
    scores: tuple[float, float]
    cells: int = 2
    together: bool = False


KEYFRAME_VALUES = Values((26, 24), (5.3, 5.3))
INTERPOLATION_VALUES = Values((34, 34), (5.4, 5.4))
DECODER_VALUES = Values((5.2, 9), (1.25, 1.7), cells=1, together=True)
VALUES = {
    "keyframe_unet": KEYFRAME_VALUES,
    "keyframe_unet_shallow": KEYFRAME_VALUES,
    "image_unet": KEYFRAME_VALUES,
    "interpolation_unet": INTERPOLATION_VALUES,
    "interpolation_unet_shallow": INTERPOLATION_VALUES,
    "masked_interpolation_unet": INTERPOLATION_VALUES,
    "movq_decoder": DECODER_VALUES,
    "image_decoder": Values((4.4, 9), (1.25, 1.7), cells=1, together=True),
    "movq_encoder": Values((4.3, 4.3), (3.1, 3.1), cells=1),
}
"""Fitted to the demo and to a 1.1 bundle of its size, on two cores; a graph that is not here has no large values.

`python -m bench.memory` measures the peaks that these are fitted to."""
MANY_HEADS, WIDE = 2.5, 40
"""No graph file says how many heads a U-Net's outermost attention has. Of the known networks those of a width below
40 have one, the demo's interpolation (40) 2.5, and the released ones (192) 3."""


@dataclass(frozen=True)
class Run:
    """One graph that runs over `items` of a batch, each of so many times the area of the video's frames.

    `arrays` are numbers for each latent pixel that the stage holds beside the network.
    """

    graph: str
    items: int
    area: int = 1
    arrays: int = 0

    @property
    def of_pixels(self) -> bool:
        """Whether the network works on pixels, or on latents."""
        return self.graph in OVER_PIXELS


@dataclass(frozen=True)
class Estimate:
    """Bytes that runs take: `taken` for themselves, at `least` so much of it, and `mapped` from files.

    The system may take mapped bytes back, so they are nothing that must be free.
    """

    taken: int
    least: int
    mapped: int

    @property
    def process(self) -> int:
        """The peak of a process that does nothing else."""
        return PROCESS_BYTES + self.taken + self.mapped


def estimate(bundle: Bundle, runs: Sequence[Run], latent: int, memory: Memory, on_gpu: bool) -> Estimate:
    """What runs, one after the other, take on frames of `latent` latent pixels.

    "fast" keeps every graph and the memory that its values had. "low" holds one graph at a time; weights of networks
    over latents stay in the bundle's files.
    """
    if on_gpu:
        taken = _on_gpu(bundle, runs, latent, memory)
        return Estimate(taken, taken, 0)
    if memory == "fast":
        held, peak = 0.0, 0.0
        for run in runs:
            opening, open_ = _held(bundle, run, latent)
            peak = max(peak, held + opening)
            held += open_
        return _with_margin(max(peak, held), 0)
    each, mapped = [], [0]
    for run in runs:
        if holds_weights(bundle, run.graph):
            each.append(max(_held(bundle, run, latent)))
        else:
            nodes, weights = NODES * _size(bundle, run.graph), STREAMED * _unpacked(bundle, run.graph)
            each.append(nodes + weights + _values(bundle, run, latent, memory))
            mapped.append(sum(bundle.walked[file].stored for file in bundle.graphs[run.graph].files))
    most = max(each)
    return _with_margin(most + KEPT * (sum(each) - most), max(mapped))


def _held(bundle: Bundle, run: Run, latent: int) -> tuple[float, float]:
    """Bytes while a graph is opened with its weights, and once it is open and has run."""
    unpacked, nodes = _unpacked(bundle, run.graph), NODES * _size(bundle, run.graph)
    return nodes + OPENING * unpacked, nodes + OPEN * unpacked + _values(bundle, run, latent, "fast")


def weight_bytes(bundle: Bundle, name: str) -> list[int]:
    """Bytes of the weights of a graph's parts in the order in which they run, or of its one file."""
    own = [(file, f"{Path(file).stem}.safetensors") for file in bundle.graphs[name].files]
    return [sum(bundle.files[one].bytes for one in pair if one in bundle.files) for pair in own]


def _with_margin(taken: float, mapped: int) -> Estimate:
    return Estimate(int(MARGIN * taken), int(MARGIN / LEAST * taken), mapped)


def _values(bundle: Bundle, run: Run, latent: int, memory: Memory) -> float:
    """Bytes of a run's values, in float32."""
    values = VALUES.get(run.graph)
    if values is None:
        return 0
    mode = 0 if memory == "fast" else 1
    width = _width(bundle, run.graph)
    cells = run.area * latent
    pixels = cells * bundle.video.downscale**2 if run.of_pixels else cells
    heads = 1 if run.of_pixels or width < WIDE else MANY_HEADS
    channels = values.channels[mode] * width * pixels
    scores = values.scores[mode] * heads * (cells / values.cells**2) ** 2
    alive = channels + scores if values.together else max(channels, scores)
    return 4 * (run.items * alive + run.arrays * cells)


def _size(bundle: Bundle, name: str) -> int:
    return sum(bundle.walked[file].size for file in bundle.graphs[name].files)


def _unpacked(bundle: Bundle, name: str) -> int:
    return sum(bundle.walked[file].unpacked for file in bundle.graphs[name].files)


def _width(bundle: Bundle, name: str) -> float:
    """The channels of a network's outermost level; without a convolution that says so, few for its weights."""
    widths = [bundle.walked[file].width for file in bundle.graphs[name].files]
    found = [width for width in widths if width is not None]
    return min(found) if found else math.sqrt(_unpacked(bundle, name) / 4) / 64


def _on_gpu(bundle: Bundle, runs: Sequence[Run], latent: int, memory: Memory) -> int:
    """A lower bound, not fitted: weights, and sqrt(P) / 4 bytes for each item and pixel, with P parameters.

    "low" gives a stage's memory back, and holds the step alone while it runs.
    """
    parts = {run.graph: weight_bytes(bundle, run.graph) for run in runs}
    weights = {name: sum(sizes) for name, sizes in parts.items()}

    def values(run: Run) -> int:
        pixels = run.area * latent * (bundle.video.downscale**2 if run.of_pixels else 1)
        return int(math.sqrt(weights[run.graph] / 4) * run.items * pixels / 4)

    if memory == "fast":
        return sum(weights.values()) + max(values(run) for run in runs)
    return max(max(weights[run.graph], parts[run.graph][-1] + values(run)) for run in runs)


def with_shallow(run: Run, cache_interval: int) -> tuple[Run, ...]:
    """A U-Net's run, and beside it that of its outermost level where deep levels are kept for some steps."""
    return (run,) if cache_interval == 1 else (run, Run(SHALLOW[run.graph], run.items, run.area))
