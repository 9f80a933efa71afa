"""What a network sees beside the latent, with guidance and without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.sampling import Array, Sampling, plain_weights

Conditioning = Callable[[float], dict[str, NDArray[Any]]]
"""The time of a step -> every input of the network but `x`."""


@dataclass(frozen=True)
class ModelInput:
    """How a network sees items [n, c, h, w] of the latent for B guidance rows.

    Its input is `before`, the latent once per row and `after` [B*n, .., h, w], joined along the channels (items may be
    cut finer: as many as `before` has). `weights` [B] sums its predictions. `items` are those of the latent that it
    sees, None for all; `core` those of `items` that it predicts for.
    """

    weights: NDArray[np.float32]
    before: Array
    after: Array
    conditioning: Conditioning
    items: slice | None = None
    core: slice | None = None


@dataclass(frozen=True)
class ModelInputs:
    """The inputs through which a network sees the latent in turn, in steps with guidance and in those without."""

    guided: Sequence[ModelInput]
    plain: Sequence[ModelInput]
    is_guided: Callable[[float], bool]

    def at(self, time: float) -> Sequence[ModelInput]:
        """Those of the step at `time`."""
        return self.guided if self.is_guided(time) else self.plain


Look = Callable[[NDArray[np.intp], NDArray[np.float32]], Sequence[ModelInput]]
"""Which of a stage's guidance rows run, and their weights -> how the network sees the latent for them."""


def with_guidance(sampling: Sampling, weights: NDArray[np.float32], look: Look, keep_rows: bool) -> ModelInputs:
    """The inputs of all steps: rows of weight 0 do not run, and without guidance the first one, of the text, is left.

    With `keep_rows` as many rows run in every step, for a provider that opens a network for one shape.
    """
    rows = np.flatnonzero(weights)
    guided = look(rows, weights[rows])
    if sampling.guidance_interval is None:
        return ModelInputs(guided, guided, sampling.is_guided)
    count = len(rows) if keep_rows else 1
    return ModelInputs(guided, look(np.arange(count), plain_weights(count)), sampling.is_guided)


def no_channels(items: int, latent: tuple[int, ...]) -> Array:
    """No additional channels for `items` of a latent [.., c, h, w]."""
    return np.zeros((items, 0, *latent[-2:]), np.float32)
