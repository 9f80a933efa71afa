"""Noise schedules: the share of signal left at each denoising step, and the time that the model is given for it.

Letters: `alpha_bar` is the share of signal left at a step. Steps are numbered from 0, the least noised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import RequestError
from ffrt.sampling.noise import Array

MAX_STEPS = 1000
Schedule = Literal["cosine", "zero-snr-leading", "zero-snr-trailing"]
"""1.0 builds a cosine schedule with one level per step. 1.1 subsamples 1000 levels that end in pure noise, taking the
first ("leading") or the last ("trailing") of every interval (Lin et al. 2024)."""
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
ToldTimes = Literal["released", "exact"]
"""What a network is told of a level: the time that the releases name, which may be cleaner, or the level's own."""


@dataclass(frozen=True)
class NoiseLevels:
    """Steps numbered from the least noised: `times` in 0..999 for the model, and `alpha_bars`. Both float64 [steps]."""

    times: NDArray[np.float64]
    alpha_bars: NDArray[np.float64]


def cosine_betas(steps: int) -> NDArray[np.float64]:
    """Cosine schedule, built with `steps` betas as the 1.0 release does (Nichol and Dhariwal 2021, eq. 17)."""
    if not 1 <= steps <= MAX_STEPS:
        raise RequestError(f"num_inference_steps: expected 1 to {MAX_STEPS}, got {steps}")
    level: NDArray[np.float64] = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - level[1:] / level[:-1], 0.999).astype(np.float32).astype(np.float64)


def zero_snr_alpha_bars() -> NDArray[np.float64]:
    """The 1000 levels of the 1.1 release: a cosine shifted and scaled to end at 0 (Lin et al. 2024, algorithm 1)."""
    signal = np.sqrt(np.cumprod(1 - cosine_betas(MAX_STEPS)))
    scaled: NDArray[np.float64] = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    return scaled


def time_of(alpha_bars: NDArray[np.float64]) -> NDArray[np.float64]:
    """The times whose levels of the cosine schedule, over 1000 steps and without its clipped end, are these."""
    start = math.cos(0.008 / 1.008 * math.pi / 2)
    angles: NDArray[np.float64] = np.arccos(np.clip(np.sqrt(alpha_bars) * start, 0, 1))
    return (angles / (math.pi / 2) * 1.008 - 0.008) * MAX_STEPS - 1


def noise_levels(
    schedule: str, steps: int, *, released_times: bool = False, told_times: str = "released"
) -> NoiseLevels:
    """The levels of `schedule` for `steps` denoising steps.

    "cosine" has as many levels as steps. With `told_times` "exact" each step gives the model the time of its own level.
    With "released" that is nearly so: the noisiest level is cleaner than its time says, since its beta is clipped. With
    `released_times` it gives `i * (1000 // steps)`, as the 1.0 release does with "ddpm": near 1000 steps that is the
    same time, below that it names a cleaner level. The other two schedules pick from 1000 levels and name those.

    Raises RequestError for a number of steps outside 1..1000, or that the schedule cannot make.
    """
    betas = cosine_betas(steps)
    index = np.arange(steps)
    if schedule == "cosine":
        alpha_bars = np.cumprod(1 - betas, dtype=np.float64)
        if told_times == "exact":
            return NoiseLevels(time_of(alpha_bars), alpha_bars)
        times = index * (1000.0 // steps) if released_times else (index + 1) * 1000.0 / steps - 1
        return NoiseLevels(times.astype(np.float64), alpha_bars)
    if schedule == "zero-snr-leading":
        if steps == MAX_STEPS:
            raise RequestError(f"num_inference_steps: expected 1 to {MAX_STEPS - 1} in this bundle, got {steps}")
        picked = index * (MAX_STEPS // steps)
    else:
        picked = np.rint((index + 1) * (MAX_STEPS / steps)).astype(np.int64) - 1
    return NoiseLevels(picked.astype(np.float64), zero_snr_alpha_bars()[picked])


def add_noise(x: Array, noise: Array, level: int) -> Array:
    """`x` noised up to `level` of the 1000 that `zero_snr_alpha_bars` numbers."""
    alpha_bar = float(zero_snr_alpha_bars()[level])
    return math.sqrt(alpha_bar) * x + math.sqrt(1 - alpha_bar) * noise
