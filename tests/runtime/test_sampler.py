"""The sampling of the 1.0 release number for number, and the properties that hold for any sampler."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ffrt import Bundle, Pipeline, RequestError, sampling
from ffrt.sampling import SOLVERS, Array, denoise
from ffrt.sampling.schedule import cosine_betas
from ffrt.sampling.solvers import Coefficients, Solver, clean_estimate, ddim

GOLDEN = Path(__file__).parents[1] / "golden" / "samplers.npz"


@dataclass(frozen=True)
class Config:
    prediction: str
    threshold: float | None = 0.98
    schedule: str = "cosine"
    threshold_max: float | None = None
    told_times: str = "released"


def run(steps: int, name: str, predict, noise, prediction: str = "epsilon") -> list[sampling.Denoised]:
    return list(denoise(predict, noise, Config(prediction), steps=steps, sampler=name))


LOOPS = {
    "v1_0_keyframes": (50, Config("epsilon")),
    "v1_0_interpolation": (50, Config("v")),
    "v1_1_keyframes": (50, Config("epsilon", 0.995, "zero-snr-leading", 1.0)),
    "v1_1_interpolation": (10, Config("v", 0.995, "zero-snr-trailing", 1.0)),
}


def test_a_frame_is_noised_to_its_level_and_keeps_its_power() -> None:
    frame, noise = np.float32([[2.0, 0.0]]), np.float32([[0.0, 3.0]])
    for level, alpha_bar in (
        (0, sampling.zero_snr_alpha_bars()[0]),
        (500, sampling.zero_snr_alpha_bars()[500]),
        (999, 0.0),
    ):
        found = sampling.add_noise(frame, noise, level)
        np.testing.assert_allclose(found, [[2 * alpha_bar**0.5, 3 * (1 - alpha_bar) ** 0.5]], atol=1e-6)


@pytest.mark.parametrize("loop", LOOPS)
def test_ddpm_is_the_released_loop(loop: str) -> None:
    steps, config = LOOPS[loop]
    times = []
    with np.load(GOLDEN) as golden:
        noise, want, scale = golden[f"{loop}/noise"], golden[f"{loop}/y"], float(golden[f"{loop}/guidance"])
        told = golden[f"{loop}/timesteps"] if f"{loop}/timesteps" in golden.files else None

    def predict(x: Array, time: float) -> Array:
        times.append(time)
        bend = 0.6 * x + np.float32(0.0007 * time)
        return sampling.guide(np.tanh(bend + np.float32(0.25)), np.tanh(bend), scale)

    got = list(denoise(predict, iter(noise), config, steps=steps, sampler="ddpm"))[-1].x
    assert got.dtype == np.float32
    assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 1e-4
    assert told is None or times == told.tolist()


@pytest.mark.parametrize("schedule", ["zero-snr-leading", "zero-snr-trailing"])
@pytest.mark.parametrize("steps", [1, 3, 7, 10, 50, 333, 999])
def test_zero_snr_levels(schedule: str, steps: int) -> None:
    found = sampling.noise_levels(schedule, steps, released_times=True)
    assert len(found.times) == steps and (np.diff(found.times) > 0).all()
    assert found.times[0] == 0 if schedule == "zero-snr-leading" else found.times[-1] == 999
    assert (np.diff(found.alpha_bars) < 0).all() and (found.alpha_bars >= 0).all()
    assert (found.alpha_bars[-1] == 0) == (schedule == "zero-snr-trailing")


@pytest.mark.parametrize("name", SOLVERS)
def test_every_sampler_starts_from_pure_noise(name: str) -> None:
    noise = sampling.normal_noise(0, 0, (2, 4, 2, 2))
    config = Config("v", 1.0, "zero-snr-trailing", 1.0)
    steps = denoise(lambda x, time: 0.1 * x, noise, config, steps=5, sampler=name)
    assert all(np.isfinite(at.x).all() and np.abs(at.x0).max() <= 1 for at in steps)


def test_a_thousand_leading_steps_would_begin_at_pure_noise() -> None:
    with pytest.raises(RequestError, match="num_inference_steps: expected 1 to 999"):
        sampling.noise_levels("zero-snr-leading", 1000, released_times=True)


@pytest.mark.parametrize("steps", [1, 2, 3, 50, 999, 1000])
def test_betas_are_legal_for_any_number_of_steps(steps: int) -> None:
    betas = cosine_betas(steps)
    assert betas.shape == (steps,)
    assert (betas > 0).all() and (betas <= np.float32(0.999)).all()
    for name in SOLVERS:
        times = sampling.noise_levels("cosine", steps, released_times=name == "ddpm").times
        assert times[0] >= 0 and times[-1] <= 999 and (np.diff(times) > 0).all()


@pytest.mark.parametrize("steps", [1, 2, 4, 50, 999, 1000])
@pytest.mark.parametrize("name", SOLVERS)
def test_exact_times_are_those_of_the_levels(name: str, steps: int) -> None:
    """A network that was trained to be told its noise level is told that of the step, by every sampler."""
    plan = sampling.updates(Config("v", told_times="exact"), steps, name)
    levels = sampling.noise_levels("cosine", steps).alpha_bars[::-1]
    schedule = np.cumprod(1 - cosine_betas(1000))
    for step, alpha_bar in zip(plan, levels, strict=True):
        assert np.interp(step.time, np.arange(1000), schedule) == pytest.approx(alpha_bar, abs=2e-6)


def test_released_times_are_not_quite_those_of_the_levels() -> None:
    """As released: one step of a cosine schedule keeps a thousandth of the signal, and is called the noisiest time."""
    assert sampling.noise_levels("cosine", 1).times == [999]
    assert sampling.noise_levels("cosine", 1, told_times="exact").times == pytest.approx([978.71], abs=0.01)
    assert sampling.noise_levels("cosine", 4, released_times=True).times.tolist() == [0, 250, 500, 750]
    for schedule in ("zero-snr-leading", "zero-snr-trailing"):
        exact, released = (sampling.noise_levels(schedule, 7, told_times=told) for told in ("exact", "released"))
        assert exact.times.tolist() == released.times.tolist()


def test_without_a_threshold_clean_estimates_stay_as_they_are() -> None:
    noise = sampling.normal_noise(0, 0, (2, 4, 2, 2))
    predictions: list[Array] = []

    def predict(x: Array, time: float) -> Array:
        predictions.append(5 * x)
        return predictions[-1]

    config = Config("v", None)
    plan = sampling.updates(config, 3, "ddim")
    x = next(sampling.normal_noise(0, 0, (2, 4, 2, 2)))
    for step, found in zip(plan, denoise(predict, noise, config, steps=3, sampler="ddim"), strict=True):
        np.testing.assert_allclose(found.x0, step.from_x * x + step.from_prediction * 5 * x, rtol=1e-5)
        assert np.abs(found.x0).max() > 1
        x = found.x


def test_pure_noise_has_no_signal_for_the_steps_of_dpm() -> None:
    """Its logarithm is minus infinity: the first step of a schedule that begins there is one of ddim."""
    pure, next_level = 0.0, 0.2
    keep, whole, before, _ = SOLVERS["dpm++"].coefficients(pure, next_level, None)
    assert (keep, whole, before) == pytest.approx((0.8**0.5, 0.2**0.5, 0.0))


@pytest.mark.parametrize(("guidance_scale", "rows"), [(0.0, 1), (0.25, 2), (-1.0, 2), (7.5, 2)])
def test_guidance_0_runs_one_row(guidance_scale: float, rows: int) -> None:
    assert sampling.Sampling(3, guidance_scale, "ddim").rows == rows == len(sampling.guidance_weights(guidance_scale))


def test_steps_of_dpm_by_hand() -> None:
    """Algorithm 2 of Lu et al. 2022: in lambda = log(signal / noise), with r the step before over this one."""
    before, here, after = 0.1, 0.4, 0.85
    lambdas = [0.5 * math.log(a / (1 - a)) for a in (before, here, after)]
    step = lambdas[2] - lambdas[1]
    r = (lambdas[1] - lambdas[0]) / step
    whole = math.sqrt(after) * (1 - math.exp(-step))
    keep = math.sqrt((1 - after) / (1 - here))
    found = SOLVERS["dpm++"].coefficients(here, after, before)
    assert found == pytest.approx((keep, (1 + 1 / (2 * r)) * whole, -whole / (2 * r), 0))
    assert SOLVERS["dpm++"].coefficients(here, after, None) == pytest.approx((keep, whole, 0, 0))


def test_betas_by_hand() -> None:
    level = [math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0, 0.5, 1)]
    np.testing.assert_allclose(cosine_betas(2), [1 - level[1] / level[0], 0.999], rtol=1e-6)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(RequestError, match="num_inference_steps: expected 1 to 1000"):
        cosine_betas(steps)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_every_sampler_runs_from_one_to_a_thousand_steps(name: str, steps: int) -> None:
    seen = run(steps, name, lambda x, time: 0.5 * x, sampling.normal_noise(0, 0, (2, 4, 2, 2)))
    assert [s.index for s in seen] == list(range(steps))
    assert np.isfinite(seen[-1].x).all()
    assert seen[-1].x.dtype == np.float32
    np.testing.assert_allclose(seen[-1].x, seen[-1].x0, atol=1e-6)


def gaussian(mean: float, deviation: float, steps: int, name: str):
    """The exact epsilon for data N(mean, deviation^2): the best that any network could predict."""
    alpha_bars = np.cumprod(1 - cosine_betas(steps))
    by_time = dict(
        zip(sampling.noise_levels("cosine", steps, released_times=name == "ddpm").times, alpha_bars, strict=True)
    )

    def predict(x: Array, time: float) -> Array:
        alpha_bar = by_time[time]
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        return ((x - math.sqrt(alpha_bar) * mean) * math.sqrt(1 - alpha_bar) / variance).astype(np.float32)

    return predict


@pytest.mark.parametrize("name", SOLVERS)
def test_many_steps_draw_from_the_data(name: str) -> None:
    noise = sampling.normal_noise(3, 0, (4, 4, 32, 32))
    last = run(200, name, gaussian(0.25, 0.15, 200, name), noise)[-1].x
    assert abs(last.mean() - 0.25) < 0.01
    assert abs(last.std() - 0.15) < 0.01


def test_few_step_samplers_converge_to_one_answer() -> None:
    start = next(sampling.normal_noise(5, 0, (2, 4, 8, 8)))

    def last(name: str, steps: int) -> Array:
        return run(steps, name, gaussian(0.25, 0.15, steps, name), iter([start]))[-1].x

    exact = last("ddim", 1000)
    error = {(n, s): np.abs(last(n, s) - exact).max() for n in ("ddim", "dpm++") for s in (20, 200)}
    assert error["ddim", 200] < error["ddim", 20] / 4
    assert error["dpm++", 200] < 0.01
    assert error["dpm++", 20] < error["ddim", 20]


def test_few_step_times_name_the_noise_level_of_a_thousand_step_training() -> None:
    trained = np.cumprod(1 - cosine_betas(1000))
    used = np.cumprod(1 - cosine_betas(10))
    times = sampling.noise_levels("cosine", 10).times
    np.testing.assert_allclose(trained[times.astype(int)][:-1], used[:-1], rtol=1e-3)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-50, 50, width=32))
)
def test_threshold_keeps_rows_in_range_and_small_rows_untouched(x0: Array) -> None:
    got = sampling.dynamic_threshold(x0, 0.98)
    assert got.shape == x0.shape and got.dtype == np.float32
    assert (np.abs(got) <= 1).all()
    for row, kept in zip(x0, got, strict=True):
        assert (np.sign(kept) * np.sign(row) >= 0).all()
        if np.abs(row).max() <= 1:
            np.testing.assert_array_equal(row, kept)
        np.testing.assert_array_equal(sampling.dynamic_threshold(row[None], 0.98)[0], kept)


@given(st.floats(0.01, 0.99), hnp.arrays(np.float32, (2, 3), elements=st.floats(-2, 2, width=32)))
def test_both_predictions_give_back_the_clean_latent(alpha_bar: float, x0: Array) -> None:
    noise = np.full_like(x0, 0.5)
    signal, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    x = signal * x0 + sigma * noise
    for kind, prediction, atol in (("epsilon", noise, 1e-4), ("v", signal * noise - sigma * x0, 1e-5)):
        from_x, from_prediction = clean_estimate(alpha_bar, kind)
        np.testing.assert_allclose(from_x * x + from_prediction * prediction, x0, atol=atol)


def test_guidance_zero_is_the_conditional_prediction() -> None:
    c, u = np.float32([0.5, -2]), np.float32([7, 7])
    np.testing.assert_array_equal(sampling.guide(c, u, 0), c)
    np.testing.assert_array_equal(sampling.guide(c, u, 2), 3 * c - 2 * u)


def test_noise_is_named_by_seed_and_stage() -> None:
    def first(seed: int, stage: int) -> Array:
        return next(sampling.normal_noise(seed, stage, (2, 3)))

    np.testing.assert_array_equal(first(7, 1), first(7, 1))
    draws = [first(s, stage).tobytes() for s, stage in itertools.product((0, 1, 2**63 - 1), (0, 1, 2))]
    assert len(set(draws)) == len(draws)
    want = np.random.Generator(np.random.PCG64(np.random.SeedSequence(7, spawn_key=(2,))))
    np.testing.assert_array_equal(first(7, 2), want.standard_normal((2, 3), dtype=np.float32))


def test_too_few_draws_are_refused() -> None:
    noise = np.zeros((2, 1, 4, 1, 1), np.float32)
    with pytest.raises(RequestError, match="noise: expected a start"):
        run(3, "ddpm", lambda x, time: x, iter(noise))
    assert len(run(3, "ddim", lambda x, time: x, iter(noise))) == 3


def test_unknown_sampler_is_refused() -> None:
    with pytest.raises(RequestError, match=r"sampler: expected one of .*'dpm\+\+'.*got 'euler'"):
        run(3, "euler", lambda x, time: x, iter([]))


def test_a_new_solver_is_one_row(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Request, manifest, plan and both denoising loops read the same table."""

    def midway(alpha_bar: float, alpha_bar_next: float, before: float | None) -> Coefficients:
        return Coefficients(*(0.5 * (a + b) for a, b in zip(ddim(alpha_bar, alpha_bar_next), (0.0, 1.0), strict=False)))

    monkeypatch.setitem(SOLVERS, "midway", Solver(midway))  # type: ignore[arg-type]
    pipe = Pipeline(replace(tiny, keyframes=replace(tiny.keyframes, sampler="midway")), provider="cpu", threads=1)
    video = pipe("a red circle", fps=2, seed=1)
    assert video.metadata["sampler"] == "midway"
    assert (video.frames == pipe("a red circle", fps=2, seed=1, sampler="midway").frames).all()
    assert (video.frames != pipe("a red circle", fps=2, seed=1, sampler="ddim").frames).any()
    with pytest.raises(RequestError, match="'midway'"):
        pipe("a red circle", sampler="euler")
