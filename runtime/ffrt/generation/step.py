"""One finished step of a generation, from the text to the last written frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from ffrt.checks import describe
from ffrt.errors import RequestError
from ffrt.families import Stage
from ffrt.sampling import Array

Decode = Callable[[Array], Iterator[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Step:
    """One finished step of a `Generation`.

    `stage` and `fps` say what is under way: a denoising step of keyframes or of the interpolation to `fps` frames per
    second, or a frame that was decoded and written; `fps` is None for text and a first frame. `index` of `total` counts
    within the stage, from 0; `done` of `of` within the whole, from 1. `elapsed_s` is the time worked on the request, in
    seconds, and `remaining_s` an estimate of the rest, None until a denoising step was timed.

    `latents` float32 [n, 4, h, w] is the current clean estimate: what the stage would give if it ended now. None for
    text.
    """

    stage: Stage
    fps: int | None
    index: int
    total: int
    done: int
    of: int
    elapsed_s: float
    remaining_s: float | None
    latents: Array | None = field(default=None, repr=False, compare=False)
    decode: Decode | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[..., Step], tuple[object, ...]]:
        """A copy or a pickle holds what is known of the step, and cannot decode it."""
        return Step, tuple(getattr(self, f.name) for f in fields(Step) if f.name != "decode")

    def preview(self, frames: slice = slice(None)) -> NDArray[np.uint8]:
        """The estimate, or the `frames` chosen of it, decoded to uint8 [n, H, W, 3].

        Raises RequestError for text, which has no picture, and if `frames` is no slice, or one that chooses none.
        """
        if self.latents is None:
            raise RequestError(f"preview: expected a step that has latents, got one of stage {str(self.stage)!r}")
        if self.decode is None:
            raise RequestError(
                "preview: expected the step itself, got a copy of it; decode its latents with pipe.decode"
            )
        if not isinstance(frames, slice):
            raise RequestError(f"frames: expected a slice such as slice(0, 1), got {describe(frames)}")
        try:
            chosen = self.latents[frames]
        except (TypeError, ValueError) as error:
            raise RequestError(f"frames: expected a slice of whole numbers, got {frames!r:.200} ({error})") from error
        if len(chosen) == 0:
            raise RequestError(f"frames: {frames} chooses none of the {len(self.latents)} frames; try slice(0, 1)")
        return np.concatenate(list(self.decode(chosen)))
