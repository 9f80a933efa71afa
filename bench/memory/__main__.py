"""`python -m bench.memory`: estimates of memory against the measured peaks of every public stage.

Every stage of a 1.0 bundle (the demo) and of a 1.1 bundle of its size runs in a process of its own, for both memory
modes and three sizes, with one denoising step. The peak is that of the whole process (VmHWM), as the kernel weighs a
process when memory runs out. It has the pages of mapped files, which a container counts too, but can take back.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.harness import program
from bench.harness.program import Program, Result, target
from bench.harness.record import ROOT
from bench.harness.run import child, progress, say
from bench.harness.words import markdown
from bench.memory.networks import write_1_1
from ffrt import Bundle, Pipeline, open_bundle

SIZES = ((128, 128), (192, 320), (384, 384))
STAGES = ("encode", "encode_frames", "first_frame", "keyframes", "interpolate", "decode")
GENERATE = "generate"
MEASURE = "from bench.memory.stages import measured\nresult['found'] = measured(argument)\n"
LEAST, MOST = 1.0, 1.5


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument(
        "--models",
        type=Path,
        default=ROOT / "graphs" / "bundles",
        help="the 1.1 bundle is kept below it and used again (graphs/bundles)",
    )
    line.add_argument("--small", action="store_true", help="the smallest size alone: a trial of the program")


def measure(asked: Namespace) -> Iterator[Result]:
    """Build the 1.1 bundle if it is missing, then measure. Raises ChildError where a child fails."""
    base = open_bundle(asked.bundle)
    place = asked.models.resolve() / "memory-1.1"
    bundles = [base, open_bundle(place) if place.is_dir() else write_1_1(base, place, say)]
    jobs = list(jobs_of(bundles, SIZES[:1] if asked.small else SIZES))
    rows = []
    for index in progress("memory", len(jobs)):
        job = jobs[index]
        with tempfile.TemporaryDirectory() as cache:  # of optimised graphs: making them takes more than having them
            run = child(MEASURE, job, variables={"XDG_CACHE_HOME": cache})
        told = {key: value for key, value in job.items() if key not in ("bundle", "context")}
        rows.append({**told, **run["found"], "peak": run["peak_bytes"]})
    ratios = [row["process"] / row["peak"] for row in rows]
    yield Result(
        {
            "rows": rows,
            "targets": [
                target("smallest ratio", min(ratios), LEAST),
                target("largest ratio", max(ratios), MOST, least=False),
            ],
        }
    )


def jobs_of(bundles: Sequence[Bundle], sizes: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Every measurement: a stage of a bundle, or a whole video at one of its rates."""
    for bundle in bundles:
        context = Pipeline(bundle, provider="cpu").encode("a").context.shape[-1]
        calls = [(stage, 0) for stage in STAGES if stage != "first_frame" or bundle.family.follows_image]
        calls += [(GENERATE, fps) for fps in bundle.rates]
        for stage, fps in calls:
            for memory in ("fast", "low"):
                for height, width in sizes:
                    yield {
                        "bundle": str(bundle.folder),
                        "context": context,
                        "family": bundle.family.name,
                        "stage": stage,
                        "fps": fps,
                        "memory": memory,
                        "height": height,
                        "width": width,
                    }


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    sizes = list(dict.fromkeys((row["height"], row["width"]) for row in record["rows"]))
    lines: dict[tuple[str, str, str], dict[tuple[int, int], str]] = {}
    for row in record["rows"]:
        stage = f"{row['stage']}, {row['fps']} fps" if row["fps"] else row["stage"]
        place = (row["family"].removeprefix("kandinsky-"), stage, row["memory"])
        lines.setdefault(place, {})[row["height"], row["width"]] = cell(row)
    head = ["family", "stage", "memory", *(f"{height}x{width}" for height, width in sizes)]
    least, most = (item["measured"] for item in record["targets"])
    met = "met" if all(item["met"] for item in record["targets"]) else "**missed**"
    return "\n".join(
        [
            *markdown(head, [[*place, *(cells[size] for size in sizes)] for place, cells in lines.items()]),
            "",
            f"Estimate over measured peak of the whole process, and that peak: {least:.2f} to {most:.2f}; wanted "
            f"{LEAST:.1f} to {MOST:.1f}, {met}. "
            f"{record['environment']['cpu']}, {record['environment']['cores']} cores.",
        ]
    )


def cell(row: Mapping[str, Any]) -> str:
    """The ratio of a measurement, and its peak."""
    ratio = row["process"] / row["peak"]
    words = f"{ratio:.2f}" if LEAST <= ratio <= MOST else f"**{ratio:.2f} MISSED**"
    return f"{words} ({row['peak'] / 1e6:.0f} MB)"


PROGRAM = Program(
    "memory",
    __doc__,
    measure,
    table,
    arguments,
    providers=("cpu",),
    threads=False,
    free=lambda asked: frozenset({"models"}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and keep the record. 0: done; 2: not."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
