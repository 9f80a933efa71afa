"""Solvers: one denoising step as a linear combination of the latent, the clean estimates and fresh noise.

Letters: `alpha_bar` the share of signal left at a step, `x` a noised latent, `x0` a clean estimate, `epsilon` the
noise, `v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x0`.

A solver is one row of `SOLVERS`. It evaluates the network once per step and keeps one estimate at most, so that the
whole step besides the network is one small graph (`graphs/update.py`). Heun, SDE and third-order solvers do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from ffrt.errors import RequestError
from ffrt.sampling.schedule import noise_levels

Prediction = Literal["epsilon", "v"]


class Parametrisation(Protocol):
    """The part of a stage's configuration that belongs to sampling; fields as in the manifest."""

    @property
    def prediction(self) -> str:
        """What the network predicts: "epsilon" or "v"."""

    @property
    def schedule(self) -> str:
        """The noise schedule."""

    @property
    def told_times(self) -> str:
        """Which times the network is told: "released" or "exact"."""

    @property
    def threshold(self) -> float | None:
        """The quantile of |x0| that clean estimates are clipped to; None leaves them as they are."""

    @property
    def threshold_max(self) -> float | None:
        """The largest such quantile; None for no bound."""


class Coefficients(NamedTuple):
    """The next latent is `keep_x x + keep_x0 x0 + keep_before x0_before + add_noise noise`.

    `x0_before` is the clean estimate of the step before.
    """

    keep_x: float
    keep_x0: float
    keep_before: float = 0.0
    add_noise: float = 0.0


@dataclass(frozen=True)
class Solver:
    """How one step goes from `alpha_bar` to the less noised `alpha_bar_next`.

    `coefficients(alpha_bar, alpha_bar_next, alpha_bar_before)`: the last is the level of the step before, None in the
    first step. `noisy` solvers add fresh noise in every step but the last. `released_times` as in `noise_levels`.
    """

    coefficients: Callable[[float, float, float | None], Coefficients]
    noisy: bool = False
    released_times: bool = False


@dataclass(frozen=True)
class Update:
    """One step in numbers: the clean estimate is `from_x x + from_prediction prediction`, then `Coefficients`.

    `time` is what the model is given.
    """

    time: float
    from_x: float
    from_prediction: float
    keep_x: float
    keep_x0: float
    keep_before: float
    add_noise: float


def ddpm(alpha_bar: float, alpha_bar_next: float, alpha_bar_before: float | None = None) -> Coefficients:
    """A draw from q(x_{i-1} | x_i, x0) (Ho et al. 2020, eq. 7)."""
    alpha = alpha_bar / alpha_bar_next
    keep_x = (1 - alpha_bar_next) * math.sqrt(alpha) / (1 - alpha_bar)
    keep_x0 = (1 - alpha) * math.sqrt(alpha_bar_next) / (1 - alpha_bar)
    deviation = math.sqrt((1 - alpha_bar / alpha_bar_next) * (1 - alpha_bar_next) / (1 - alpha_bar))
    return Coefficients(keep_x, keep_x0, add_noise=deviation)


def ddim(alpha_bar: float, alpha_bar_next: float, alpha_bar_before: float | None = None) -> Coefficients:
    """A deterministic step (Song et al. 2021, eq. 12 with sigma 0)."""
    keep = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
    return Coefficients(keep, math.sqrt(alpha_bar_next) - keep * math.sqrt(alpha_bar))


def dpm_solver(alpha_bar: float, alpha_bar_next: float, alpha_bar_before: float | None = None) -> Coefficients:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); steps are measured in lambda = log(signal / noise)."""
    step = _half_log_snr(alpha_bar_next) - _half_log_snr(alpha_bar)
    before = 0.0 if alpha_bar_before is None else _half_log_snr(alpha_bar) - _half_log_snr(alpha_bar_before)
    ratio = step / (2 * before) if before else 0.0
    keep = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
    whole = -math.sqrt(alpha_bar_next) * math.expm1(-step)
    return Coefficients(keep, (1 + ratio) * whole, -ratio * whole)


SOLVERS: Mapping[str, Solver] = {
    "ddpm": Solver(ddpm, noisy=True, released_times=True),
    "ddim": Solver(ddim),
    "dpm++": Solver(dpm_solver),
}
"""Every value of `sampler`: "ddpm" is the releases', the other two are for few steps."""


def solver_of(name: str, solvers: Mapping[str, Solver] = SOLVERS) -> Solver:
    """The solver of that name. Raises RequestError for any other."""
    if name not in solvers:
        raise RequestError(f"sampler: expected one of {list(solvers)}, got {name!r}")
    return solvers[name]


def updates(config: Parametrisation, steps: int, sampler: str, solvers: Mapping[str, Solver] = SOLVERS) -> list[Update]:
    """All steps of a sampler in the order in which they run.

    Raises RequestError for an unknown sampler, and as `noise_levels`.
    """
    solver = solver_of(sampler, solvers)
    levels = noise_levels(config.schedule, steps, released_times=solver.released_times, told_times=config.told_times)
    alpha_bars = [float(alpha_bar) for alpha_bar in levels.alpha_bars]
    planned = []
    for i in reversed(range(steps)):
        before = alpha_bars[i + 1] if i + 1 < steps else None
        last = Coefficients(0.0, 1.0)
        step = last if i == 0 else solver.coefficients(alpha_bars[i], alpha_bars[i - 1], before)
        planned.append(Update(float(levels.times[i]), *clean_estimate(alpha_bars[i], config.prediction), *step))
    return planned


def clean_estimate(alpha_bar: float, prediction: str) -> tuple[float, float]:
    """Shares of `x` and the prediction in `x0`.

    For an "epsilon" (Ho et al. 2020, eq. 15) or a "v" prediction (Salimans and Ho 2022, appendix D).
    """
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    return (signal, -noise) if prediction == "v" else (1 / signal, -noise / signal)


def _half_log_snr(alpha_bar: float) -> float:
    if alpha_bar == 0:
        return -math.inf
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))
