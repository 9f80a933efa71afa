"""`python -m bench.interp_speed`: group against masked interpolation, cost and quality in one run.

The paper's claim is that predicting three frames in one pass costs less than a third of masked interpolation. Here both
designs have the same blocks, run the same number of steps on the same machine in alternating order, and are divided
round by round.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.contenders.baselines import methods_of
from bench.datasets.shapes import held_out
from bench.harness import program
from bench.harness.machine import product_rate
from bench.harness.program import Program, Result, check_counts, target
from bench.harness.record import ROOT, BenchError
from bench.harness.run import say
from bench.interp_speed.cost import DESIGNS, IN_A_ROW, Cell, measure_cells, parameters
from bench.interp_speed.flops import full_table
from bench.interp_speed.plot import plot
from bench.interp_speed.quality import quality
from bench.interp_speed.table import table
from bench.metrics.lpips import session
from ffrt import Bundle, Pipeline, open_bundle
from ffrt.backend.runner import MEMORY
from ffrt.stages.interpolate import GRAPHS, METHODS

SCALES = ("demo", "small", "full")
PARTS = ("cost", "flops", "quality")
FREE = frozenset({"scale", "remake"})
FREE_AT_FULL = frozenset({"side", "quick", "parts"})
"""What a machine may be too small for at the full scale; its record is whole without."""
TARGETS = {"masked_windows/group": 5.0, "masked_sequence/group": 3.4}


def cells(scale: str, bundle: Bundle, quick: bool, side: int | None) -> list[Cell]:
    """What is timed: the usual size first, then one change at a time: clips, frame rate, resolution.

    Raises BenchError for a side that the networks cannot have.
    """
    multiple = bundle.video.size_multiple
    if side is None:
        side = {"demo": bundle.video.height, "small": 128, "full": 512}[scale]
    elif side < multiple or side % multiple:
        raise BenchError(f"--side: expected a multiple of {multiple} pixels, got {side}")
    first = Cell(1, 8, side)
    if quick:
        return [first]
    other = side // 2 if scale == "full" and side // 2 % multiple == 0 else 2 * side
    return [first, Cell(2, 8, side), Cell(4, 8, side), Cell(1, 30, side), Cell(1, 8, other)]


def bundle_of(scale: str, demo: Path, remake: bool) -> Bundle:
    """The bundle of a scale. Those of the paper's shape have random weights and are written once, in graphs/bundles.

    Raises BundleError for a folder that is no bundle.
    """
    if scale == "demo":
        return open_bundle(demo)
    folder = ROOT / "graphs" / "bundles" / f"random-{scale}"
    if folder.is_dir() and not remake:
        return open_bundle(folder)
    from export.models.configs import INTERPOLATION_SHAPES, masked_shape
    from export.onnx.random import write_random_bundle

    group = INTERPOLATION_SHAPES[scale]
    networks = {"interpolation_unet": group, "masked_interpolation_unet": masked_shape(group)}
    say(f"writing {folder.relative_to(ROOT)}; tracing takes minutes")
    return write_random_bundle(open_bundle(demo), networks, folder, say)


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument(
        "--scale",
        nargs="+",
        choices=SCALES,
        default=["demo"],
        help="the trained demo, random networks of the paper's shape (small, full), or several in turn (demo)",
    )
    line.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="designs (all)")
    line.add_argument("--memory", choices=MEMORY, help="fast or low (low for the full scale on a CPU, else fast)")
    line.add_argument("--side", type=int, help="pixels on each side of the first size (128; full: 512)")
    line.add_argument("--runs", type=int, default=5, help="rounds per size (5)")
    line.add_argument("--clips", type=int, default=8, help="held-out clips for quality (8)")
    line.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (everything)")
    line.add_argument("--quick", action="store_true", help="under a minute: one size, 3 rounds, cost only")
    line.add_argument("--remake", action="store_true", help="write a random bundle again")


def check(asked: Namespace) -> None:
    """Raise BenchError for numbers that make no sense, and for one file of several records."""
    check_counts(asked, "runs", "clips")
    if len(asked.scale) > 1 and (asked.json is not None or asked.plot is not None):
        raise BenchError("several scales make several records: expected --folder, got --json or --plot")


def free(asked: Namespace) -> frozenset[str]:
    """What a whole run may set."""
    return FREE | FREE_AT_FULL if asked.scale == ["full"] else FREE


def measure_scale(asked: Namespace, scale: str) -> Result:
    """Measure one scale. Raises FfrtError where a design, provider or bundle cannot be had."""
    bundle = bundle_of(scale, asked.bundle.resolve(), asked.remake)
    memory = asked.memory
    if memory is None:  # two networks of 15 GB are more than most machines hold
        memory = "low" if scale == "full" and asked.provider == "cpu" else "fast"
    row = 1 if scale == "full" else IN_A_ROW  # one step there reads more weights than any cache holds
    pipe = Pipeline(bundle, provider=asked.provider, threads=asked.threads, memory=memory)
    _, absent = methods_of(bundle.graphs)
    methods = [method for method in asked.methods if method not in absent]
    parts = ["cost"] if asked.quick else asked.parts
    if "quality" in parts and scale == "demo":
        session()  # what LPIPS needs is fetched before anything is measured
    missing = [DESIGNS[method] for method in asked.methods if method in absent]
    record: dict[str, Any] = {
        "scale": scale,
        "absent": missing,
        "parameters": {DESIGNS[m]: parameters(bundle.path(bundle.graphs[GRAPHS[m]].file)) for m in methods},
        "ratios": {},
    }
    if "cost" in parts:
        sizes = cells(scale, bundle, asked.quick, asked.side)
        rate = product_rate(asked.provider, asked.threads)
        opened = {
            "bundle": str(bundle.folder),
            "provider": asked.provider,
            "threads": asked.threads,
            "memory": memory,
        }
        record |= {"product_flops_per_s": rate, "steps_in_a_row": row, "memory": memory}
        record["cells"] = measure_cells(
            pipe,
            sizes,
            methods,
            min(asked.runs, 3) if asked.quick else asked.runs,
            row,
            rate,
            None if asked.quick else opened,
        )
        record["ratios"] = {name: ratio["median"] for name, ratio in record["cells"][0]["ratios"].items()}
    if "flops" in parts:
        record["full_shape"] = full_table(DESIGNS)
    if "quality" in parts and scale == "demo":
        record["quality"] = quality(pipe, held_out(asked.clips), methods)
    ratios = record["ratios"]
    record["targets"] = [target(name, ratios[name], least) for name, least in TARGETS.items() if name in ratios]
    return Result(
        record,
        partial(plot, record) if "cells" in record else None,
        name=f"interp_speed_{scale}",
        notes=[f"{design} did not run: {asked.bundle} has no graph for it" for design in missing],
        status=1 if missing else 0,
    )


def measure(asked: Namespace) -> Iterator[Result]:
    """Measure scale by scale."""
    for scale in asked.scale:
        yield measure_scale(asked, scale)


PROGRAM = Program("interp_speed", __doc__, measure, table, arguments, check, pictured=True, matplotlib=True, free=free)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure scale by scale, keep records and plots, print the tables.

    0: every design ran; 1: one did not; 2: not everything could be measured.
    """
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
