"""Rates are fractions, found to the rounding of a container's clock; cuts are told from motion by measure."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffrt.generation.own_video.options import OwnVideoRequest
from ffrt.media.cuts import cells, marked
from ffrt.media.rates import USUAL, constant_rate, fits, rate_to_make, repeated, repeats
from tests.runtime.own_video.videos import NTSC, moving


def ticks(rate: Fraction, count: int, time_base: Fraction, start: int = 0) -> np.ndarray:
    return np.array([round((start + i) / (rate * time_base)) for i in range(count)], np.int64)


@given(st.sampled_from(USUAL), st.integers(60, 3000), st.integers(0, 10**6), st.sampled_from([1000, 12800, 90000]))
def test_a_rate_is_found_whatever_the_clock_rounds_to(rate: Fraction, count: int, start: int, clock: int) -> None:
    times = ticks(rate, count, Fraction(1, clock), start)
    if len(set(times.tolist())) == count:
        assert constant_rate(times, Fraction(1, clock), [rate]) == rate


def test_a_film_and_a_television_rate_differ_after_a_minute() -> None:
    times = ticks(NTSC, 2000, Fraction(1, 1000))
    assert constant_rate(times, Fraction(1, 1000), []) == NTSC
    assert constant_rate(times, Fraction(1, 1000), [Fraction(24)]) == NTSC
    assert not fits(times, Fraction(1, 1000), Fraction(24))


def test_an_odd_fraction_of_a_container_in_milliseconds_gives_way_to_a_usual_rate() -> None:
    times = ticks(Fraction(30), 50, Fraction(1, 1000))
    assert constant_rate(times, Fraction(1, 1000), [Fraction(19001, 633)]) == 30


def test_a_rate_of_ones_own_is_kept() -> None:
    times = ticks(Fraction(37, 3), 100, Fraction(1, 37000))
    assert constant_rate(times, Fraction(1, 37000), [Fraction(37, 3)]) == Fraction(37, 3)


def test_one_late_frame_is_no_constant_rate() -> None:
    times = ticks(Fraction(25), 100, Fraction(1, 1000))
    times[50] += 3
    assert constant_rate(times, Fraction(1, 1000), [Fraction(25)]) is None


@given(st.lists(st.integers(5, 200), min_size=1, max_size=60), st.integers(1, 200))
def test_a_rate_that_is_made_keeps_the_length_to_a_frame(steps: list[int], last: int) -> None:
    times = np.cumsum([17, *steps])
    rate = rate_to_make(times, Fraction(1, 1000))
    counts = repeats(times, Fraction(1, 1000), rate, last)
    assert (counts >= 0).all() and counts[-1] >= 1
    length_s = Fraction(int(times[-1] - times[0]) + last, 1000)
    late = 1 if last * rate >= 1000 else Fraction(3, 2)  # a last frame of less than a place gets one
    assert abs(int(counts.sum()) / rate - length_s) <= late / rate
    places = np.cumsum(counts) - counts  # where each frame begins
    assert all(
        abs(place / rate - Fraction(int(at - times[0]), 1000)) <= Fraction(1, 2) / rate + Fraction(1, 10**6)
        for place, at, count in zip(places.tolist(), times, counts, strict=True)
        if count
    )


def test_frames_are_repeated_and_left_out() -> None:
    frames = [np.full((1, 1, 3), i, np.uint8) for i in range(4)]
    assert [int(frame[0, 0, 0]) for frame in repeated(frames, np.array([2, 0, 1, 3]))] == [0, 0, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("rate", "skip"),
    [(Fraction(2), 12), (Fraction(1), 12), (Fraction(8), 3), (Fraction(12), 2), (NTSC, 1), (Fraction(96), 1)],
)
def test_the_network_is_told_what_its_training_calls_that_rate(rate: Fraction, skip: int) -> None:
    assert OwnVideoRequest().skip_of(rate) == skip
    assert OwnVideoRequest(skip_frames=7).skip_of(rate) == 7


def begins(frames: list[np.ndarray]) -> list[int]:
    found = list(marked(frames))
    assert len(found) == len(frames) and all(a is b for (a, _), b in zip(found, frames, strict=True))
    return [index for index, (_, first) in enumerate(found) if first]


def test_cuts_are_found_and_motion_is_none() -> None:
    still = list(moving(1, 90, 160).repeat(6, axis=0))
    other = list(moving(1, 90, 160, hue=1).repeat(6, axis=0))
    assert begins([*still, *other, *still]) == [0, 6, 12]
    assert begins(list(moving(20, 90, 160))) == [0]
    assert begins(still[:1]) == [0] and begins([]) == []
    assert begins([*still[:1], *other[:1]]) == [0, 1]


def test_a_fast_pan_and_a_fade_are_no_cuts() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 400, 3), np.uint8).repeat(4, axis=1)
    assert begins([np.ascontiguousarray(noise[:, 40 * i : 40 * i + 160]) for i in range(30)]) == [0]
    assert begins([np.full((90, 160, 3), 8 * i, np.uint8) for i in range(30)]) == [0]


FLASH = [250]


@pytest.mark.parametrize(
    ("levels", "cuts"),
    [
        pytest.param([0, 5, 17, 35, 60, 90, 52, 52, 52, 52], [6], id="a rush into a cut"),
        pytest.param([52, 52, 52, 52, 90, 60, 35, 17, 5, 0], [4], id="a shot that begins with a rush"),
        pytest.param([0, 5, 17, 35, 60, 90], [], id="a rush to the end"),
        pytest.param([90, 60, 35, 17, 5, 0], [], id="a rush from the beginning"),
        pytest.param([0, 5, 17, 35, 60, 85, 85, 85, 85], [], id="a rush that stops"),
        pytest.param([50] * 4 + FLASH + [50] * 4, [], id="a flash"),
        pytest.param([50] * 4 + FLASH + [120] * 4, [4, 5], id="a flash at a cut"),
        pytest.param([50] * 4 + FLASH * 3 + [120] * 4, [4, 7], id="a flash of three frames at a cut"),
        pytest.param([50] * 4 + FLASH + [55] * 4, [], id="a flash in a slow fade"),
    ],
)
def test_what_hides_a_cut_and_what_is_none(levels: list[int], cuts: list[int]) -> None:
    assert begins([np.full((9, 16, 3), level, np.uint8) for level in levels]) == [0, *cuts]


def test_given_cuts_are_taken_as_they_are() -> None:
    frames = list(moving(6))
    assert [first for _, first in marked(frames, {2, 5, 99})] == [True, False, True, False, False, True]


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 45, 3), (180, 320, 3), (101, 33, 3)])
def test_cells_are_means(shape: tuple[int, int, int]) -> None:
    frame = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    found = cells(frame)
    assert found.shape == (min(shape[0], 32), min(shape[1], 32), 3)
    if shape[0] <= 32 and shape[1] <= 32:
        assert np.array_equal(found, frame)
    height = int(np.linspace(0, shape[0], found.shape[0] + 1)[1])
    width = int(np.linspace(0, shape[1], found.shape[1] + 1)[1])
    assert np.allclose(found[0, 0], frame[:height, :width].mean(axis=(0, 1)), atol=1e-3)
