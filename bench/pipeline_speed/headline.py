"""The numbers that a record of `bench.pipeline_speed` is known by, and the targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contenders.compare import BASELINE
from bench.contenders.work import DENOISING, STEPS
from bench.harness.program import target
from bench.pipeline_speed import waiting
from bench.pipeline_speed.clips import targets_of
from bench.pipeline_speed.stages import OURS
from ffrt import Bundle
from ffrt.sampling.presets import PRESETS, Steps

TARGETS = {"interpolation_step": 2.0, "keyframe_step": 1.8, "end_to_end_fast": 4.0}
MOST_HOST_OVERHEAD = 0.02


def ratios(record: Mapping[str, Any], kind: str = "ratios") -> dict[str, dict[str, float]]:
    """Contender -> name -> PyTorch over it: both denoising steps, at the larger scale, and whole videos.

    `kind` "ratios" divides by a contender of PyTorch's own precision, "ratios_to_float32" PyTorch in float32 by one in
    bfloat16.
    """
    found: dict[str, dict[str, float]] = {}

    def add(name: str, rows: Mapping[str, Any], ending: str = "") -> None:
        for ours in OURS:
            if ours + ending in rows:
                found.setdefault(ours, {})[name] = rows[ours + ending]["median"]

    scales = record["scales"]
    stages = scales["small" if "small" in scales else "demo"]["stages"] if scales else {}
    for stage in DENOISING:
        if stage in stages:
            add(stage, stages[stage][kind])
    if "projected" in record:
        for ours, ratio in record["projected"][kind].items():
            found.setdefault(ours, {})["end_to_end_fast"] = ratio
    if "video" in record:
        add("end_to_end_fast", record["video"][kind], "_fast")
        add("end_to_end_same_steps", record["video"][kind])
    return found


def host_overheads(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Scale -> contender -> the larger share of a denoising loop, of both, that is outside the graphs."""
    found: dict[str, dict[str, float]] = {}
    for scale, measured in record["scales"].items():
        for rows in measured["stages"].values():
            for ours, share in rows.get("host_overhead", {}).items():
                shares = found.setdefault(scale, {})
                shares[ours] = max(share, shares.get(ours, 0.0))
    return found


def projected(stages: Mapping[str, Any], bundle: Bundle, frames: int) -> dict[str, Any]:
    """Seconds of a video of 8 fps by the medians of its stages, for runs too short to make one.

    PyTorch with the released steps, ours with `preset="fast"`, and the ratios of both, by precision.
    """
    fast = PRESETS["fast"]
    own = [Steps(one.sampler, one.num_inference_steps) for one in (bundle.keyframes, bundle.interpolation)]
    few = [steps.at_most(preset) for steps, preset in zip(own, (fast.keyframes, fast.interpolation), strict=True)]
    fewest = (few[0].num_inference_steps, few[1].num_inference_steps)
    seconds = {}
    for name in ("eager", *BASELINE.values(), *OURS):
        if any(name not in rows["contenders"] for rows in stages.values()):
            continue
        times = {stage: rows["contenders"][name]["seconds"]["median_s"] for stage, rows in stages.items()}
        steps_of = zip(fewest if name in OURS else (STEPS, STEPS), DENOISING, strict=True)
        denoised = sum(count * times[stage] for count, stage in steps_of)
        seconds[name] = times["text"] + denoised + frames * times["decode_frame"]
    ours = {name: own_s for name, own_s in seconds.items() if name in OURS}
    return {
        "seconds": seconds,
        "ratios": {
            name: seconds[BASELINE.get(name, "eager")] / own_s
            for name, own_s in ours.items()
            if BASELINE.get(name, "eager") in seconds
        },
        "ratios_to_float32": {name: seconds["eager"] / own_s for name, own_s in ours.items() if name in BASELINE},
    }


def targets(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measured against asked for, for each of ours; the share outside the graphs for every scale as well."""
    rows = [
        target(name, ratios[name], least, contender=contender)
        for contender, ratios in record["ratios"].items()
        for name, least in TARGETS.items()
        if name in ratios
    ]
    for scale, shares in record["host_overhead"].items():
        for contender, share in shares.items():
            rows.append(
                target("host_overhead", share, MOST_HOST_OVERHEAD, least=False, contender=contender, scale=scale)
            )
    return [*rows, *(targets_of(record["clips"]) if "clips" in record else []), *waiting.targets_of(record)]
