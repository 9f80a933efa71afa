"""Frames in, times as many out: in windows that give what one whole run gives, shot by shot, few alive at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ffrt import Pipeline
from ffrt.bundle import find_bundle, open_bundle
from ffrt.generation.own_video.stream import Networks, in_windows, padded, retimed
from ffrt.media.cuts import marked
from ffrt.sampling import Sampling, drain, group_noise
from ffrt.stages.interpolate import interpolation_steps, noise_shape
from tests.runtime.own_video.videos import moving


def blend(latents: NDArray[np.float32], first: int) -> NDArray[np.float32]:
    """A network that draws straight lines."""
    shares = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1, 1) / 4
    drawn = (1 - shares) * latents[:-1, None] + shares * latents[1:, None]
    return np.concatenate([drawn.reshape(-1, *latents.shape[1:]), latents[-1:]])


def plain(passes: int, loss: int = 0) -> Networks:
    """Networks whose latents are pixels, and whose decoder takes `loss` levels from each."""
    return Networks(
        lambda frames: frames.transpose(0, 3, 1, 2).astype(np.float32),
        (blend,) * passes,
        lambda latents: np.clip(np.rint(latents) - loss, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1),
        multiple=32,
    )


def grey(levels: list[int], height: int = 24, width: int = 40) -> list[NDArray[np.uint8]]:
    return [np.full((height, width, 3), level, np.uint8) for level in levels]


@given(st.integers(1, 90), st.integers(5, 20), st.integers(0, 2))
def test_windows_give_every_frame_once_and_in_order(count: int, window: int, halo: int) -> None:
    sizes = []

    def run(latents: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        sizes.append(len(latents) - 1)
        assert latents[0, 0, 0, 0] == first - 7
        return blend(latents, first)

    source = (np.full((4, 1, 1), i, np.float32) for i in range(count))
    made = [float(latent[0, 0, 0]) for latent in in_windows(source, run, 7, window, halo)]
    assert made == [i / 4 for i in range(4 * count - 3)]
    assert all(size <= window for size in sizes)


def test_windows_equal_one_whole_run_of_the_network() -> None:
    """What is denoised in two windows starts from the same noise, and with a halo of two ends all but the same."""
    pipe = Pipeline(open_bundle(find_bundle()), provider="cpu", threads=1)
    graph, config = pipe.graph("interpolation_unet"), pipe.bundle.interpolation
    latents = pipe.encode_frames(moving(33, 32, 64))

    def run(seen: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        noise = group_noise(3, 1, first, noise_shape("group", seen.shape))
        sampling = Sampling(4, 0.0, "ddim")
        return drain(interpolation_steps(graph, config, config.passes[1], seen, noise, sampling, window=None))

    whole = run(latents, 0)
    streamed = np.stack(list(in_windows(iter(latents), run, 0)))
    assert streamed.shape == whole.shape == (129, 4, 4, 8)
    between = np.arange(len(whole)) % 4 > 0
    assert np.array_equal(streamed[~between], whole[~between])
    error = np.sqrt(np.mean((streamed - whole)[between] ** 2, axis=(1, 2, 3)) / np.mean(whole[between] ** 2))
    assert error.max() < 5e-3  # temporal layers reach a little further than two groups


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("keep", [True, False])
def test_a_shot_gives_times_its_frames_and_its_last_one_is_held(passes: int, keep: bool) -> None:
    times = 4**passes
    made = list(retimed(marked(grey([0, 64, 128])), plain(passes), keep))
    levels = [int(frame[0, 0, 0]) for frame in made]
    assert levels == [64 * i // times for i in range(2 * times)] + [128] * times
    assert all(frame.shape == (24, 40, 3) for frame in made)


def test_nothing_is_drawn_across_a_cut_and_the_frame_before_is_held() -> None:
    frames = grey([0, 4, 8, 12, 200, 204, 208, 212])
    levels = [int(frame[0, 0, 0]) for frame in retimed(marked(frames), plain(1), True)]
    assert levels == [*range(13), 12, 12, 12, *range(200, 213), 212, 212, 212]
    drawn = [int(frame[0, 0, 0]) for frame in retimed(marked(frames, ()), plain(1), True)]
    assert drawn[12:17] == [12, 59, 106, 153, 200]


def test_shots_of_one_frame_are_held() -> None:
    levels = [int(frame[0, 0, 0]) for frame in retimed(marked(grey([9, 90, 180]), {1, 2}), plain(1), True)]
    assert levels == [9] * 4 + [90] * 4 + [180] * 4


def test_kept_originals_come_back_to_the_bit_and_drawn_frames_do_not_flicker() -> None:
    """The decoder makes all darker by 20 levels. Kept frames are as they were, and those between as bright as they."""
    frames = grey([100, 104, 108])
    levels = [int(frame[0, 0, 0]) for frame in retimed(marked(frames), plain(1, loss=20), True)]
    assert levels == [*range(100, 109), 108, 108, 108]
    levels = [int(frame[0, 0, 0]) for frame in retimed(marked(frames), plain(1, loss=20), False)]
    assert levels == [*range(80, 89), 88, 88, 88]


@pytest.mark.parametrize("times", [4, 16])
def test_few_frames_are_alive_however_long_the_video_is(times: int) -> None:
    alive: set[int] = set()
    most = 0

    def source(count: int) -> Iterator[NDArray[np.uint8]]:
        nonlocal most
        for number in range(count):
            frame = np.full((8, 8, 3), number % 200, np.uint8)
            alive.add(number)
            weakref.finalize(frame, alive.discard, number)
            most = max(most, len(alive))
            yield frame

    def peak(count: int) -> int:
        nonlocal most
        most = 0
        made = sum(1 for _ in retimed(marked(source(count), ()), plain(1 if times == 4 else 2), True))
        assert made == times * count
        gc.collect()
        assert not alive
        return most

    assert peak(1500) == peak(150) < 30


def test_frames_are_padded_with_their_edges() -> None:
    frame = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    wide = padded(frame, 8)
    assert wide.shape == (8, 8, 3)
    assert np.array_equal(wide[:5, :7], frame)
    assert np.array_equal(wide[7, :7], frame[4]) and np.array_equal(wide[:5, 7], frame[:, 6])
    assert padded(wide, 8) is wide


def test_noise_of_a_group_does_not_depend_on_the_window_that_draws_it() -> None:
    a, b = (group_noise(5, 1, first, (6, 12, 2, 2)) for first in (10, 12))
    for _ in range(3):  # one draw a step
        assert np.array_equal(next(a)[2:], next(b)[:4])
