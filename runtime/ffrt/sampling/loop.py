"""The denoising loop in pure numpy: the reference for the loop on the device (`ffrt.stages.device_loop`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ffrt.sampling.guidance import dynamic_threshold
from ffrt.sampling.noise import Array, take
from ffrt.sampling.solvers import Parametrisation, Update, updates

Yielded = TypeVar("Yielded")
Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Denoised:
    """One finished step: `x` the latent after it, `x0` its clean estimate, `time` what the model was given."""

    index: int
    total: int
    time: float
    x: Array
    x0: Array


def denoise(
    predict: Callable[[Array, float], Array],
    noise: Iterator[Array],
    config: Parametrisation,
    *,
    steps: int,
    sampler: str,
) -> Generator[Denoised, None, Array]:
    """Turn noise into a latent in `steps` steps, one yield for each; returns the latent.

    `predict(x, time)` is the guided prediction. The first draw of `noise` is the start; a noisy solver ("ddpm") takes
    one more for every step but the last. Raises RequestError for an unknown sampler, a number of steps outside
    1..1000, or too few draws.
    """
    planned = updates(config, steps, sampler)
    x, x0 = take(noise), None
    for index, update in enumerate(planned):
        prediction = predict(x, update.time)
        draw = take(noise) if update.add_noise else None
        x, x0 = advance(update, config, x, prediction, x0, draw)
        yield Denoised(index, steps, update.time, x, x0)
    return x


def advance(
    update: Update, config: Parametrisation, x: Array, prediction: Array, x0_before: Array | None, noise: Array | None
) -> tuple[Array, Array]:
    """One step from `x` [n, c, h, w] and its guided prediction: the next latent and the clean estimate.

    `x0_before` is the estimate of the step before, `noise` the draw of a noisy step; each is None where there is none.
    Every item is worked out by itself, so that some of them give what all together would, to the bit.
    """
    x0 = update.from_x * x + update.from_prediction * prediction
    x0 = dynamic_threshold(x0.astype(np.float32, copy=False), config.threshold, config.threshold_max)
    x = update.keep_x * x + update.keep_x0 * x0
    if update.keep_before and x0_before is not None:
        x = x + update.keep_before * x0_before
    if update.add_noise and noise is not None:
        x = x + update.add_noise * noise
    return x, x0


def drain(steps: Generator[Yielded, None, Returned], on_step: Callable[[Yielded], None] = lambda at: None) -> Returned:
    """Run a generator to its end, telling `on_step` what it yields; gives what it returns."""
    while True:
        try:
            at = next(steps)
        except StopIteration as end:
            returned: Returned = end.value
            return returned
        on_step(at)
