"""One finished denoising step, as `Pipeline.generate` hands it out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import RequestError
from ffrt.sampling import Array, Denoised

Decode = Callable[[Array], Iterator[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Step:
    """One finished denoising step of `Pipeline.generate`.

    `stage` is "first frame", "keyframes" or, for example, "interpolation to 8 fps". `index` of `total` counts within
    the stage, `overall_index` of `overall_total` within the video, both from 0. `latents` float32 [n, 4, h, w] is the
    current clean estimate: what the stage would give if it ended now.
    """

    stage: str
    index: int
    total: int
    overall_index: int
    overall_total: int
    latents: Array = field(repr=False, compare=False)
    _decode: Decode = field(repr=False, compare=False)

    def preview(self, frames: slice = slice(None)) -> NDArray[np.uint8]:
        """The estimate, or the `frames` chosen of it, decoded to uint8 [n, H, W, 3]."""
        chosen = self.latents[frames]
        if len(chosen) == 0:
            raise RequestError(f"frames: {frames} chooses none of the {len(self.latents)} frames; try slice(0, 1)")
        return np.concatenate(list(self._decode(chosen)))


def report_steps(
    name: str,
    done: int,
    overall: int,
    stage: Generator[Denoised, None, Array],
    estimate: Callable[[Array], Array],
    decode: Decode,
) -> Generator[Step, None, Array]:
    """Run a stage, one Step a yield, after `done` of `overall` steps; returns what the stage returns.

    `estimate` turns what the stage denoises into latents [n, 4, h, w].
    """
    while True:
        try:
            at = next(stage)
        except StopIteration as end:
            latents: Array = end.value
            return latents
        yield Step(name, at.index, at.total, done + at.index, overall, estimate(at.x0), decode)
