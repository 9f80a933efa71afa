"""Interpolation in windows: every group is predicted once, with its neighbours in sight, and memory stays flat."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffrt import Pipeline, RequestError
from ffrt.bundle import find_bundle, open_bundle
from ffrt.sampling import Sampling, drain, normal_noise
from ffrt.stages.interpolate import HALO_GROUPS, WINDOW_GROUPS, interpolation_steps, noise_shape, windows


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 12))
def test_every_group_is_predicted_once_with_its_halo_in_sight(groups: int, window: int, halo: int) -> None:
    if window <= 2 * halo:
        with pytest.raises(RequestError, match=f"more than 2 halos of {halo} groups, got {window}"):
            windows(groups, window, halo)
        return
    found = windows(groups, window, halo)
    assert [i for _, core in found for i in range(core.start, core.stop)] == list(range(groups))
    assert {seen.stop - seen.start for seen, _ in found} == {min(window, groups)}
    for seen, core in found:
        assert 0 <= seen.start <= max(0, core.start - halo) and min(groups, core.stop + halo) <= seen.stop <= groups
    assert len(found) == 1 or len(found) == -(-(groups - 2 * halo) // (window - 2 * halo))
    assert all(before.start < after.start for (before, _), (after, _) in pairwise(found))


def test_8_fps_is_never_cut_and_30_fps_is() -> None:
    assert [len(windows(groups, WINDOW_GROUPS, HALO_GROUPS)) for groups in (15, 16, 60)] == [1, 1, 5]


def test_every_group_of_a_long_clip_sees_two_neighbours_on_both_sides() -> None:
    """What one group takes from its neighbours fades with the distance: with one of them the seams are visible."""
    for seen, core in windows(240, WINDOW_GROUPS, HALO_GROUPS):
        assert core.start - seen.start >= 2 or seen.start == 0
        assert seen.stop - core.stop >= 2 or seen.stop == 240


def test_every_pass_tells_the_network_how_many_frames_it_leaves_out(pipe: Pipeline) -> None:
    config, told = pipe.bundle.interpolation, []

    def network(feed: dict) -> dict:
        told.append(set(feed["skip_frames"].tolist()))
        return {"prediction": np.zeros((len(feed["x"]), 12, 4, 4), np.float32)}

    latents = np.zeros((3, 4, 4, 4), np.float32)
    for one_pass in config.passes:
        noise = normal_noise(7, 2, noise_shape("group", latents.shape))
        drain(interpolation_steps(network, config, one_pass, latents, noise, Sampling(2, 0.0, "ddim")))
    assert told == [{3}, {3}, {1}, {1}]


def interpolate(pipe: Pipeline, latents: np.ndarray, window: int | None, halo: int) -> tuple[np.ndarray, list[int]]:
    """Frames from one pass, and the groups of every call of the network."""
    config, graph, calls = pipe.bundle.interpolation, pipe.graph("interpolation_unet"), []

    def counted(feed: dict) -> dict:
        calls.append(len(feed["skip_frames"]))
        return graph(feed)

    steps = interpolation_steps(
        counted,
        config,
        config.passes[1],
        latents,
        normal_noise(7, 2, noise_shape("group", latents.shape)),
        Sampling(2, 0.25, "ddim"),
        window=window,
        halo=halo,
    )
    return drain(steps), calls


def test_windows_see_few_groups_and_give_nearly_the_same() -> None:
    pipe = Pipeline(open_bundle(find_bundle()), provider="cpu", threads=1)
    latents = np.cumsum(np.random.default_rng(0).standard_normal((13, 4, 4, 4), dtype=np.float32) / 4, axis=0)
    whole, calls = interpolate(pipe, latents, None, 0)
    assert calls == [12, 12]
    differences = []
    for halo in (0, 2):
        found, calls = interpolate(pipe, latents, 6, halo)
        assert set(calls) == {6}
        differences.append(float(np.sqrt(np.mean((found - whole) ** 2) / np.mean(whole**2))))
    cut, haloed = differences
    assert 0 < haloed < cut / 2 and haloed < 1e-3


def test_windows_are_exact_where_no_layer_crosses_groups(pipe: Pipeline) -> None:
    latents = np.random.default_rng(0).standard_normal((22, 4, 4, 4), dtype=np.float32)
    whole, _ = interpolate(pipe, latents, None, 0)
    cut, calls = interpolate(pipe, latents, 5, 1)
    assert set(calls) == {5}
    np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-6)
