"""`python -m bench.step_quality`: what fewer denoising steps and step caching cost in quality.

The prompts of the demo under several samplers, step counts and cache intervals, judged by the detector, with the cost
of each; frames between keyframes against rendered truth. `preset="fast"` is the cheapest row of each table that is
as good as the bundle's default. Settings are chosen on the `tune` prompts, which no reported score is about.
Cost is counted in FLOPs and runs of the networks; nothing is timed.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.datasets.prompts import FIRST_SEED, cases
from bench.harness import program
from bench.harness.program import Program, Result, check_counts
from bench.harness.record import BenchError
from bench.step_quality import measure as measuring
from bench.step_quality.settings import LEAST_STEPS, plan_of
from bench.step_quality.table import table
from ffrt import Pipeline
from ffrt.families import KANDINSKY_1_0, SHALLOW
from graphs.deep_cache import write_cached


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--prompts", type=int, default=60, help="how many prompts (60)")
    line.add_argument("--clips", type=int, default=4, help="held-out clips of the interpolation (4)")
    line.add_argument("--split", choices=sorted(FIRST_SEED), default="tune", help="prompt set (tune)")
    line.add_argument("--quick", action="store_true", help="a smoke run: one prompt, one clip, few settings")


def check(asked: Namespace) -> None:
    """Raise BenchError for numbers that make no sense."""
    check_counts(asked, "prompts", "clips")
    cases(asked.prompts, asked.split)


def measure(asked: Namespace) -> Iterator[Result]:
    """Measure all settings. Raises FfrtError where that cannot be done."""
    bundle = asked.bundle.resolve()
    with tempfile.TemporaryDirectory() as folder:
        pipe = Pipeline.from_pretrained(bundle, provider=asked.provider, threads=asked.threads)
        if pipe.bundle.manifest.family is not KANDINSKY_1_0:
            raise BenchError(f"{bundle}: expected a bundle that makes keyframes of text alone")
        if not set(SHALLOW.values()) <= set(pipe.bundle.graphs):
            cached = write_cached(pipe.bundle, Path(folder) / bundle.name)
            pipe = Pipeline(cached, provider=asked.provider, threads=asked.threads)
        plan = plan_of(pipe.bundle, asked.prompts, asked.split, asked.clips, asked.quick)
        yield Result(
            {
                "split": asked.split,
                "prompts": len(plan.prompts),
                "clips": len(plan.clips),
                "references": plan.references,
                "reference_steps": plan.reference_steps,
                "least_steps": LEAST_STEPS,
                **measuring.measure(pipe, plan),
            }
        )


PROGRAM = Program("step_quality", __doc__, measure, table, arguments, check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep the record, print the tables. 0: it ran; 2: it could not, and nothing was written."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
