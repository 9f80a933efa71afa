"""`python -m bench.demo_quality`: how good the demo bundle is, in numbers that anyone can reproduce.

Scores of prompts by an image detector; outlines, sizes and turns of what was made, beside what the autoencoder allows;
reconstruction of the autoencoder; interpolation against blending and ffmpeg.
Everything is reported, also what misses its target. Nothing is timed: `bench.pipeline_speed` does that.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from bench.datasets.prompts import FIRST_SEED, cases, outline_cases
from bench.datasets.shapes import held_out
from bench.demo_quality import outlines
from bench.demo_quality.latents import PASSES, interpolation, reconstruction
from bench.demo_quality.prompts import Sampling, score_prompts
from bench.demo_quality.table import table
from bench.demo_quality.targets import targets
from bench.harness import program
from bench.harness.pictures import contact_sheet
from bench.harness.program import Program, Result, check_counts
from ffrt import Pipeline

PARTS = ("prompts", "fast", "outlines", "one_step", "movq", "interpolation")


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--prompts", type=int, default=60, help="how many prompts (60)")
    line.add_argument("--outlines", type=int, default=24, help="prompts whose outlines are measured (24)")
    line.add_argument("--outline-seeds", type=int, default=1, help="seeds of each of those (1)")
    line.add_argument("--one-step", type=int, default=12, help="clips of the one-step table (12)")
    line.add_argument("--clips", type=int, default=8, help="held-out clips of autoencoder and interpolation (8)")
    line.add_argument("--split", choices=sorted(FIRST_SEED), default="test", help="prompt set: tune on tune (test)")
    line.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (everything)")
    line.add_argument("--steps", type=int, help="num_inference_steps (the bundle's)")
    line.add_argument("--guidance", type=float, help="guidance_scale (the bundle's)")
    line.add_argument("--interpolation-guidance", type=float, help="interpolation_guidance_scale (the bundle's)")
    line.add_argument("--sampler", help="sampler (the bundle's)")
    line.add_argument("--quick", action="store_true", help="a smoke run: at most 4 prompts, 1 clip, 1 pass")
    line.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")


def check(asked: Namespace) -> None:
    """Raise BenchError for numbers that make no sense; a quick run has few prompts and one clip."""
    check_counts(asked, "clips", "outlines", "outline_seeds", "one_step")
    if asked.quick:
        asked.prompts, asked.clips = min(asked.prompts, 4), min(asked.clips, 1)
        asked.outlines, asked.one_step = min(asked.outlines, 3), min(asked.one_step, 1)
    cases(asked.prompts, asked.split)
    outline_cases(max(asked.outlines, asked.one_step))


def passes_of(asked: Namespace) -> list[str]:
    """The passes of interpolation that are measured; a quick run takes the first."""
    return list(PASSES)[:1] if asked.quick else list(PASSES)


def measure(asked: Namespace) -> Iterator[Result]:
    """Measure every part that is asked for. Raises FfrtError where that cannot be done."""
    sampling = Sampling(asked.steps, asked.guidance, asked.interpolation_guidance, asked.sampler)
    pipe = Pipeline.from_pretrained(asked.bundle.resolve(), provider=asked.provider, threads=asked.threads)
    prompts, clips = cases(asked.prompts, asked.split), held_out(asked.clips, asked.split)
    record: dict[str, Any] = {"split": asked.split, "sampling": asdict(sampling)}
    sheet = None
    if "prompts" in asked.parts:
        record["prompts"], rows = score_prompts(pipe, prompts, sampling)
        sheet = partial(contact_sheet, rows)
    if "fast" in asked.parts:
        fast = replace(sampling, num_inference_steps=None, sampler=None, preset="fast")
        record["fast"], _ = score_prompts(pipe, prompts, fast)
    if "outlines" in asked.parts:
        drawn = outline_cases(asked.outlines, asked.outline_seeds)
        record["outlines"] = {"samples": outlines.samples(pipe, drawn, sampling), **outlines.bound(pipe, drawn)}
    if "one_step" in asked.parts:
        record["one_step"] = outlines.one_step(pipe, outline_cases(asked.one_step))
    if "movq" in asked.parts:
        record["movq"] = reconstruction(pipe, clips)
    if "interpolation" in asked.parts:
        record["interpolation"] = {passes: interpolation(pipe, clips, passes, sampling) for passes in passes_of(asked)}
    record["targets"] = targets(record)
    failures = record.get("prompts", {}).get("failures", [])
    missed = not all(item["met"] for item in record["targets"])
    yield Result(
        record,
        sheet,
        notes=[f"missed: {one['case']['prompt']} (seed {one['case']['seed']}), seen {one['seen']}" for one in failures],
        status=1 if asked.strict and missed else 0,
    )


PROGRAM = Program(
    "demo_quality",
    __doc__,
    measure,
    table,
    arguments,
    check,
    pictured=True,
    free=lambda asked: frozenset({"strict"}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep record and contact sheet, print the tables.

    0: it ran; 1: a target is missed under --strict; 2: it could not run.
    """
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
