"""Every metric counts right, and a new one is a row of the table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets.shapes import held_out, truth
from bench.harness.record import BenchError
from bench.metrics.base import Frames, Mean, Metric, SetMetric
from bench.metrics.intervals import share, wilson
from bench.metrics.pixels import PEAK_DB, capped_psnr_db, change_db, psnr_db, ssim
from bench.metrics.table import METRICS, scores_between


def noise(seed: int, height: int = 16, width: int = 20) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
def test_ssim_of_equal_pictures_is_one(seed: int) -> None:
    assert ssim(noise(seed), noise(seed)) == 1


@given(SEEDS, SEEDS)
def test_ssim_is_symmetric_and_within_its_range(seed: int, other: int) -> None:
    found = ssim(noise(seed), noise(other))
    assert found == ssim(noise(other), noise(seed)) and -1 <= found <= 1


@given(SEEDS)
def test_ssim_falls_with_noise(seed: int) -> None:
    truth = np.broadcast_to(np.linspace(40, 200, 20).astype(np.uint8)[:, None], (2, 16, 20, 3))
    rng = np.random.default_rng(seed)
    little, much = (np.rint(truth + rng.normal(0, level, truth.shape)).clip(0, 255) for level in (2, 20))
    values = [ssim(noisy.astype(np.uint8), truth) for noisy in (little, much)]
    assert 1 > values[0] > values[1]


@given(st.integers(0, 255), st.integers(0, 255))
def test_ssim_of_plain_pictures_is_that_of_their_brightness(a: int, b: int) -> None:
    """Equation 6 of the paper alone, since nothing varies."""
    plain = [np.full((1, 12, 12, 3), level, np.uint8) for level in (a, b)]
    assert ssim(*plain) == pytest.approx((2 * a * b + 6.5025) / (a * a + b * b + 6.5025), abs=1e-6)


def test_ssim_keeps_the_papers_window_and_leaves_the_border_out() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-40, 40, a.shape), 0, 255).astype(np.uint8)
    assert ssim(a, b) == pytest.approx(0.9553464307052224, abs=1e-12)


def test_ssim_sees_colour_where_brightness_is_equal() -> None:
    truth = np.full((1, 24, 24, 3), (170, 60, 200), np.uint8)
    other = truth.copy()
    other[:, 8:16, 8:16] = (60, 138, 90)  # the same luma, 109
    assert ssim(other, truth) < 0.8


def test_ssim_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(BenchError, match="expected the shape of the clip"):
        ssim(noise(0), noise(0)[:1])
    with pytest.raises(BenchError, match="at least 11 px"):
        ssim(noise(0, 16, 10), noise(0, 16, 10))


def test_psnr() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr_db(black, black) == 60
    assert psnr_db(black, black + np.uint8(255)) == 0
    assert psnr_db(black, black + np.uint8(1)) == pytest.approx(48.13, abs=0.01)
    with pytest.raises(BenchError, match="expected the shape of the clip"):
        psnr_db(black, black[:1])


def test_psnr_of_equal_pictures_is_the_cap() -> None:
    black, white = np.zeros(4), np.full(4, 255.0)
    assert capped_psnr_db(black, black) == PEAK_DB and capped_psnr_db(black, white) == 0


@given(st.integers(0, 2**32 - 1))
def test_changes_show_flicker_that_single_frames_do_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    exact = np.full((6, 4, 4, 3), 100, np.uint8)
    steady, flickering = exact + np.uint8(4), exact.copy()
    flickering[::2] += np.uint8(8)
    assert change_db(steady, exact) == PEAK_DB > change_db(flickering, exact)
    noisy = np.clip(exact + rng.normal(0, 9, exact.shape), 0, 255).astype(np.uint8)
    assert change_db(noisy, exact) < 45


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (57, 60, 0.8630, 0.9829), (0, 0, 0, 1)],
)
def test_wilson_interval(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=2e-4)


def test_a_share_of_nothing_is_none() -> None:
    assert share([]) == {"right": 0, "of": 0, "share": None, "low": 0.0, "high": 1.0}
    assert share([True, False, True])["share"] == pytest.approx(2 / 3)


def test_metrics_say_what_they_need() -> None:
    clip = noise(0)
    assert METRICS["psnr_db"](clip, clip) == PEAK_DB and METRICS["ssim"](clip, clip) == 1
    with pytest.raises(BenchError, match="psnr_db: expected a reference clip, got none"):
        METRICS["psnr_db"](clip)
    with pytest.raises(BenchError, match="expected the shape of the clip"):
        METRICS["psnr_db"](clip, clip[:1])


def test_the_detector_is_a_metric_without_a_reference() -> None:
    clip = truth(held_out(1)[0], 2)
    empty = np.full_like(clip, 15)
    assert METRICS["detector"](clip) == 0 and METRICS["detector"](empty) == 1
    assert not METRICS["detector"].higher_is_better


def test_scores_between_leave_out_what_was_given_but_for_temporal_metrics() -> None:
    exact = noise(1).repeat(5, axis=0)[:9]
    damaged = exact.copy()
    damaged[::4] = 0
    found = scores_between(["psnr_db", "change_db"], damaged, exact, 4)
    assert found["psnr_db"] == PEAK_DB > found["change_db"]


class Widest(SetMetric):
    """The largest brightness of a set of clips, for a metric that is no mean."""

    name, unit, higher_is_better = "widest", "levels", True

    def __init__(self) -> None:
        self.largest = -math.inf

    def add(self, frames: Frames, reference: Frames | None = None) -> None:
        self.largest = max(self.largest, float(frames.max()))

    def value(self) -> float:
        return self.largest


@pytest.mark.parametrize(
    "metric", [Widest(), Mean(Metric("brightest", "levels", True, False, lambda clip: clip.max()))]
)
def test_a_metric_of_a_set_takes_clip_after_clip(metric: SetMetric) -> None:
    for level in (10, 30):
        metric.add(np.full((2, 4, 4, 3), level, np.uint8))
    assert metric.value() == (30 if isinstance(metric, Widest) else 20)


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(BenchError, match="mean of ssim: expected at least one clip"):
        Mean(METRICS["ssim"]).value()
