"""Distances of sets against closed forms, and what the intervals cover."""

from __future__ import annotations

import numpy as np
import pytest

from bench.harness.record import BenchError
from bench.metrics.sets import (
    between_gaussians,
    frechet_distance,
    inception_score,
    kernel_distance,
    scaled,
)


def normal(seed: int, count: int, mean: float = 0.0, dimensions: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, (count, dimensions))


def test_frechet_of_gaussians_with_common_axes_is_the_closed_form() -> None:
    """For diagonal covariances: the distance of the means and of the deviations."""
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    found = between_gaussians(np.zeros(3), np.diag(a), np.array([1.0, 2.0, 2.0]), np.diag(b))
    assert found == pytest.approx(9 + 1 + 0 + 4, abs=1e-12)


def test_frechet_of_turned_gaussians_is_that_of_scipys_root() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(3)
    a, b = (x @ x.T + np.eye(5) for x in rng.normal(size=(2, 5, 5)))
    mean = rng.normal(size=5)
    want = mean @ mean + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert between_gaussians(np.zeros(5), a, mean, b) == pytest.approx(want, abs=1e-9)


def test_frechet_of_samples_comes_near_the_truth_and_says_how_near() -> None:
    found = frechet_distance(normal(0, 2000), normal(1, 2000, mean=1.0))
    assert found.low < 4 < found.high and found.deviation < 0.2


def test_frechet_of_a_set_with_itself_is_nothing() -> None:
    assert frechet_distance(normal(0, 50), normal(0, 50)).value == pytest.approx(0, abs=1e-9)


def test_frechet_wants_more_clips_than_dimensions() -> None:
    with pytest.raises(BenchError, match="at least 5 fake clips for 4 dimensions, got 4; .*KD"):
        frechet_distance(normal(0, 5), normal(1, 4))


def test_kernel_distance_is_unbiased() -> None:
    """Over 200 draws of few clips of one distribution, the mean is 0 within its own error."""
    values = [kernel_distance(normal(2 * seed, 12), normal(2 * seed + 1, 12), resamples=2).value for seed in range(200)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 2.5 * error and min(values) < 0


def test_kernel_distance_of_known_moments() -> None:
    """In one dimension the kernel is a polynomial of degree three, so the truth follows from raw moments.

    For N(0, 1) and N(1, 1) the moments are 0, 1, 0 and 1, 2, 4: 3 (0-1)^2 + 3 (1-2)^2 + (0-4)^2 = 22.
    """
    found = kernel_distance(normal(0, 800, dimensions=1), normal(1, 800, mean=1.0, dimensions=1))
    assert found.low < 22 < found.high


def test_the_interval_of_a_kernel_distance_mostly_covers_the_truth() -> None:
    inside = 0
    for seed in range(40):
        found = kernel_distance(
            normal(2 * seed, 150, dimensions=1), normal(2 * seed + 1, 150, mean=0.5, dimensions=1), seed
        )
        inside += found.low < 3 * 0.25 + 3 * 0.0625 + (1.5 + 0.125) ** 2 < found.high
    assert inside >= 30


def test_scaling_leaves_dead_dimensions_small() -> None:
    real = normal(0, 100)
    real[:, 3] = 1e-9
    fake = real + np.array([0, 0, 0, 1e-3])
    ours, theirs = scaled(real, fake)
    assert np.abs(theirs[:, 3]).max() < 0.01 and ours[:, 0].std() == pytest.approx(1)
    assert np.isfinite(scaled(np.ones((3, 2)), np.ones((3, 2)))).all()


def test_inception_score_of_one_hot_rows_is_the_number_of_classes() -> None:
    rows = np.tile(np.eye(7), (70, 1))
    found = inception_score(rows, splits=1)
    assert found.value == pytest.approx(7, abs=1e-9) and found.clips == (490,)
    assert inception_score(np.full((40, 5), 0.2)).value == pytest.approx(1)


def test_inception_score_shuffles_and_splits_as_the_protocol_does() -> None:
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(6), 103)
    shuffled = rows.copy()
    np.random.RandomState(42).shuffle(shuffled)
    scores = []
    for index in range(10):
        part = shuffled[index * 103 // 10 : (index + 1) * 103 // 10]
        kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(kl.sum(axis=1).mean()))
    found = inception_score(rows)
    assert (found.value, found.deviation) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernel_distance(normal(0, 1), normal(0, 9)), "at least 2 clips, got 1"),
        (lambda: kernel_distance(normal(0, 9), normal(0, 9, dimensions=3)), r"\[clips, 4\], got \[9, 3\]"),
        (lambda: kernel_distance(normal(0, 9), np.full((9, 4), np.nan)), "finite"),
        (lambda: inception_score(normal(0, 20)), "sum to 1"),
        (lambda: inception_score(np.ones((4, 1))), "at least 10 clips, got 4"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: object, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        call()  # type: ignore[operator]
