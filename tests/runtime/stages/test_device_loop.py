"""The denoising loop on the device against the one in numpy: every sampler, prediction, schedule and threshold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffrt import sampling
from ffrt.backend.arrays import DeviceArray
from ffrt.backend.session import Session
from ffrt.errors import RequestError
from ffrt.sampling import SOLVERS, Array
from ffrt.stages import device_loop
from ffrt.stages.model_input import ModelInput
from graphs.update import PLACE, update_graph

SHAPE = (3, 4, 6, 5)


@dataclass(frozen=True)
class Config:
    prediction: str
    schedule: str
    threshold: float | None = 0.98
    threshold_max: float | None = None
    told_times: str = "released"


@pytest.fixture(scope="module")
def update() -> Session:
    return Session(device_loop.UPDATE, "update", provider="cpu")


def network(x_in: Array, time: float) -> Array:
    """Bends the channels of the latent by those around it, row by row."""
    bent: Array = np.tanh(x_in[:, 2:6] * 1.5 + x_in[:, :1] - x_in[:, 6:] + np.float32(time / 1000))
    return bent


def both(update: Session, config: Config, name: str, steps: int, *kinds: Array) -> Iterator[tuple[Array, ...]]:
    """Both loops, with guidance rows of these weights in turn."""
    rng = np.random.default_rng(steps)
    inputs = [
        ModelInput(
            weights,
            *(rng.standard_normal((len(weights) * 3, c, 6, 5)).astype(np.float32) for c in (2, 1)),
            lambda time: {},
        )
        for weights in kinds
    ]
    seen = [inputs[index % len(inputs)] for index in range(steps)]
    turn = iter(seen)

    def predict(x: Array, time: float) -> Array:
        one = next(turn)
        rows = len(one.weights)
        fed = np.concatenate([one.before, np.concatenate([x] * rows), one.after], axis=1)
        guided: Array = np.tensordot(one.weights, network(fed, time).reshape(rows, *x.shape), axes=1)
        return guided

    def on_device(x_in: DeviceArray, time: float) -> DeviceArray:
        return update.device_array(network(x_in.numpy(), time))

    noise = [sampling.normal_noise(steps, 0, SHAPE) for _ in range(2)]
    known = sampling.denoise(predict, noise[0], config, steps=steps, sampler=name)
    found = device_loop.denoise_on_device(on_device, update, noise[1], config, steps=steps, sampler=name, inputs=seen)
    for want, got in zip(known, found, strict=True):
        assert (want.index, want.total, want.time) == (got.index, got.total, got.time)
        yield want.x, got.x, want.x0, got.x0


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    "config",
    [
        Config("epsilon", "cosine"),
        Config("v", "cosine", 0.5),
        Config("v", "zero-snr-trailing", threshold_max=1.0),
        Config("v", "zero-snr-leading", 1.0, 1.5),
        Config("v", "cosine", None),
        Config("v", "cosine", None, 1.0, "exact"),
    ],
)
def test_both_loops_agree_in_every_step(update: Session, name: str, config: Config) -> None:
    for want_x, got_x, want_x0, got_x0 in both(update, config, name, 7, np.float32([3.5, -2.5])):
        np.testing.assert_allclose(got_x0, want_x0, atol=2e-5)
        np.testing.assert_allclose(got_x, want_x, atol=2e-5 * max(1, np.abs(want_x).max()))


@settings(max_examples=20)
@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=3), st.integers(1, 6))
def test_any_guidance_weights(weights: list[float], steps: int) -> None:
    session = Session(device_loop.UPDATE, "update", provider="cpu")
    for want_x, got_x, _, _ in both(session, Config("v", "cosine"), "ddim", steps, np.float32(weights)):
        np.testing.assert_allclose(got_x, want_x, atol=1e-4)


@pytest.mark.parametrize("name", ["ddpm", "dpm++"])
def test_rows_may_change_from_step_to_step(update: Session, name: str) -> None:
    kinds = np.float32([3.5, -2.5]), np.float32([1]), np.float32([2, -3, 2])
    for want_x, got_x, want_x0, got_x0 in both(update, Config("v", "cosine"), name, 8, *kinds):
        np.testing.assert_allclose(got_x0, want_x0, atol=2e-5)
        np.testing.assert_allclose(got_x, want_x, atol=1e-4)


@given(st.integers(2, 5000), st.floats(0.001, 1))
def test_the_rank_is_that_of_numpys_quantile(count: int, quantile: float) -> None:
    values = np.random.default_rng(count).permutation(count).astype(np.float64)
    rank, fraction = device_loop.rank_of(count, quantile, None)
    low, high = np.sort(values)[::-1][rank - 1], np.sort(values)[::-1][rank - 2]
    assert low + fraction * (high - low) == pytest.approx(np.quantile(values, quantile))


def test_the_shipped_graph_is_what_its_module_writes() -> None:
    assert PLACE == device_loop.UPDATE
    assert PLACE.read_bytes() == update_graph().SerializeToString()


def test_too_little_noise_is_told_before_a_step(update: Session) -> None:
    nothing = np.zeros((3, 0, 6, 5), np.float32)
    steps = device_loop.denoise_on_device(
        lambda x, time: x,
        update,
        iter([np.zeros(SHAPE, np.float32)]),
        Config("v", "cosine"),
        steps=3,
        sampler="ddpm",
        inputs=[ModelInput(np.float32([1]), nothing, nothing, lambda time: {})] * 3,
    )
    with pytest.raises(RequestError, match="noise: expected a start"):
        next(steps)
