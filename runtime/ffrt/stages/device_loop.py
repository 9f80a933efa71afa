"""Denoising without leaving the device: two graphs a step, the network and `update.onnx`, which is all the rest.

What `ffrt.sampling.denoise` does in numpy (guidance, clean estimate, threshold, update, the next input of the
network) is done where the latents lie; noise is uploaded before the first step. `python -m graphs update` writes
that graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray
from ffrt.backend.session import Session
from ffrt.sampling import Array, Denoised, Parametrisation, Update, take, updates
from ffrt.stages.model_input import ModelInput

UPDATE = Path(__file__).with_name("update.onnx")
_STAY = Update(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""No step: only the network's first input is made."""

Predict = Callable[[DeviceArray, float], DeviceArray]
"""The network's input `[B*n, .., h, w]` and the time -> its prediction for B guidance rows."""


def denoise_on_device(
    predict: Predict,
    update: Session,
    noise: Iterator[Array],
    config: Parametrisation,
    *,
    steps: int,
    sampler: str,
    inputs: Sequence[ModelInput],
) -> Generator[Denoised, None, Array]:
    """As `ffrt.sampling.denoise`, one yield for each step; returns the latent [n, c, h, w].

    `inputs` has one for every step, each of the whole latent. Raises RequestError for an unknown sampler or too few
    draws of noise.
    """
    plan = updates(config, steps, sampler)
    start = take(noise)
    draws = [update.device_array(take(noise)) if step.add_noise else None for step in plan]
    nothing = update.device_array(np.zeros_like(start))
    most = config.threshold_max if config.threshold is not None else None
    rank, fraction = rank_of(start[0].size, config.threshold, most)
    fixed: dict[str, DeviceArray | NDArray[np.generic]] = {
        "rank": np.array([rank], np.int64),
        "fraction": np.array([fraction], np.float32),
        "least": np.array([math.inf if config.threshold is None else 1], np.float32),
        "most": np.array([math.inf if most is None else most], np.float32),
    }
    uploaded = {id(one): _uploaded(update, one) for one in inputs}
    seen = [uploaded[id(one)] for one in inputs]
    rows = np.zeros((len(inputs[0].weights) * len(start), *start.shape[1:]), np.float32)
    shown = {**fixed, **seen[0]}
    made = _run(update, _STAY, update.device_array(start), nothing, nothing, update.device_array(rows), shown)
    x0 = nothing
    for index, (step, draw) in enumerate(zip(plan, draws, strict=True)):
        prediction = predict(made["x_in"], step.time)
        following = seen[min(index + 1, len(seen) - 1)]
        shown = {**fixed, **following, "weights": seen[index]["weights"]}
        made = _run(update, step, made["x_next"], x0, nothing if draw is None else draw, prediction, shown)
        x0 = made["x0"]
        yield Denoised(index, steps, step.time, made["x_next"].numpy(), x0.numpy())
    return made["x_next"].numpy()


def rank_of(count: int, quantile: float | None, most: float | None) -> tuple[int, float]:
    """Where a quantile of `count` numbers lies: its place from above, and the way from there to the next larger.

    As numpy's, between two neighbours. With `most` 1, or no quantile, none is asked for, and the cheapest is given.
    """
    if quantile is None or most == 1:
        return 2, 0.0
    place = quantile * (count - 1)
    low = min(int(place), count - 2)
    return count - low, place - low


def _uploaded(update: Session, one: ModelInput) -> dict[str, DeviceArray]:
    arrays = {"weights": one.weights, "before": one.before, "after": one.after}
    return {name: update.device_array(array) for name, array in arrays.items()}


def _run(
    update: Session,
    step: Update,
    x: DeviceArray,
    x0_before: DeviceArray,
    noise: DeviceArray,
    prediction: DeviceArray,
    fixed: dict[str, DeviceArray | NDArray[np.generic]],
) -> dict[str, DeviceArray]:
    numbers = np.array(
        [step.from_x, step.from_prediction, step.keep_x, step.keep_x0, step.keep_before, step.add_noise], np.float32
    )
    feed = {**fixed, "x": x, "x0_before": x0_before, "noise": noise, "prediction": prediction, "numbers": numbers}
    return update.run_on_device(feed, ["x_next", "x0", "x_in"])
