"""Distances between two sets of features, and the inception score of one, in float64, each with its 95 % interval.

A row is what a network says of one clip. numpy alone, and no iterated matrix root: that of scipy has changed between
versions, and Fréchet distances with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError

Rows = NDArray[np.float64]
"""Features `[clips, dimensions]`."""
Weights = NDArray[np.float64]
"""How often each clip counts, `[clips]`: ones, or what a resampling drew."""
RESAMPLES = 200
LEAST_DEVIATION = 0.3
"""Of the median deviation of all dimensions: below it a dimension is nearly dead, and would blow the cube up."""


@dataclass(frozen=True)
class Estimate:
    """A number, its bootstrap deviation, and how many clips it is from, real ones first."""

    value: float
    deviation: float
    clips: tuple[int, ...]

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - 1.96 * self.deviation

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + 1.96 * self.deviation

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "clips": list(self.clips)}


def scaled(real: Rows, fake: Rows) -> tuple[Rows, Rows]:
    """Both in units of the real clips' deviation in each dimension, so that no dimension drowns the others."""
    deviation = real.std(axis=0)
    floor = LEAST_DEVIATION * float(np.median(deviation))
    unit = np.maximum(deviation, floor if floor > 0 else 1.0)
    return real / unit, fake / unit


def kernel_distance(real: Rows, fake: Rows, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, unbiased (Gretton et al. 2012, lemma 6).

    The expected value is 0 for clips of one distribution, whatever their number; single values may lie below 0. Cubes
    have long tails, so of few clips the interval holds the truth in four draws of five rather than in nineteen of 20.
    Raises BenchError for fewer than two clips on either side, for other dimensions, and for features that are not
    finite.
    """
    check_rows(real, fake, least=2)
    dimensions = real.shape[1]
    kernels = [(a @ b.T / dimensions + 1) ** 3 for a, b in ((real, real), (fake, fake), (real, fake))]
    for within in kernels[:2]:
        np.fill_diagonal(within, 0)

    def value(of_real: Weights, of_fake: Weights) -> float:
        among_real, among_fake = (mean_of_pairs(k, w) for k, w in zip(kernels, (of_real, of_fake), strict=False))
        across = of_real @ kernels[2] @ of_fake / (of_real.sum() * of_fake.sum())
        return float(among_real + among_fake - 2 * across)

    return estimate(value, (len(real), len(fake)), seed, resamples)


def mean_of_pairs(kernel: Rows, weights: Weights) -> float:
    """Mean of a kernel `[n, n]` with an empty diagonal over pairs of different clips.

    A clip that a resampling drew twice is no pair with itself: its likeness would be taken for that of two.
    """
    pairs = weights.sum() ** 2 - (weights**2).sum()
    return float(weights @ kernel @ weights / pairs)


def frechet_distance(real: Rows, fake: Rows, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Fréchet distance of two Gaussians fitted to the rows: |m - n|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2).

    The value falls with the number of clips, so compare equal numbers. Raises BenchError where either side has fewer
    clips than dimensions and one: its covariance would have no inverse, and the distance would measure that.
    """
    check_rows(real, fake, least=2)
    dimensions = real.shape[1]
    for name, rows in (("real", real), ("fake", fake)):
        if len(rows) <= dimensions:
            raise BenchError(
                f"Fréchet distance: expected at least {dimensions + 1} {name} clips for {dimensions} dimensions, got "
                f"{len(rows)}; give more clips, or take a kernel distance (KD), which has no such bound"
            )

    def value(of_real: Weights, of_fake: Weights) -> float:
        return between_gaussians(*moments(real, of_real), *moments(fake, of_fake))

    return estimate(value, (len(real), len(fake)), seed, resamples)


def moments(rows: Rows, weights: Weights) -> tuple[Rows, Rows]:
    """Weighted mean `[d]` and unbiased covariance `[d, d]`."""
    total = weights.sum()
    mean = weights @ rows / total
    centred = rows - mean
    return mean, (centred.T * weights) @ centred / (total - 1)


def between_gaussians(mean: Rows, covariance: Rows, other_mean: Rows, other_covariance: Rows) -> float:
    """Squared Fréchet distance of two Gaussians (Dowson and Landau 1982), the trace of the root by eigenvalues."""
    levels, axes = np.linalg.eigh(covariance)
    root = (axes * np.sqrt(np.maximum(levels, 0))) @ axes.T
    shared = np.linalg.eigvalsh(root @ other_covariance @ root)
    traces = np.trace(covariance) + np.trace(other_covariance) - 2 * np.sqrt(np.maximum(shared, 0)).sum()
    return float(np.sum((mean - other_mean) ** 2) + traces)


def inception_score(probabilities: Rows, splits: int = 10, seed: int = 42) -> Estimate:
    """Mean over splits of exp(mean KL(p(y|x) || p(y))) (Salimans et al. 2016); `deviation` is that of the splits.

    Rows are probabilities `[clips, classes]`, shuffled by `RandomState(seed)` and cut as StyleGAN-V does. Raises
    BenchError for rows that do not sum to 1, and for fewer clips than splits.
    """
    check_rows(probabilities, least=splits)
    if np.any(probabilities < 0) or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise BenchError("inception score: expected rows of probabilities that sum to 1, got others")
    shuffled = probabilities.copy()
    np.random.RandomState(seed).shuffle(shuffled)  # the protocol's own generator
    scores = [score_of(part) for part in np.array_split(shuffled, edges(len(shuffled), splits))]
    return Estimate(float(np.mean(scores)), float(np.std(scores)), (len(probabilities),))


def edges(count: int, splits: int) -> list[int]:
    """Where the splits of the protocol begin, but for the first."""
    return [index * count // splits for index in range(1, splits)]


def score_of(probabilities: Rows) -> float:
    """exp(mean KL) of rows of probabilities; what has no probability adds nothing."""
    tiny = np.finfo(np.float64).tiny
    ratio = np.log(np.maximum(probabilities, tiny)) - np.log(np.maximum(probabilities.mean(axis=0), tiny))
    return float(np.exp(np.mean(np.sum(probabilities * ratio, axis=1))))


def estimate(value: Callable[..., float], counts: tuple[int, ...], seed: int, resamples: int = RESAMPLES) -> Estimate:
    """A value of weights, one row of them for each set, and its deviation when clips are drawn anew (Efron 1979).

    The interval is the value and 1.96 deviations: resampled values of a biased number lie beside it.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        value(*(rng.multinomial(count, np.full(count, 1 / count)).astype(np.float64) for count in counts))
        for _ in range(resamples)
    ]
    deviation = float(np.std(drawn, ddof=1)) if resamples > 1 else 0.0
    return Estimate(value(*(np.ones(count) for count in counts)), deviation, counts)


def check_rows(*sets: Rows, least: int) -> None:
    """Raise BenchError for rows that are too few, differ in their dimensions, or are not finite."""
    for rows in sets:
        if rows.ndim != 2 or rows.shape[1] != sets[0].shape[1]:
            raise BenchError(f"features: expected [clips, {sets[0].shape[-1]}], got {list(rows.shape)}")
        if len(rows) < least:
            raise BenchError(f"features: expected at least {least} clips, got {len(rows)}")
        if not np.isfinite(rows).all():
            raise BenchError("features: expected finite numbers, got others")
