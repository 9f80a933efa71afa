"""`python -m bench.step_quality`: what fewer denoising steps and step caching cost in quality.

The prompts of the demo under several samplers, step counts and cache intervals, judged by the detector, beside what
each costs; frames between keyframes against rendered truth. `preset="fast"` is the cheapest row of each table that is
as good as the bundle's default. Settings are chosen on the `tune` prompts, which no reported score is about.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.contenders.baselines import Frames, psnr_db
from bench.datasets.prompts import FIRST_SEED, Case, cases
from bench.datasets.shapes import INTERPOLATION_SEED, held_out, truth
from bench.demo_quality.__main__ import ATTRIBUTES, share
from bench.harness.flops import count_flops
from bench.harness.run import ROOT, environment, is_whole, progress, summary, write_json
from bench.metrics.detector import detect
from bench.step_quality.table import table
from ffrt import Bundle, FfrtError, Pipeline, RequestError
from ffrt.families import DEEP, SHALLOW
from ffrt.sampling import Sampling, drain, normal_noise
from ffrt.stages.keyframes import keyframe_steps
from graphs.deep_cache import write_cached

FREE = ("bundle", "provider", "threads", "json")  # all in the record, none changes what is measured
CLOSE_POINTS, CLOSE_DB = 2.0, 0.2
"""How far below the default a setting may be to count as equally good: a score of prompts, a PSNR."""


@dataclass(frozen=True)
class Setting:
    """How one stage denoises."""

    sampler: str
    num_inference_steps: int
    cache_interval: int = 1

    @property
    def runs(self) -> tuple[int, int]:
        """How often the whole network runs for a video, and how often its outermost level alone."""
        whole = -(-self.num_inference_steps // self.cache_interval)
        return whole, self.num_inference_steps - whole


KEYFRAMES = (
    Setting("dpm++", 15),
    Setting("dpm++", 10),
    Setting("dpm++", 8),
    Setting("dpm++", 6),
    Setting("dpm++", 4),
    Setting("ddim", 10),
    Setting("dpm++", 10, cache_interval=2),
)
INTERPOLATION = (Setting("ddim", 4), Setting("ddim", 2), Setting("ddim", 1), Setting("ddpm", 50))
QUICK = ((KEYFRAMES[1], KEYFRAMES[6]), INTERPOLATION[1:3])
LEAST_STEPS = 8
"""Fewer keyframe steps than these are measured and never chosen: the demo's pictures need fewer than real ones."""


@dataclass(frozen=True)
class Plan:
    """What is measured; the bundle's default comes first in both lists. The first `references` prompts are also made
    in `reference_steps` steps of each deterministic sampler.
    """

    keyframes: tuple[Setting, ...]
    interpolation: tuple[Setting, ...]
    prompts: tuple[Case, ...]
    clips: tuple[Any, ...]
    references: int
    reference_steps: int


def plan_of(bundle: Bundle, prompts: int, split: str, clips: int, quick: bool) -> Plan:
    """The whole plan or, `quick`, one prompt, one clip and few settings."""
    first, then = bundle.keyframes, bundle.interpolation
    defaults = [Setting(config.sampler, config.num_inference_steps) for config in (first, then)]
    lists = QUICK if quick else (KEYFRAMES, INTERPOLATION)
    keyframes, between = (tuple(dict.fromkeys([d, *found])) for d, found in zip(defaults, lists, strict=True))
    wanted = cases(1 if quick else prompts, split)
    return Plan(
        keyframes,
        between,
        tuple(wanted),
        tuple(held_out(1 if quick else clips, split)),
        1 if quick else 2,
        20 if quick else 200,
    )


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
    drain(
        keyframe_steps(
            network,
            config,
            prompt,
            noise,
            Sampling(1, config.guidance_scale, "ddim"),
        )
    )
    deep = pipe.graph("keyframe_unet")(fed)[DEEP]
    shallow = bundle.graphs[SHALLOW["keyframe_unet"]].file
    return {
        "whole": count_flops(bundle.path(bundle.graphs["keyframe_unet"].file), fed),
        "shallow": count_flops(bundle.path(shallow), {**fed, DEEP: deep}),
    }


def make(pipe: Pipeline, case: Case, setting: Setting) -> tuple[Frames, float]:
    """The keyframes of a case, uint8 [T, H, W, 3], and the seconds that denoising them took."""
    context = pipe.encode(case.prompt)
    start = time.perf_counter()
    latents = pipe.keyframes(context, seed=case.seed, **asdict(setting))
    took_s = time.perf_counter() - start
    return pipe.decode(latents, pipe.bundle.keyframes.fps).frames, took_s


def judge(frames: Frames, case: Case) -> dict[str, bool]:
    """Which attributes of a case the detector sees; a size only where the prompt names one."""
    seen = detect(frames)
    names = [name for name in ATTRIBUTES if name != "size" or case.size is not None]
    right = {name: getattr(seen, name) == getattr(case, name) for name in names}
    return {**right, "all": all(right.values()) and not seen.faults}


def measure_keyframes(pipe: Pipeline, plan: Plan) -> list[dict[str, Any]]:
    """One row a setting: scores, what it won and lost against the default prompt by prompt, seconds, PSNR."""
    verdicts: list[list[dict[str, bool]]] = [[] for _ in plan.keyframes]
    seconds: list[list[float]] = [[] for _ in plan.keyframes]
    decibels: list[list[float]] = [[] for _ in plan.keyframes]
    for index in progress("keyframes", len(plan.prompts)):
        case = plan.prompts[index]
        converged: dict[str, Frames] = {}
        if index < plan.references:
            for sampler in sorted({one.sampler for one in plan.keyframes} - {"ddpm"}):
                converged[sampler] = make(pipe, case, Setting(sampler, plan.reference_steps))[0]
        order = range(len(plan.keyframes))
        for at in order if index % 2 == 0 else reversed(order):
            frames, took_s = make(pipe, case, plan.keyframes[at])
            verdicts[at].append(judge(frames, case))
            seconds[at].append(took_s)
            if (sampler := plan.keyframes[at].sampler) in converged:
                decibels[at].append(psnr_db(frames, converged[sampler]))
    return [
        {
            **asdict(setting),
            "scores": {
                name: share([one[name] for one in verdicts[at] if name in one]) for name in (*ATTRIBUTES, "all")
            },
            "won": {name: changed(verdicts[at], verdicts[0], name) for name in (*ATTRIBUTES, "all")},
            "lost": {name: changed(verdicts[0], verdicts[at], name) for name in (*ATTRIBUTES, "all")},
            "seconds": asdict(summary(seconds[at])),
            "converged_db": float(np.mean(decibels[at])) if decibels[at] else None,
        }
        for at, setting in enumerate(plan.keyframes)
    ]


def changed(here: Sequence[Mapping[str, bool]], there: Sequence[Mapping[str, bool]], name: str) -> int:
    """Prompts right in `here` and wrong in `there`."""
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
    """One row a setting: PSNR of the frames between, from 2 to 8 fps, against rendered truth."""
    values: list[list[float]] = [[] for _ in plan.interpolation]
    seconds: list[list[float]] = [[] for _ in plan.interpolation]
    for index in progress("interpolation", len(plan.clips)):
        exact = truth(plan.clips[index], 8)
        latents = pipe.encode_frames(exact[::4])
        between = np.arange(len(exact)) % 4 != 0
        for at, setting in enumerate(plan.interpolation):
            start = time.perf_counter()
            made = pipe.interpolate(latents, fps=8, seed=INTERPOLATION_SEED, **asdict(setting))
            seconds[at].append(time.perf_counter() - start)
            values[at].append(psnr_db(pipe.decode(made, 8).frames[between], exact[between]))
    return [
        {**asdict(setting), "psnr_db": float(np.mean(values[at])), "seconds": asdict(summary(seconds[at]))}
        for at, setting in enumerate(plan.interpolation)
    ]


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
    """Both tables and what is chosen from each: a preset holds for any bundle, so that it caches nothing."""
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m bench.step_quality", description=__doc__.splitlines()[0])
    line.add_argument("--bundle", type=Path, default=ROOT / "graphs" / "demo", help="bundle folder (graphs/demo)")
    line.add_argument("--provider", default="cpu", help="provider asked of ffrt (cpu)")
    line.add_argument("--threads", type=int, help="CPU threads (ONNX Runtime's choice)")
    line.add_argument("--prompts", type=int, default=30, help="how many prompts (30)")
    line.add_argument("--clips", type=int, default=4, help="held-out clips of the interpolation (4)")
    line.add_argument("--split", choices=sorted(FIRST_SEED), default="tune", help="prompt set (tune)")
    line.add_argument("--quick", action="store_true", help="a smoke run: one prompt, one clip, few settings")
    line.add_argument("--json", type=Path, help="record (bench/results/step_quality.json of a whole run, else none)")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the record, print the tables. 0: it ran; 2: it could not, and nothing was written."""
    asked, usual = parser().parse_args(arguments), parser().parse_args([])
    whole = is_whole(asked, usual, FREE)
    place = ROOT / "bench" / "results" / "step_quality.json" if whole and asked.json is None else asked.json
    bundle = asked.bundle.resolve()
    with tempfile.TemporaryDirectory() as folder:
        try:
            pipe = Pipeline.from_pretrained(bundle, provider=asked.provider, threads=asked.threads)
            if pipe.bundle.keyframes.image is not None:
                raise RequestError(f"{bundle}: expected a bundle that makes keyframes of text alone")
            if not set(SHALLOW.values()) <= set(pipe.bundle.graphs):
                cached = write_cached(pipe.bundle, Path(folder) / bundle.name)
                pipe = Pipeline(cached, provider=asked.provider, threads=asked.threads)
            plan = plan_of(pipe.bundle, asked.prompts, asked.split, asked.clips, asked.quick)
        except (ValueError, FfrtError) as error:
            print(f"nothing measured: {error}", file=sys.stderr)
            return 2
        record = {
            "bench": "step_quality",
            "whole": whole,
            "split": asked.split,
            "prompts": len(plan.prompts),
            "clips": len(plan.clips),
            "references": plan.references,
            "reference_steps": plan.reference_steps,
            "least_steps": LEAST_STEPS,
            "environment": environment(bundle, asked.provider, asked.threads),
            **measure(pipe, plan),
        }
    if place is not None:
        write_json(place, record)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
