"""Presets: defaults of fewer steps that any bundle can take, and that whatever is said outright overrules."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffrt import Bundle, Pipeline, RequestError
from ffrt.bundle import InterpolationConfig, KeyframeConfig, find_bundle, open_bundle
from ffrt.cli import main as cli
from ffrt.generation.plan import sampling_of
from ffrt.sampling import SOLVERS, Array, denoise, drain, noise_levels, normal_noise
from ffrt.sampling.presets import PRESETS, Preset, Steps
from ffrt.sampling.schedule import SCHEDULES

FAST = PRESETS["fast"]
RECORD = Path(__file__).parents[2] / "bench" / "results" / "step_quality.json"
KEYFRAMES = KeyframeConfig(
    num_frames=16,
    fps=2,
    position_range=180,
    prediction="epsilon",
    sampler="ddpm",
    num_inference_steps=50,
    guidance_scale=5.0,
    threshold=0.98,
)
BETWEEN = InterpolationConfig(
    prediction="v", sampler="ddpm", num_inference_steps=50, guidance_scale=0.25, threshold=0.98, passes=()
)
ASKED: dict[str, Any] = {"height": 32, "width": 32}


def settled(config: KeyframeConfig | InterpolationConfig, preset: Preset, **said: Any) -> tuple[str, int]:
    few = preset.keyframes if isinstance(config, KeyframeConfig) else preset.interpolation
    sampling = sampling_of(config, said.get("steps"), None, said.get("sampler"), few=few)
    return sampling.sampler, sampling.num_inference_steps


@pytest.mark.skipif(not RECORD.exists(), reason="python -m bench.step_quality writes the record")
def test_fast_is_what_was_measured_to_be_as_good_as_the_default() -> None:
    """With the bundle that it was measured with, whose own steps may be fewer still."""
    chosen, demo = json.loads(RECORD.read_text())["fast"], open_bundle(find_bundle())
    for stage, few in (("keyframes", FAST.keyframes), ("interpolation", FAST.interpolation)):
        own = getattr(demo, stage)
        steps = Steps(own.sampler, own.num_inference_steps).at_most(few)
        assert few is not None and {**asdict(steps), "cache_interval": 1} == chosen[stage]


def test_quality_is_the_bundles_own() -> None:
    quality = PRESETS["quality"]
    assert settled(KEYFRAMES, quality) == ("ddpm", 50) == settled(BETWEEN, quality)


def test_fast_takes_fewer_steps_and_what_is_said_wins() -> None:
    assert FAST.keyframes is not None and FAST.interpolation is not None
    for config, few in ((KEYFRAMES, FAST.keyframes), (BETWEEN, FAST.interpolation)):
        assert settled(config, FAST) == (few.sampler, few.num_inference_steps)
        assert few.num_inference_steps <= 15
        assert settled(config, FAST, steps=40) == (few.sampler, 40)
        assert settled(config, FAST, sampler="ddpm") == ("ddpm", few.num_inference_steps)
        assert settled(config, FAST, steps=40, sampler="ddpm") == ("ddpm", 40)


def test_a_preset_never_adds_steps() -> None:
    few = Steps("dpm++", 10)
    assert Steps("ddpm", 10).at_most(few) == Steps("ddpm", 10)
    assert Steps("ddpm", 4).at_most(few) == Steps("ddpm", 4) and Steps("ddpm", 11).at_most(few) == few
    assert Steps("ddpm", 4).at_most(None) == Steps("ddpm", 4)
    assert settled(replace(KEYFRAMES, num_inference_steps=2), FAST) == ("ddpm", 2)


@pytest.mark.parametrize("value", ["Fast", "", "slow", 3, True, [], b"fast"])
def test_an_unknown_name_is_refused_with_those_there_are(pipe: Pipeline, value: object) -> None:
    with pytest.raises(RequestError, match=r"preset: expected one of \['quality', 'fast'\], got"):
        pipe.generate("a red circle", preset=value)  # type: ignore[arg-type]


def test_a_video_tells_the_steps_of_its_preset(pipe: Pipeline) -> None:
    told = {name: pipe("a red circle", preset=name, **ASKED).metadata for name in (None, "quality", "fast")}
    assert told[None] == told["quality"]
    names = ["sampler", "num_inference_steps", "interpolation_sampler", "interpolation_num_inference_steps"]
    own = pipe.bundle.interpolation
    few = Steps(own.sampler, own.num_inference_steps).at_most(FAST.interpolation)
    wanted = ["ddpm", "4", few.sampler, str(few.num_inference_steps)]
    assert [told["fast"][name] for name in names] == wanted, "the tiny bundle's keyframes have four steps as it is"
    steps = list(pipe.generate("a red circle", preset="fast", num_inference_steps=3, **ASKED))
    assert [step.total for step in steps] == [1] + [3] * 6


def test_the_command_line_takes_it(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["generate", "a red circle", "--bundle", str(tiny.folder), "--size", "32", "-o", str(tmp_path / "clip.gif")]
    assert cli.main([*line, "--preset", "nope"]) == 2
    assert "expected one of ['quality', 'fast'], got 'nope'" in capsys.readouterr().err
    assert cli.main([*line, "--cache-interval", "2"]) == 2
    assert "graphs cache" in capsys.readouterr().err and not (tmp_path / "clip.gif").exists()
    assert cli.main([*line, "--preset", "fast", "--cache-interval", "1"]) == 0
    assert FAST.interpolation is not None
    assert f"interpolation to 8 fps      {FAST.interpolation.num_inference_steps} steps" in capsys.readouterr().err


COUNTS = sorted({1, 2, *(few.num_inference_steps for few in (FAST.keyframes, FAST.interpolation) if few is not None)})


@pytest.mark.parametrize(("schedule", "sampler"), [*itertools.product(SCHEDULES, SOLVERS)])
@pytest.mark.parametrize("steps", COUNTS)
def test_every_sampler_keeps_its_promise_on_every_schedule(schedule: Any, sampler: str, steps: int) -> None:
    """With a network that knows the clean latent every sampler arrives there, whatever the schedule and prediction."""
    clean = np.random.default_rng(1).uniform(-0.9, 0.9, (2, 4, 3, 3)).astype(np.float32)
    plan = noise_levels(schedule, steps, released_times=SOLVERS[sampler].released_times)
    told = dict(zip(plan.times.tolist(), plan.alpha_bars.tolist(), strict=True))

    for prediction in ("v",) if schedule == "zero-snr-trailing" else ("v", "epsilon"):

        def predict(x: Array, time: float, kind: str = prediction) -> Array:
            alpha_bar = told[time]
            noise = (x - np.sqrt(alpha_bar) * clean) / np.sqrt(1 - alpha_bar)
            v = np.sqrt(alpha_bar) * noise - np.sqrt(1 - alpha_bar) * clean
            return (v if kind == "v" else noise).astype(np.float32)

        config = replace(KEYFRAMES, prediction=prediction, schedule=schedule)
        with np.errstate(all="raise", under="ignore"):
            found = drain(denoise(predict, normal_noise(0, 0, clean.shape), config, steps=steps, sampler=sampler))
        assert np.abs(found - clean).max() < 2e-3
