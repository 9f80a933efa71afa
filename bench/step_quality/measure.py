"""Scores, costs and PSNR of settings of the denoising."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.datasets.judge import ATTRIBUTES, judge
from bench.datasets.prompts import Case
from bench.datasets.shapes import INTERPOLATION_SEED, truth
from bench.harness.flops import count_flops
from bench.harness.run import progress
from bench.metrics.base import Frames
from bench.metrics.intervals import share
from bench.metrics.pixels import psnr_db
from bench.step_quality.settings import LEAST_STEPS, Plan, Setting
from ffrt import Pipeline
from ffrt.families import DEEP, SHALLOW
from ffrt.sampling import Sampling, drain, normal_noise
from ffrt.stages.keyframes import keyframe_steps

CLOSE_POINTS, CLOSE_DB = 5.0, 0.2
"""How far below the default a setting may be to count as equally good: a score of prompts, a PSNR.

Two prompts of forty that name a size: with fewer, one prompt that falls the other way by chance would decide.
`bench.demo_quality` then holds the choice to 2 points on prompts that it was not made on.
"""


def step_flops(pipe: Pipeline) -> dict[str, int]:
    """FLOPs of one guided keyframe step: the whole network ("whole") and its outermost level alone ("shallow")."""
    bundle = pipe.bundle
    video, config = bundle.video, bundle.keyframes
    fed: dict[str, NDArray[Any]] = {}

    def network(feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        fed.update(feed)
        return pipe.graph("keyframe_unet")(feed)

    shape = (config.num_frames, video.latent_channels, video.height // video.downscale, video.width // video.downscale)
    prompt = pipe.encode("a red circle moving left on a black background").rows()
    noise = normal_noise(0, 0, shape)
    drain(keyframe_steps(network, config, prompt, noise, Sampling(1, config.guidance_scale, "ddim")))
    deep = pipe.graph("keyframe_unet")(fed)[DEEP]
    shallow = bundle.graphs[SHALLOW["keyframe_unet"]].file
    return {
        "whole": count_flops(bundle.path(bundle.graphs["keyframe_unet"].file), fed),
        "shallow": count_flops(bundle.path(shallow), {**fed, DEEP: deep}),
    }


def generate(pipe: Pipeline, case: Case, setting: Setting) -> Frames:
    """The keyframes of a case, uint8 [T, H, W, 3]."""
    latents = pipe.keyframes(pipe.encode(case.prompt), seed=case.seed, **asdict(setting))
    return pipe.decode(latents, pipe.bundle.keyframes.fps).frames


def outcomes(frames: Frames, case: Case) -> dict[str, bool]:
    """Which attributes of a case the detector sees, and whether all of them are right without a fault."""
    verdict = judge(frames, case)
    return {**verdict.right, "all": verdict.good}


def measure_keyframes(pipe: Pipeline, plan: Plan) -> list[dict[str, Any]]:
    """One row per setting: scores, prompts won and lost against the default, PSNR to the limit."""
    verdicts: list[list[dict[str, bool]]] = [[] for _ in plan.keyframes]
    decibels: list[list[float]] = [[] for _ in plan.keyframes]
    for index in progress("keyframes", len(plan.prompts)):
        case = plan.prompts[index]
        converged: dict[str, Frames] = {}
        if index < plan.references:
            for sampler in sorted({one.sampler for one in plan.keyframes} - {"ddpm"}):
                converged[sampler] = generate(pipe, case, Setting(sampler, plan.reference_steps))
        for at, setting in enumerate(plan.keyframes):
            frames = generate(pipe, case, setting)
            verdicts[at].append(outcomes(frames, case))
            if setting.sampler in converged:
                decibels[at].append(psnr_db(frames, converged[setting.sampler]))
    return [
        {
            **asdict(setting),
            "scores": {
                name: share([one[name] for one in verdicts[at] if name in one]) for name in (*ATTRIBUTES, "all")
            },
            "won": {name: changed(verdicts[at], verdicts[0], name) for name in (*ATTRIBUTES, "all")},
            "lost": {name: changed(verdicts[0], verdicts[at], name) for name in (*ATTRIBUTES, "all")},
            "converged_db": float(np.mean(decibels[at])) if decibels[at] else None,
        }
        for at, setting in enumerate(plan.keyframes)
    ]


def changed(here: Sequence[Mapping[str, bool]], there: Sequence[Mapping[str, bool]], name: str) -> int:
    """How many prompts are right in `here` and wrong in `there`."""
    return sum(a[name] and not b[name] for a, b in zip(here, there, strict=True) if name in a)


def with_costs(rows: Sequence[Mapping[str, Any]], flops: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """Rows with the runs of the network and their FLOPs (without `flops`: runs) as a share of the first row's."""
    costs = []
    for row in rows:
        whole, shallow = Setting(row["sampler"], row["num_inference_steps"], row["cache_interval"]).runs
        cost = whole + (shallow * flops["shallow"] / flops["whole"] if flops is not None else 0.0)
        costs.append({"whole_runs": whole, "shallow_runs": shallow, "cost": cost})
    return [{**row, **cost, "cost": cost["cost"] / costs[0]["cost"]} for row, cost in zip(rows, costs, strict=True)]


def measure_interpolation(pipe: Pipeline, plan: Plan) -> list[dict[str, Any]]:
    """One row per setting: PSNR of the frames between, from 2 to 8 fps, against rendered truth."""
    values: list[list[float]] = [[] for _ in plan.interpolation]
    for index in progress("interpolation", len(plan.clips)):
        exact = truth(plan.clips[index], 8)
        latents = pipe.encode_frames(exact[::4])
        between = np.arange(len(exact)) % 4 != 0
        for at, setting in enumerate(plan.interpolation):
            filled = pipe.interpolate(latents, fps=8, seed=INTERPOLATION_SEED, **asdict(setting))
            values[at].append(psnr_db(pipe.decode(filled, 8).frames[between], exact[between]))
    return [{**asdict(setting), "psnr_db": float(np.mean(values[at]))} for at, setting in enumerate(plan.interpolation)]


def close_enough(row: Mapping[str, Any], default: Mapping[str, Any]) -> bool:
    """Whether a row is as good as the default: no score or PSNR further below it than the limits allow."""
    if "psnr_db" in row:
        return bool(row["psnr_db"] >= default["psnr_db"] - CLOSE_DB)
    shares = [(row["scores"][name]["share"], default["scores"][name]["share"]) for name in ATTRIBUTES]
    return all(100 * (usual - found) <= CLOSE_POINTS for found, usual in shares if found is not None)


def choose(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The cheapest row that is as good as the first, which is the default."""
    best = min((row for row in rows if close_enough(row, rows[0])), key=lambda row: row["cost"])
    return {name: best[name] for name in ("sampler", "num_inference_steps", "cache_interval")}


def measure(pipe: Pipeline, plan: Plan) -> dict[str, Any]:
    """Both tables and the setting chosen from each: a preset holds for any bundle, so that it caches nothing."""
    flops = step_flops(pipe)
    keyframes = with_costs(measure_keyframes(pipe, plan), flops)
    between = with_costs(measure_interpolation(pipe, plan), None)
    enough = [row for row in keyframes[1:] if row["num_inference_steps"] >= LEAST_STEPS and row["cache_interval"] == 1]
    return {
        "step_flops": flops,
        "keyframes": keyframes,
        "interpolation": between,
        "fast": {"keyframes": choose([keyframes[0], *enough]), "interpolation": choose(between)},
    }
