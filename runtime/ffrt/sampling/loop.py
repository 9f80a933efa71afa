"""The denoising loop in pure numpy: the reference for the loop on the device (`ffrt.stages.device_loop`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ffrt.sampling.guidance import dynamic_threshold
from ffrt.sampling.noise import Array, take
from ffrt.sampling.solvers import Parametrisation, updates

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
    x, x0_before = take(noise), None
    for index, update in enumerate(planned):
        x0 = update.from_x * x + update.from_prediction * predict(x, update.time)
        x0 = dynamic_threshold(x0.astype(np.float32, copy=False), config.threshold, config.threshold_max)
        x = update.keep_x * x + update.keep_x0 * x0
        if update.keep_before and x0_before is not None:
            x = x + update.keep_before * x0_before
        if update.add_noise:
            x = x + update.add_noise * take(noise)
        x0_before = x0
        yield Denoised(index, steps, update.time, x, x0)
    return x


def drain(steps: Generator[Any, None, Returned]) -> Returned:
    """Run a generator to its end; gives what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            returned: Returned = end.value
            return returned
