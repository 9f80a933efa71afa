"""Frame rates as fractions: the constant rate of a list of times, and the list of frames that makes one constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Ticks = NDArray[np.int64]
"""Times [N] of frames in display order, in units of the stream's time base."""
WHOLE = (1, 2, 4, 5, 6, 8, 10, 12, 15, 16, 18, 20, 24, 25, 30, 48, 50, 60, 72, 90, 100, 120, 144, 180, 200, 240)
USUAL = (
    *(Fraction(rate) for rate in WHOLE),
    *(Fraction(rate * 1000, 1001) for rate in WHOLE if rate % 12 == 0 or rate == 30),
)
"""Rates that cameras and programs write."""
MOST = 1000
"""Frames per second that a video may have."""


def constant_rate(ticks: Ticks, time_base: Fraction, told: Iterable[Fraction | None]) -> Fraction | None:
    """The rate at which frame i is shown at i / rate, to the rounding of the time base; None if there is none.

    `told` are the rates that the file names, the most trusted first. They win over a usual rate that fits as well,
    unless they are odd fractions, as a container with times in milliseconds makes them up.
    """
    named = [rate for rate in told if rate is not None and 0 < rate <= MOST]
    plain = [rate for rate in named if rate.denominator in (1, 1001)]
    mean = _mean(ticks, time_base)
    usual = sorted(USUAL, key=lambda rate: abs(rate - mean))[:3]
    for rate in (*plain, *usual, *named, mean.limit_denominator(1001)):
        if fits(ticks, time_base, rate):
            return rate
    return None


def fits(ticks: Ticks, time_base: Fraction, rate: Fraction) -> bool:
    """Whether every frame i of N is shown at i / `rate` after the first, give or take the rounding of two times."""
    expected = np.arange(len(ticks)) * float(1 / (rate * time_base))
    return bool(np.all(np.abs(ticks - ticks[0] - expected) <= 1.001))


def rate_to_make(ticks: Ticks, time_base: Fraction) -> Fraction:
    """The usual rate nearest to that of the shorter intervals, so that few frames, or none, share a place."""
    interval = Fraction(int(np.percentile(np.diff(ticks), 25, method="nearest"))) * time_base
    return min(USUAL, key=lambda rate: abs(rate * interval - 1))


def repeats(ticks: Ticks, time_base: Fraction, rate: Fraction, last: int) -> NDArray[np.int64]:
    """How often each frame is shown, [N], for frames at `rate`: at every moment the newest one, to the nearest place.

    `last` is how long the last frame is shown, in ticks. The sum is the length of the video at `rate`, rounded.
    """
    step = float(1 / (rate * time_base))
    places = np.floor((ticks - ticks[0]) / step + 0.5).astype(np.int64)
    end = max(int(places[-1]) + 1, round((int(ticks[-1] - ticks[0]) + last) / step))
    return np.diff(np.append(places, end))


def repeated(frames: Iterable[NDArray[np.uint8]], counts: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Each frame as often as `counts` says."""
    for frame, count in zip(frames, counts.tolist(), strict=True):
        for _ in range(count):
            yield frame


def _mean(ticks: Ticks, time_base: Fraction) -> Fraction:
    return Fraction(len(ticks) - 1, int(ticks[-1] - ticks[0])) / time_base
