"""The host's half of a run on CUDA, without a GPU: the real provider over stand-ins that count and compute nothing."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.cuda.stand_ins import Counts
from bench.cuda.wheel import over_stand_ins
from ffrt.bundle import Bundle

pytestmark = pytest.mark.slow  # fetches a wheel of 256 MB, once
ROOT = Path(__file__).resolve().parents[3]
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "fast": {},
    "low": {"memory": "low"},
    "recorded": {"cuda_graph": True},
    "low, recorded": {"memory": "low", "cuda_graph": True},
}
VIDEO = """
import json, sys
from dataclasses import asdict
from ffrt import Pipeline
from bench.cuda.stand_ins import counts
folder, options = json.loads(sys.argv[1])
pipe = Pipeline.from_pretrained(folder, provider="cuda", **options)
found = []
for step in pipe.generate("a red circle moving right", fps=30, seed=1, num_inference_steps=4):
    if step.fps is not None:
        found.append({"stage": f"{step.stage}, {step.fps} fps", **asdict(counts())})
video = pipe("a blue square", fps=8, seed=1, num_inference_steps=2)
before = counts().to_device
pipe.keyframes(pipe.encode("a small yellow triangle moving up on teal"), seed=1, num_inference_steps=2)
another = counts().to_device - before
print(json.dumps({
    "steps": found, "shape": video.frames.shape, "provider": pipe.graph("keyframe_unet").provider,
    "another": another,
}))
"""
CANCELLED = """
import json, sys
from ffrt import Cancelled, Pipeline
folder, options = json.loads(sys.argv[1])
pipe = Pipeline.from_pretrained(folder, provider="cuda", **options)
steps, ended = pipe.generate("a red circle", fps=2, seed=1, num_inference_steps=4), False
try:
    for step in steps:
        pipe.cancel()
except Cancelled:
    ended = True
frames = pipe("a red circle", fps=2, seed=1, num_inference_steps=4).frames
print(json.dumps({"ended": ended, "frames": len(frames)}))
"""

SCARCE = """
import json, sys
from ffrt import OutOfMemoryError, Pipeline
folder, options = json.loads(sys.argv[1])
pipe, outcomes = Pipeline.from_pretrained(folder, provider="cuda", **options), []
for side in (128, 64):
    try:
        outcomes.append(len(pipe("a red circle", fps=2, num_inference_steps=2, height=side, width=side).frames))
    except OutOfMemoryError as error:
        outcomes.append(str(error))
print(json.dumps({"outcomes": outcomes}))
"""

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(wheel: Path, variant: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Run:
    around = {**os.environ, **over_stand_ins(wheel, tmp_path_factory.mktemp("stand_ins"))}
    paths = [around["PYTHONPATH"], str(ROOT), str(ROOT / "runtime")]
    around["PYTHONPATH"] = os.pathsep.join(paths)

    def over(
        program: str, options: Mapping[str, Any], folder: Path = variant.folder, device_bytes: int = 80 * 10**9
    ) -> dict[str, Any]:
        call = [sys.executable, "-c", program, json.dumps([str(folder), options])]
        there = {**around, "STAND_IN_BYTES": str(device_bytes)}
        done = subprocess.run(call, env=there, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return over


@pytest.fixture(scope="module")
def videos(run: Run) -> dict[str, dict[str, list[Counts]]]:
    """Stage by stage what was asked of the device until the end of each step, by how the pipeline was opened."""
    counted: dict[str, dict[str, list[Counts]]] = {}
    for name, options in OPTIONS.items():
        found = run(VIDEO, options)
        assert found["shape"] == [61, 128, 128, 3] and found["provider"] == "cuda"
        assert "memory" in options or found["another"] < 200, "a longer prompt does not open the network anew"
        counted[name] = {}
        for step in found["steps"]:
            counted[name].setdefault(step.pop("stage"), []).append(Counts(**step))
    return counted


def within(steps: list[Counts], name: str) -> list[int]:
    """How much a number grew in each step but the first."""
    numbers = [getattr(step, name) for step in steps]
    return [after - before for before, after in itertools.pairwise(numbers)]


STAGES = ("keyframes, 2 fps", "interpolation, 8 fps", "interpolation, 30 fps")


def test_a_whole_video_takes_its_way(videos: dict[str, dict[str, list[Counts]]]) -> None:
    for found in videos.values():
        assert tuple(found) == STAGES and all(len(steps) == 4 for steps in found.values())


@pytest.mark.parametrize("name", ["fast", "low"])
@pytest.mark.parametrize("stage", STAGES[:2])
def test_a_step_stays_on_the_device(videos: dict[str, dict[str, list[Counts]]], name: str, stage: str) -> None:
    """Only the two latents that are shown come to the host, and nothing is allocated once shapes are known but for the
    tables of a noise level, which are kept."""
    steps = videos[name][stage]
    assert within(steps, "to_host") == [2, 2, 2]
    assert max(within(steps, "to_device")) <= 20, "the noise level, sizes of joined arrays"
    assert within(steps, "launches")[0] > 400 and len(set(within(steps, "launches"))) == 1
    if name == "fast":
        assert max(within(steps, "allocations")[1:]) <= 1


@pytest.mark.parametrize("name", ["recorded", "low, recorded"])
def test_a_recording_is_played_back(videos: dict[str, dict[str, list[Counts]]], name: str) -> None:
    for stage in STAGES[:2]:
        steps = videos[name][stage]
        assert within(steps, "replays") == [1, 1, 1], "the second step records and plays"
        plain = within(videos["fast"][stage], "launches")
        assert max(within(steps, "launches")[1:]) < plain[1] / 4
    assert min(within(videos[name][STAGES[2]], "replays")) >= 4, "once for each window"


def test_low_memory_gives_a_stage_back(videos: dict[str, dict[str, list[Counts]]]) -> None:
    low, fast = videos["low"], videos["fast"]
    assert low[STAGES[0]][-1].held > 1.3 * low[STAGES[1]][-1].held, "keyframes are gone"
    assert low[STAGES[2]][-1].most < 0.8 * fast[STAGES[2]][-1].most
    assert low[STAGES[0]][1].held < low[STAGES[0]][0].most, "what the first run scattered lies in one block"


def test_memory_does_not_grow_with_the_frames(videos: dict[str, dict[str, list[Counts]]]) -> None:
    for found in videos.values():
        assert found[STAGES[2]][-1].held < 1.2 * found[STAGES[1]][-1].held, "225 frames against 57"


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_that_was_stopped_leaves_a_pipeline_that_runs(run: Run, name: str) -> None:
    assert run(CANCELLED, OPTIONS[name]) == {"ended": True, "frames": 16}


def test_a_plain_bundle_runs_too(run: Run) -> None:
    assert run(VIDEO, {}, folder=ROOT / "graphs" / "demo")["shape"] == [61, 128, 128, 3]


def test_a_run_that_does_not_fit_leaves_a_pipeline_that_runs(run: Run) -> None:
    large, small = run(SCARCE, {"memory": "low"}, device_bytes=20_000_000)["outcomes"]
    assert large.startswith("graph keyframe_unet ran out of memory on inputs") and "smaller height and width" in large
    assert small == 16


@pytest.mark.parametrize(("memory", "advice"), [("fast", 'memory="low" holds one'), ("low", "more than there is")])
def test_a_network_that_does_not_fit_is_said(run: Run, memory: str, advice: str) -> None:
    for outcome in run(SCARCE, {"memory": memory}, device_bytes=200_000)["outcomes"]:
        assert outcome.startswith("graph text_encoder ran out of memory when it was opened") and advice in outcome
