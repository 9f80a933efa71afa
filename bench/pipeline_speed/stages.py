"""What is measured of the contenders, stage by stage and as whole videos: agreement, seconds, ratios, FLOPs."""

from __future__ import annotations

import itertools
import math
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from bench.contenders.compare import agree, ratios_of
from bench.contenders.ours import Ours
from bench.contenders.profile import flops, host_overhead, operators
from bench.contenders.work import DENOISING, PROMPT, PROMPTS, STAGES, Contender, Inputs, Scale, Stage, inputs_of, runner
from bench.contenders.work import units as units_of
from bench.harness.run import progress, rounds, summary
from ffrt import Bundle

OURS = ("optimised", "openvino")
"""The contenders that are `ffrt` at its best: graphs optimised for ONNX Runtime's CPU provider, and for OpenVINO."""
LARGEST_DIFFERENCE = 1e-2
"""Relative RMS between the clean estimates of a first step; the random networks alone amplify rounding to 6e-4."""
ROUNDED: Mapping[str, float] = {"openvino": 1e-1, "eager_bfloat16": math.inf}
"""The same for contenders in bfloat16. PyTorch's own autocast is recorded and never refused."""
VIDEO_FPS, LONG_FPS = 8, 30


def measure_stage(
    contenders: Mapping[str, Contender],
    stage: Stage,
    scale: Scale,
    inputs: Inputs,
    runs: int,
    row: int,
    largest: Mapping[str, float],
) -> dict[str, Any]:
    """One stage: agreement with eager, seconds per step (or frame, or prompt), and PyTorch over the others."""
    differences = agree(contenders, stage, scale, inputs, largest)
    calls = {name: runner(contender, stage, scale, inputs, row) for name, contender in contenders.items()}
    units = units_of(stage, row)
    seconds = {name: [value / units for value in values] for name, values in rounds(calls, runs).items()}
    same, gained = ratios_of(seconds)
    return {
        "contenders": {
            name: {"seconds": asdict(summary(values)), "difference": differences[name]}
            for name, values in seconds.items()
        },
        "ratios": same,
        "ratios_to_float32": gained,
    }


def measure_scale(
    contenders: Mapping[str, Contender],
    bundles: Mapping[str, Bundle],
    scale: Scale,
    asked: Namespace,
    threads: int,
    rate: float,
) -> dict[str, Any]:
    """All stages at one scale: times, FLOP/s, kernel time by operator, and the share of the loop outside the graphs."""
    inputs = inputs_of(scale, bundles["plain"], contenders["plain"].encode)
    largest = {name: ROUNDED.get(name, LARGEST_DIFFERENCE) for name in contenders}
    stages: dict[str, Any] = {}
    for index in progress(f"stages of {scale.name}", len(STAGES)):
        stage = STAGES[index]
        if stage == "text" and scale.tokens is not None:
            continue
        rows = measure_stage(contenders, stage, scale, inputs, asked.runs, asked.row, largest)
        if stage in DENOISING:
            rows["host_overhead"] = {
                name: host_overhead(one, stage, scale, inputs, asked.row, asked.runs)
                for name, one in contenders.items()
                if name in OURS and isinstance(one, Ours)
            }
        if "profile" in asked.parts and not asked.quick:
            rows["operators"] = {
                name: operators(bundle, threads, "cpu", stage, scale, inputs)
                for name, bundle in bundles.items()
                if name != "openvino"
            }
            counted = {name: flops(bundle, threads, stage, scale, inputs) for name, bundle in bundles.items()}
            for name, row in rows["contenders"].items():
                row["flops"] = counted[name if name in OURS else "plain"]
                row["flops_share"] = row["flops"] / row["seconds"]["median_s"] / rate
        stages[stage] = rows
    return {"sizes": asdict(scale), "stages": stages}


def videos(contenders: Mapping[str, Contender], runs: int) -> dict[str, Any]:
    """Whole videos of 8 fps, text to frames: all with the released sampling, ours with `preset="fast"` as well.

    Every video has another prompt. The pipelines are warm: what belongs to a noise schedule is kept from the video
    before.
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
    seconds = rounds(calls, runs)
    same, gained = ratios_of(seconds)
    return {
        "frames": fast["optimised"](VIDEO_FPS, PROMPT),
        "contenders": {name: asdict(summary(values)) for name, values in seconds.items()},
        "ratios": same,
        "ratios_to_float32": gained,
    }
