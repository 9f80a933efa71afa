"""What `bench.pipeline_speed` and `bench.cuda_run` measure of their contenders: who agrees, seconds, memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bench.contenders.work import PROMPT, PROMPTS, Contender, Given, Ours, Scale, Stage, opened, runner, units
from bench.harness.run import Timing, child, progress, rounds, summary
from ffrt import Bundle

DENOISING: tuple[Stage, ...] = ("keyframe_step", "interpolation_step")
OURS = ("optimised", "openvino")
"""The contenders that are `ffrt` at its best: graphs optimised for ONNX Runtime's CPU provider, and for OpenVINO."""
VIDEO_FPS, LONG_FPS = 8, 30
ONE_RUN = "from bench.contenders.work import once\nonce(argument)\n"


def difference(wanted: np.ndarray, got: np.ndarray) -> float:
    """Relative RMS of the difference between two arrays of one shape."""
    wanted, got = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    if wanted.shape != got.shape:
        raise ValueError(f"expected the shape {list(wanted.shape)}, got {list(got.shape)}")
    return float(np.sqrt(np.mean((got - wanted) ** 2) / max(float(np.mean(wanted**2)), 1e-30)))


def result(contender: Contender, stage: Stage, scale: Scale, given: Given) -> np.ndarray:
    """What a contender computes in a stage: the clean estimate of the first step, frames, or the context."""
    if stage == "decode_frame":
        return np.concatenate(list(contender.decode(given.pictures[:4])))
    if stage == "text":
        return contender.encode("a red circle").context
    steps = opened(contender, stage, scale, given)
    try:
        return next(steps).x0
    finally:
        steps.close()


def agree(
    contenders: Mapping[str, Contender], stage: Stage, scale: Scale, given: Given, largest: Mapping[str, float]
) -> dict[str, float]:
    """How far each contender is from eager. Raises ValueError for one that is farther than `largest` says for it."""
    wanted = result(contenders["eager"], stage, scale, given)
    found = {}
    for name, contender in contenders.items():
        found[name] = difference(wanted, result(contender, stage, scale, given))
        if not found[name] <= largest[name]:
            raise ValueError(
                f"{name} computes something else than eager in {stage} of {scale.name}: relative RMS "
                f"{found[name]:.1e}, expected at most {largest[name]:.0e}; export or optimise the bundle again"
            )
    return found


def measured(seconds: Mapping[str, Sequence[float]]) -> tuple[dict[str, Timing], dict[str, dict[str, float]]]:
    """Median and spread of every contender, and of eager over each of the others, divided round by round."""
    times = {name: summary(list(values)) for name, values in seconds.items()}
    found = {}
    for name, values in seconds.items():
        if name != "eager" and "eager" in seconds:
            spread = summary([eager / own for eager, own in zip(seconds["eager"], values, strict=True)])
            found[name] = {"median": spread.median_s, "iqr": spread.iqr_s}
    return times, found


def measure_stage(
    contenders: Mapping[str, Contender],
    stage: Stage,
    scale: Scale,
    given: Given,
    runs: int,
    row: int,
    largest: Mapping[str, float],
) -> dict[str, Any]:
    """One stage: who agrees, seconds a step (or frame, or prompt), and eager over the others."""
    differences = agree(contenders, stage, scale, given, largest)
    calls = {name: runner(contender, stage, scale, given, row) for name, contender in contenders.items()}
    taken = rounds(calls, runs)
    of = units(stage, row)
    times, found = measured({name: [value / of for value in values] for name, values in taken.items()})
    return {
        "contenders": {
            name: {"seconds": asdict(timing), "difference": differences[name]} for name, timing in times.items()
        },
        "ratios": found,
    }


def videos(contenders: Mapping[str, Contender], runs: int) -> dict[str, Any]:
    """Whole videos of 8 fps, text to frames: all with the released sampling, ours with its preset for speed too.

    Every video has another prompt. The pipelines are warm: what belongs to a schedule is there from the video before.
    """
    calls: dict[str, Callable[[], object]] = {}

    def add(name: str, video: Callable[[int, str], int]) -> None:
        prompts = itertools.cycle(PROMPTS)
        calls[name] = lambda: video(VIDEO_FPS, next(prompts))

    for name, contender in contenders.items():
        add(name, contender.video)
    fast = {name: one.fast_video for name, one in contenders.items() if name in OURS and isinstance(one, Ours)}
    for name, video in fast.items():
        add(f"{name}_fast", video)
    times, found = measured(rounds(calls, runs))
    return {
        "frames": fast["optimised"](VIDEO_FPS, PROMPT),
        "contenders": {name: asdict(timing) for name, timing in times.items()},
        "ratios": found,
    }


def memory_of(bundles: Mapping[str, Bundle], kinds: Mapping[str, Scale], provider: str, threads: int) -> dict[str, Any]:
    """Peak bytes of fresh processes: a stage of every contender and scale, and whole videos, short and long.

    `bundles` by kind and contender ("small plain"). torch.compile is left out: its compiler would be measured.
    """
    jobs: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def add(path: tuple[str, ...], kind: str, contender: str, memory: str, work: dict[str, Any]) -> None:
        folder = bundles[f"{kind} {contender if contender in OURS else 'plain'}"].folder
        own = "openvino" if contender == "openvino" else provider
        opening = {"provider": own, "threads": threads, "memory": memory, "contender": contender}
        opening |= {"bundle": str(folder), "networks": kind, "scale": asdict(kinds[kind])}
        jobs.append((path, {**opening, **work}))

    for kind in kinds:
        for stage in (*DENOISING, "decode_frame"):
            for contender in ("eager", "plain", *(name for name in OURS if f"{kind} {name}" in bundles)):
                add(("stages", kind, stage, contender), kind, contender, "fast", {"stage": stage})
    add(("videos", "eager", f"{VIDEO_FPS} fps"), "demo", "eager", "fast", {"fps": VIDEO_FPS})
    for memory in ("fast", "low"):
        for fps in (VIDEO_FPS, LONG_FPS):
            for contender in (name for name in OURS if f"demo {name}" in bundles):
                add(("videos", f"{contender}, {memory}", f"{fps} fps"), "demo", contender, memory, {"fps": fps})
    found: dict[str, Any] = {}
    for index in progress("memory", len(jobs)):
        (*path, last), job = jobs[index]
        place = found
        for key in path:
            place = place.setdefault(key, {})
        place[last] = child(ONE_RUN, job)["peak_bytes"]
    return found
