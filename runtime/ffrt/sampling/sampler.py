"""Denoising in pure numpy: the sampling of Kandinsky Video 1.0 (arXiv 2311.13073) and 1.1, and two for few steps.

Letters: `alpha_bar` the share of signal left at a step, `x` a noised latent, `x0` a clean estimate, `epsilon` the
noise, `v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x0`. Steps are numbered from 0, the least noised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import RequestError

Array = NDArray[np.float32]
Returned = TypeVar("Returned")

SAMPLERS = ("ddpm", "ddim", "dpm++")
MAX_STEPS = 1000


@dataclass(frozen=True)
class Denoised:
    """One finished step: `x` the latent after it, `x0` the clean estimate that it used, `time` what the model got."""

    index: int
    total: int
    time: float
    x: Array
    x0: Array


def cosine_betas(steps: int) -> NDArray[np.float64]:
    """Cosine schedule, built with `steps` betas as the 1.0 release does (Nichol and Dhariwal 2021, eq. 17)."""
    if not 1 <= steps <= MAX_STEPS:
        raise RequestError(f"num_inference_steps: expected 1 to {MAX_STEPS}, got {steps}")
    level: NDArray[np.float64] = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - level[1:] / level[:-1], 0.999).astype(np.float32).astype(np.float64)


def zero_snr_alpha_bars() -> NDArray[np.float64]:
    """Shares of signal at the 1000 levels of the 1.1 release: a cosine moved and scaled so that the last one is 0 and
    the first one keeps its place (Lin et al. 2024, algorithm 1).
    """
    signal = np.sqrt(np.cumprod(1 - cosine_betas(MAX_STEPS)))
    scaled: NDArray[np.float64] = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    return scaled


@dataclass(frozen=True)
class Levels:
    """Steps numbered from the least noised: `times` in 0..999 that the model is told, and `alpha_bars`."""

    times: NDArray[np.float64]
    alpha_bars: NDArray[np.float64]


def levels(schedule: str, steps: int, sampler: str) -> Levels:
    """The noise levels of a manifest's schedule. Raises RequestError for a number of steps outside 1..1000.

    "cosine" builds as many levels as there are steps. There "ddpm" tells the time as the 1.0 release does,
    `i * (1000 // steps)`, which is the step's noise level only near 1000 steps and names a cleaner one below; "ddim"
    and "dpm++", meant for few steps, tell the time of the step's own level. The other two pick from 1000 levels:
    "zero-snr-leading" the first of every interval, "zero-snr-trailing" the last, pure noise being one of those.
    """
    betas = cosine_betas(steps)
    index = np.arange(steps)
    if schedule == "cosine":
        times = index * (1000.0 // steps) if sampler == "ddpm" else (index + 1) * 1000.0 / steps - 1
        return Levels(times.astype(np.float64), np.cumprod(1 - betas, dtype=np.float64))
    if schedule == "zero-snr-leading":
        if steps == MAX_STEPS:
            raise RequestError(f"num_inference_steps: expected 1 to {MAX_STEPS - 1} in this bundle, got {steps}")
        picked = index * (MAX_STEPS // steps)
    else:
        picked = np.rint((index + 1) * (MAX_STEPS / steps)).astype(np.int64) - 1
    return Levels(picked.astype(np.float64), zero_snr_alpha_bars()[picked])


def add_noise(x: Array, noise: Array, level: int) -> Array:
    """`x` noised up to `level` of the 1000 that :func:`zero_snr_alpha_bars` numbers."""
    alpha_bar = float(zero_snr_alpha_bars()[level])
    return math.sqrt(alpha_bar) * x + math.sqrt(1 - alpha_bar) * noise


class Parametrisation(Protocol):
    """What a network predicts, between which noise levels, and what its clean estimate is held to: the part of a
    stage's configuration that belongs to sampling (fields as in the manifest).
    """

    @property
    def prediction(self) -> str: ...
    @property
    def schedule(self) -> str: ...
    @property
    def threshold(self) -> float: ...
    @property
    def threshold_max(self) -> float | None: ...


@dataclass(frozen=True)
class Update:
    """One step as linear combinations: the clean estimate is `from_x x + from_prediction prediction`, held to its
    threshold; the next latent `keep_x x + keep_x0 x0 + keep_before x0_before + add_noise noise`, where `x0_before` is
    the estimate of the step before. `time` is what the model is told.
    """

    time: float
    from_x: float
    from_prediction: float
    keep_x: float
    keep_x0: float
    keep_before: float
    add_noise: float


def updates(config: Parametrisation, steps: int, sampler: str) -> list[Update]:
    """All steps of a sampler in the order in which they run. Raises RequestError for an unknown sampler, and as
    :func:`levels`.
    """
    if sampler not in SAMPLERS:
        raise RequestError(f"sampler: expected one of {list(SAMPLERS)}, got {sampler!r}")
    plan, found, before = levels(config.schedule, steps, sampler), [], 0.0
    for i in reversed(range(steps)):
        alpha_bar = float(plan.alpha_bars[i])
        alpha_bar_next = float(plan.alpha_bars[i - 1]) if i > 0 else 1.0
        estimate = clean_estimate(alpha_bar, config.prediction)
        if sampler == "ddpm":
            x, x0 = _posterior_mean(alpha_bar, alpha_bar_next)
            deviation = _posterior_deviation(alpha_bar, alpha_bar_next) if i > 0 else 0.0
            found.append(Update(float(plan.times[i]), *estimate, x, x0, 0.0, deviation))
        elif i == 0:
            found.append(Update(float(plan.times[i]), *estimate, 0.0, 1.0, 0.0, 0.0))
        elif sampler == "ddim":
            found.append(Update(float(plan.times[i]), *estimate, *ddim(alpha_bar, alpha_bar_next), 0.0, 0.0))
        else:
            step = _half_log_snr(alpha_bar_next) - _half_log_snr(alpha_bar)
            combined = dpm_solver(alpha_bar, alpha_bar_next, step, before)
            found.append(Update(float(plan.times[i]), *estimate, *combined, 0.0))
            before = step
    return found


def clean_estimate(alpha_bar: float, kind: str) -> tuple[float, float]:
    """Shares of `x` and the prediction in `x0`: of an "epsilon" (Ho et al. 2020, eq. 15) or a "v" prediction (Salimans
    and Ho 2022, appendix D).
    """
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    return (signal, -noise) if kind == "v" else (1 / signal, -noise / signal)


def ddim(alpha_bar: float, alpha_bar_next: float) -> tuple[float, float]:
    """Shares of `x` and `x0` in a deterministic step to the less noised `alpha_bar_next` (Song et al. 2021, eq. 12 with
    sigma 0).
    """
    keep = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
    return keep, math.sqrt(alpha_bar_next) - keep * math.sqrt(alpha_bar)


def dpm_solver(alpha_bar: float, alpha_bar_next: float, step: float, before: float) -> tuple[float, float, float]:
    """Shares of `x`, `x0` and the estimate before in DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); `step` and
    `before` are steps in lambda = log(signal / noise), `before` 0 in the first.
    """
    ratio = step / (2 * before) if before else 0.0
    shrink = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
    whole = -math.sqrt(alpha_bar_next) * math.expm1(-step)
    return shrink, (1 + ratio) * whole, -ratio * whole


def dynamic_threshold(x0: Array, quantile: float, most: float | None = None) -> Array:
    """Clip every row of `x0` to its own quantile of |x0|, at least 1 and at most `most`, and divide by it (Saharia et
    al. 2022, 2.3). With `most` 1, as the 1.1 release has it, that is a clip to -1..1.
    """
    if most == 1:
        return np.clip(x0, -1, 1)
    limit = np.quantile(np.abs(x0).reshape(len(x0), -1), quantile, axis=1).astype(np.float32)
    limit = np.clip(limit, 1, most).reshape(-1, *[1] * (x0.ndim - 1))
    return np.clip(x0, -limit, limit) / limit


def guide(conditional: Array, unconditional: Array, guidance_scale: float) -> Array:
    """Classifier-free guidance in the release's convention: `(w + 1) c - w u`, so 0 is no guidance."""
    return (guidance_scale + 1) * conditional - guidance_scale * unconditional


def guidance_weights(guidance_scale: float) -> Array:
    """What `guide` weighs the conditional and the unconditional row with; with guidance 0 there is one row."""
    return np.array([guidance_scale + 1, -guidance_scale] if guidance_scale else [1], np.float32)


def guide_rows(prediction: Array, weights: Array) -> Array:
    """A batch [B*n, ...] of B rows of guidance -> their sum [n, ...], each row times its weight."""
    guided: Array = np.tensordot(weights, prediction.reshape(len(weights), -1, *prediction.shape[1:]), axes=1)
    return guided


def normal_noise(seed: int, stage: int, shape: tuple[int, ...]) -> Iterator[Array]:
    """Endless standard normal draws of PCG64: a stream of its own for every seed and stage (0 keyframes, 1.. passes).

    Drawn on the CPU, so that a seed means the same video on any provider.
    """
    generator = _generator(seed, stage)
    while True:
        yield generator.standard_normal(shape, dtype=np.float32)


def uniform_noise(seed: int, stage: int, shape: tuple[int, ...]) -> Array:
    """One draw between 0 and 1 in the same way: what the 1.1 release noises a first frame with."""
    return _generator(seed, stage).random(shape, dtype=np.float32)


def _generator(seed: int, stage: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stage,))))


def denoise(
    predict: Callable[[Array, float], Array],
    noise: Iterator[Array],
    config: Parametrisation,
    *,
    steps: int,
    sampler: str,
) -> Generator[Denoised, None, Array]:
    """Turn noise into a latent in `steps` steps, one yield for each; returns the latent.

    `predict(x, time)` is the guided prediction. The first draw of `noise` is the start; "ddpm" takes one more for every
    step but the last. Raises RequestError for an unknown sampler, a number of steps outside 1..1000, too few draws.
    """
    plan = updates(config, steps, sampler)
    x, x0_before = take(noise), None
    for index, update in enumerate(plan):
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
    """Run all steps and give what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            returned: Returned = end.value
            return returned


def _half_log_snr(alpha_bar: float) -> float:
    if alpha_bar == 0:
        return -math.inf
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def _posterior_mean(alpha_bar: float, alpha_bar_next: float) -> tuple[float, float]:
    """Shares of `x` and `x0` in the mean of q(x_{i-1} | x_i, x0) (Ho et al. 2020, eq. 7)."""
    alpha = alpha_bar / alpha_bar_next
    to_x0 = (1 - alpha) * math.sqrt(alpha_bar_next) / (1 - alpha_bar)
    return (1 - alpha_bar_next) * math.sqrt(alpha) / (1 - alpha_bar), to_x0


def _posterior_deviation(alpha_bar: float, alpha_bar_next: float) -> float:
    """Standard deviation of the same posterior; never asked for at step 0, whose variance is 0."""
    return math.sqrt((1 - alpha_bar / alpha_bar_next) * (1 - alpha_bar_next) / (1 - alpha_bar))


def take(noise: Iterator[Array]) -> Array:
    """The next draw. Raises RequestError where there is none."""
    try:
        return next(noise)
    except StopIteration:
        raise RequestError(
            "noise: expected a start and, with 'ddpm', one draw for every step but the last; got fewer"
        ) from None
