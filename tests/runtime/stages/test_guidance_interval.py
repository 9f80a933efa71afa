"""Guidance within an interval of times: rows that count for nothing do not run, and all else is as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.checkpoints.defaults import INTERPOLATION_1_0, INTERPOLATION_1_1, KEYFRAMES_1_0, KEYFRAMES_1_1
from ffrt import Pipeline, Request, RequestError
from ffrt.cli.main import main
from ffrt.generation.checkpoint import Checkpoint
from ffrt.sampling import SOLVERS, Sampling, drain, updates
from ffrt.stages.first_frame import first_frame_steps
from ffrt.stages.interpolate import interpolation_steps
from ffrt.stages.keyframes import ImageConditioning, image_keyframe_steps, keyframe_steps
from ffrt.stages.step_cache import StepCache

Feed = Mapping[str, NDArray[Any]]
STEPS = 8
SMALL: dict[str, Any] = {"fps": 2, "height": 32, "width": 32, "num_inference_steps": 4}
PROMPT = "a red circle moving left"


class Rows:
    """A network whose rows differ by their text or their frames, and the number of rows of each run."""

    def __init__(self) -> None:
        self.ran: list[tuple[float, int]] = []

    def __call__(self, feed: Feed) -> dict[str, NDArray[Any]]:
        times, x = feed["time"], feed["x"]
        assert all(len(x) % len(value) == 0 or name == "temporal_positions" for name, value in feed.items())
        self.ran.append((float(times[0]), len(times)))
        text = feed["context"].mean((1, 2)) if "context" in feed else np.zeros(len(times), np.float32)
        bent = np.tanh(x.sum(1, keepdims=True) + np.repeat(text, len(x) // len(text))[:, None, None, None])
        channels = 12 if x.shape[1] in (20, 21) else 4
        return {"prediction": np.repeat(bent, channels, axis=1).astype(np.float32)}


def prompt() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return np.random.default_rng(0).standard_normal((2, 3, 5), dtype=np.float32), np.ones((2, 3), np.bool_)


def drawn(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def keyframes(network: Rows, sampling: Sampling, **more: bool) -> NDArray[np.float32]:
    config = replace(KEYFRAMES_1_0, num_frames=3, position_range=3)
    return drain(keyframe_steps(network, config, prompt(), iter(drawn(STEPS, 3, 4, 2, 2)), sampling, **more))


def pictured(network: Rows, sampling: Sampling, image_guidance: float = 2.0, **more: bool) -> NDArray[np.float32]:
    config, noise = replace(KEYFRAMES_1_1, num_frames=3, position_range=3), iter(drawn(STEPS, 3, 4, 2, 2))
    image, frame = ImageConditioning(50, image_guidance, 20), drawn(4, 2, 2)
    steps = image_keyframe_steps(network, config, prompt(), frame, frame, noise, sampling, image, **more)
    return drain(steps)


def first_frame(network: Rows, sampling: Sampling, **more: bool) -> NDArray[np.float32]:
    return drain(first_frame_steps(network, KEYFRAMES_1_1, prompt(), iter(drawn(STEPS, 1, 4, 4, 4)), sampling, **more))


def group(network: Rows, sampling: Sampling, **more: bool) -> NDArray[np.float32]:
    config, noise = INTERPOLATION_1_0, iter(drawn(STEPS, 30, 12, 2, 2))
    latents = drawn(31, 4, 2, 2)  # more groups than a window
    return drain(interpolation_steps(network, config, config.passes[0], latents, noise, sampling, **more))


def group_with_text(network: Rows, sampling: Sampling, **more: bool) -> NDArray[np.float32]:
    config, noise, latents = INTERPOLATION_1_1, iter(drawn(STEPS, 2, 12, 2, 2)), drawn(3, 4, 2, 2)
    one_pass, text = config.passes[0], prompt()
    return drain(interpolation_steps(network, config, one_pass, latents, noise, sampling, prompt=text, **more))


STAGES = [keyframes, pictured, first_frame, group, group_with_text]
each_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
Stage = Callable[..., NDArray[np.float32]]
GUIDED = Sampling(STEPS, 3.0, "ddpm")


@each_stage
def test_all_times_are_as_without_an_interval(stage: Stage) -> None:
    wide = replace(GUIDED, guidance_interval=(0.0, 1000.0))
    np.testing.assert_array_equal(stage(Rows(), wide), stage(Rows(), GUIDED))


@each_stage
@pytest.mark.parametrize("keep_rows", [False, True])
def test_no_step_within_is_no_guidance(stage: Stage, keep_rows: bool) -> None:
    network, none = Rows(), replace(GUIDED, guidance_scale=1.0 if stage is pictured else 0.0)
    made = stage(network, replace(GUIDED, guidance_interval=(999.5, 999.5)), keep_rows=keep_rows)
    wanted = pictured(Rows(), none, image_guidance=1.0) if stage is pictured else stage(Rows(), none)
    np.testing.assert_array_equal(made, wanted)
    rows = {count for _, count in network.ran}
    assert rows == {3 if stage is pictured else 2} if keep_rows else rows == {1}


@each_stage
def test_rows_run_where_they_count(stage: Stage) -> None:
    network, kept = Rows(), Rows()
    some = replace(GUIDED, guidance_interval=(300.0, 700.0))
    made = stage(network, some)
    np.testing.assert_allclose(made, stage(kept, some, keep_rows=True), atol=1e-6)
    guided = 3 if stage is pictured else 2
    assert {count for _, count in kept.ran} == {guided}
    assert {count for time, count in network.ran if 300 <= time <= 700} == {guided}
    assert {count for time, count in network.ran if not 300 <= time <= 700} == {1}
    assert not np.array_equal(made, stage(Rows(), GUIDED))


@given(st.sampled_from(sorted(SOLVERS)), st.integers(1, 60), st.sampled_from(["released", "exact"]))
def test_the_widest_interval_holds_every_time(sampler: str, steps: int, told: str) -> None:
    wide = Sampling(steps, 2.0, sampler, guidance_interval=(0.0, 1000.0))
    config = replace(KEYFRAMES_1_0, told_times=told)
    assert all(wide.is_guided(step.time) for step in updates(config, steps, sampler))


class Deep(Rows):
    """A network that gives deep features of as many rows as it was fed."""

    def __call__(self, feed: Feed) -> dict[str, NDArray[Any]]:
        return {**super().__call__(feed), "deep": feed["x"][:, :1]}


def test_a_step_cache_runs_the_whole_network_where_rows_change() -> None:
    whole, shallow = Deep(), Rows()
    cache = StepCache(whole, shallow, 4)
    keyframes(cache, replace(GUIDED, guidance_interval=(0.0, 700.0)))  # type: ignore[arg-type]
    times = sorted({time for time, _ in [*whole.ran, *shallow.ran]}, reverse=True)
    first_guided = next(place for place, time in enumerate(times) if time <= 700)
    assert [times.index(time) for time, _ in whole.ran] == sorted({0, 4, first_guided})
    assert len(whole.ran) + len(shallow.ran) == STEPS


def test_a_video_has_it_in_its_metadata_and_is_another(pipe: Pipeline) -> None:
    plain, some = pipe(PROMPT, **SMALL), pipe(PROMPT, guidance_interval=(200, 800), **SMALL)
    assert some.metadata["guidance_interval"] == "200 to 800" and "guidance_interval" not in plain.metadata
    assert not np.array_equal(plain.frames, some.frames)
    wide = pipe(PROMPT, guidance_interval=[0, 1000], **SMALL)  # type: ignore[arg-type]
    np.testing.assert_array_equal(plain.frames, wide.frames)


def test_stages_called_by_themselves_take_it(pipe: Pipeline) -> None:
    context = pipe.encode(PROMPT)
    made = pipe.keyframes(context, num_inference_steps=4, height=32, width=32, guidance_interval=(200, 800))
    generation = pipe.generate(PROMPT, guidance_interval=(200, 800), **SMALL)
    step = list(generation)[-1]
    np.testing.assert_array_equal(made, step.latents)
    latents = made[:3]
    call = partial(pipe.interpolate, latents, fps=8, num_inference_steps=3, guidance_scale=1.0)
    none = pipe.interpolate(latents, fps=8, num_inference_steps=3, guidance_scale=0.0)
    np.testing.assert_array_equal(call(guidance_interval=(999.5, 1000)), none)
    assert not np.array_equal(call(), none)


def test_a_checkpoint_keeps_it(pipe: Pipeline, tmp_path: Path) -> None:
    generation = pipe.generate(PROMPT, guidance_interval=(200, 800), **SMALL)
    next(generation)
    list(generation)
    assert generation.checkpoint is not None
    generation.checkpoint.save(tmp_path / "saved.npz")
    found = Checkpoint.load(tmp_path / "saved.npz")
    assert found.request == generation.checkpoint.request and found.request.guidance_interval == (200.0, 800.0)
    assert hash(found.request.guidance_interval) and json.dumps(found.request.guidance_interval) == "[200.0, 800.0]"


BAD = [(800, 200), (-1, 500), (0, 1001), (0, float("nan")), (0,), (0, 1, 2), "0,1", 5, (True, 1000), ("0", "9"), {}]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_a_bad_interval_is_told(pipe: Pipeline, value: Any) -> None:
    wanted = r"guidance_interval: expected two numbers from 0 to 1000, the smaller one first"
    with pytest.raises(RequestError, match=wanted):
        Request(PROMPT, guidance_interval=value)
    with pytest.raises(RequestError, match=wanted):
        pipe.keyframes(pipe.encode(PROMPT), guidance_interval=value)


def test_the_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.gif"
    line = ["generate", PROMPT, "-o", str(out), "--fps", "2", "--steps", "1", "--size", "32", "-q"]
    assert main([*line, "--guidance-interval", "800,200"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("ffrt: --guidance-interval: expected two numbers") and "(800.0, 200.0)" in told
    with pytest.raises(SystemExit):
        main([*line, "--guidance-interval", "800"])
    assert "expected LOW,HIGH such as 200,800" in capsys.readouterr().err and not out.exists()
    assert main([*line, "--guidance-interval", "200,800"]) == 0 and out.exists()
