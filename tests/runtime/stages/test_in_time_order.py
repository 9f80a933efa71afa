"""A pass in order of time gives the latents of the usual order to the bit, the first of them first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffrt import Bundle
from ffrt.sampling import Sampling, drain, normal_noise
from ffrt.stages.decode import in_chunks
from ffrt.stages.in_time_order import TimeOrder
from ffrt.stages.interpolate import interpolation_steps, noise_shape, windows

SHAPE = (4, 2, 2)


class Coupled:
    """A network in which every group feels all others of its window, and the time; it counts what it is asked for."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, feed: dict) -> dict:
        self.calls += 1
        x = feed["x"]
        over = np.sin(np.cumsum(x, axis=0)) + np.sin(np.cumsum(x[::-1], axis=0))
        left, noised, right = np.split(over + x * np.float32(0.3), [4, 16], axis=1)
        bent = np.tanh(noised + np.tile(left - right, (1, 3, 1, 1)) + np.float32(feed["time"][0] * 0.001))
        return {"prediction": bent.astype(np.float32)}


def latents_of(groups: int) -> np.ndarray:
    return np.random.default_rng(groups).standard_normal((groups + 1, *SHAPE), dtype=np.float32)


def order_of(tiny: Bundle, network: Coupled, groups: int, sampling: Sampling, window: int, halo: int, **config) -> dict:
    shape = noise_shape("group", (groups + 1, *SHAPE))
    return {
        "network": network,
        "config": replace(tiny.interpolation, **config),
        "one_pass": tiny.interpolation.passes[1],
        "noise": normal_noise(7, 2, shape),
        "sampling": sampling,
        "window": window,
        "halo": halo,
    }


def usual(tiny: Bundle, groups: int, *arguments, **config) -> np.ndarray:
    given = order_of(tiny, Coupled(), groups, *arguments, **config)
    return drain(interpolation_steps(latents=latents_of(groups), **given))


def pieces_of(latents: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (latents[start : start + size] for start in range(0, len(latents), size))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++"])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("config", [{"threshold": None}, {"threshold": 0.9}, {"threshold": 0.9, "threshold_max": 1.0}])
def test_latents_are_the_same_to_the_bit(tiny: Bundle, sampler: str, steps: int, config: dict) -> None:
    for groups in (6, 7, 9, 12, 14):  # 1 to 5 windows
        for scale in (0.0, 0.5):
            sampling = Sampling(steps, scale, sampler)
            want = usual(tiny, groups, sampling, 6, 2, **config)
            given = order_of(tiny, Coupled(), groups, sampling, 6, 2, **config)
            made = list(TimeOrder(count=groups + 1, **given).run(pieces_of(latents_of(groups), 3)))
            np.testing.assert_array_equal(np.concatenate(made), want)
            assert len(made) == len(windows(groups, 6, 2))


@settings(max_examples=40)
@given(st.integers(1, 24), st.integers(3, 9), st.integers(0, 3), st.integers(1, 4), st.integers(1, 7), st.booleans())
def test_any_windows_and_pieces_give_the_same(
    tiny: Bundle, groups: int, window: int, halo: int, steps: int, size: int, interval: bool
) -> None:
    halo = min(halo, (window - 1) // 2)
    sampling = Sampling(steps, 0.5, "ddpm", guidance_interval=(300, 700) if interval else None)
    given = order_of(tiny, Coupled(), groups, sampling, window, halo)
    made = list(TimeOrder(count=groups + 1, **given).run(pieces_of(latents_of(groups), size)))
    np.testing.assert_array_equal(np.concatenate(made), usual(tiny, groups, sampling, window, halo))


def test_the_first_window_is_final_before_the_last_begins_and_asks_for_few_latents(tiny: Bundle) -> None:
    network, asked, shares = Coupled(), [], []
    given = order_of(tiny, network, 14, Sampling(2, 0.0, "ddim"), 6, 2)

    def told() -> Iterator[np.ndarray]:
        for index, one in enumerate(latents_of(14)):
            asked.append(index)
            yield one[None]

    made = TimeOrder(count=15, **given).run(told(), shares.append)
    next(made)
    assert network.calls < 2 * 5 - 1 and len(asked) < 15
    assert len(list(made)) == 4 and network.calls == 2 * 5 and len(asked) == 15
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) == 10


@given(st.lists(st.integers(1, 9), max_size=8), st.integers(1, 6))
def test_chunks_have_one_size_and_come_as_soon_as_they_are_there(sizes: list[int], size: int) -> None:
    whole = np.arange(sum(sizes), dtype=np.float32).reshape(-1, 1, 1, 1)
    taken: list[int] = []

    def pieces() -> Iterator[np.ndarray]:
        for count in sizes:
            start = sum(taken)
            taken.append(count)
            yield whole[start : start + count]

    seen = 0
    for chunk in in_chunks(pieces(), size):
        np.testing.assert_array_equal(chunk, whole[seen : seen + size])
        seen += len(chunk)
        assert len(chunk) < size or sum(taken[:-1]) < seen
    assert seen == len(whole)
