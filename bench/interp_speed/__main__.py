"""`python -m bench.interp_speed`: group against masked interpolation, cost and quality in one run.

The paper's claim is that predicting three frames in one pass costs less than a third of masked interpolation. Here both
designs have the same blocks, run the same number of steps on the same machine in alternating order, and are divided
round by round.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.contenders.baselines import methods_of
from bench.datasets.shapes import held_out
from bench.harness.machine import product_rate
from bench.harness.pictures import write_png
from bench.harness.run import ROOT, environment, is_whole, write_json
from bench.interp_speed.cost import DESIGNS, IN_A_ROW, Cell, measure, parameters
from bench.interp_speed.flops import full_table
from bench.interp_speed.quality import quality
from bench.interp_speed.table import plot, table
from ffrt import Bundle, FfrtError, Pipeline, open_bundle
from ffrt.backend.session import MEMORY
from ffrt.stages.interpolate import GRAPHS, METHODS

SCALES = ("demo", "small", "full")
PARTS = ("cost", "flops", "quality")
FREE = ("json", "plot", "folder", "threads", "provider", "bundle", "scale", "remake")
FREE_AT_FULL = ("side", "quick", "parts")
"""What a machine may be too small for at the full scale, so that its record is whole without."""
TARGETS = {"masked_windows/group": 5.0, "masked_sequence/group": 3.4}


def cells(scale: str, bundle: Bundle, quick: bool, side: int | None) -> list[Cell]:
    """What is timed: the usual size first, then one change at a time: clips, frame rate, resolution.

    Raises ValueError for a side that the networks cannot have.
    """
    multiple = bundle.video.size_multiple
    if side is None:
        side = {"demo": bundle.video.height, "small": 128, "full": 512}[scale]
    elif side < multiple or side % multiple:
        raise ValueError(f"expected --side to be a multiple of {multiple} pixels, got {side}")
    first = Cell(1, 8, side)
    if quick:
        return [first]
    other = side // 2 if scale == "full" and side // 2 % multiple == 0 else 2 * side
    return [first, Cell(2, 8, side), Cell(4, 8, side), Cell(1, 30, side), Cell(1, 8, other)]


def bundle_of(scale: str, demo: Path, remake: bool) -> Bundle:
    """The bundle of a scale. Paper-shaped ones have random weights and are written once, below `graphs/bundles`.

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
    print(f"writing {folder.relative_to(ROOT)}; tracing takes minutes", file=sys.stderr)
    return write_random_bundle(open_bundle(demo), networks, folder, lambda line: print(line, file=sys.stderr))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m bench.interp_speed", description=__doc__.splitlines()[0])
    line.add_argument(
        "--scale",
        nargs="+",
        choices=SCALES,
        default=["demo"],
        help="the trained demo, random paper-shaped networks (small, full), or several of them in turn (demo)",
    )
    line.add_argument("--bundle", type=Path, default=ROOT / "graphs" / "demo", help="the demo's folder (graphs/demo)")
    line.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="designs (all)")
    line.add_argument("--provider", default="cpu", help="cpu, cuda, tensorrt or openvino (cpu)")
    line.add_argument("--threads", type=int, help="CPU threads (ONNX Runtime's choice)")
    line.add_argument("--memory", choices=MEMORY, help="fast or low (low for the full scale on a CPU, else fast)")
    line.add_argument("--side", type=int, help="pixels along each side of the first size (128; full: 512)")
    line.add_argument("--runs", type=int, default=5, help="rounds a cell (5)")
    line.add_argument("--clips", type=int, default=8, help="held-out clips for quality (8)")
    line.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (everything)")
    line.add_argument("--quick", action="store_true", help="under a minute: one size, 3 rounds, cost only")
    line.add_argument("--remake", action="store_true", help="write a random bundle anew")
    line.add_argument("--json", type=Path, help="record (bench/results/interp_speed_SCALE.json of a whole run)")
    line.add_argument("--plot", type=Path, help="PNG (beside the record of a whole run)")
    line.add_argument("--folder", type=Path, help="every record and plot of the run goes here, one of each a scale")
    return line


def run(asked: argparse.Namespace, scale: str) -> dict[str, Any]:
    """Measure one scale. Raises FfrtError where a design, provider or bundle cannot be had, ValueError for a number
    that makes no sense.
    """
    if asked.runs < 1 or asked.clips < 1:
        raise ValueError(f"expected --runs and --clips of 1 or more, got {asked.runs} and {asked.clips}")
    began = time.perf_counter()
    bundle = bundle_of(scale, asked.bundle.resolve(), asked.remake)
    memory = asked.memory
    if memory is None:  # two networks of 15 GB are more than most machines hold
        memory = "low" if scale == "full" and asked.provider == "cpu" else "fast"
    row = 1 if scale == "full" else IN_A_ROW  # one step there reads more weights than any cache holds
    pipe = Pipeline(bundle, provider=asked.provider, threads=asked.threads, memory=memory)
    _, absent = methods_of(bundle.graphs)
    wanted = [method for method in asked.methods if method not in absent]
    parts = ["cost"] if asked.quick else asked.parts
    record: dict[str, Any] = {
        "bench": "interp_speed",
        "whole": is_whole(asked, parser().parse_args([]), FREE + (FREE_AT_FULL if scale == "full" else ())),
        "scale": scale,
        "environment": environment(bundle.folder, asked.provider, asked.threads),
        "absent": [DESIGNS[method] for method in asked.methods if method in absent],
        "parameters": {DESIGNS[m]: parameters(bundle.path(bundle.graphs[GRAPHS[m]].file)) for m in wanted},
        "ratios": {},
    }
    if "cost" in parts:
        rate = product_rate(asked.provider, asked.threads)
        opened = {
            "bundle": str(bundle.folder),
            "provider": asked.provider,
            "threads": asked.threads,
            "memory": memory,
        }
        record["product_flops_per_s"] = rate
        record["steps_in_a_row"] = row
        record["memory"] = memory
        record["cells"] = measure(
            pipe,
            cells(scale, bundle, asked.quick, asked.side),
            wanted,
            min(asked.runs, 3) if asked.quick else asked.runs,
            row,
            rate,
            None if asked.quick else opened,
        )
        record["ratios"] = {name: ratio["median"] for name, ratio in record["cells"][0]["ratios"].items()}
    if "flops" in parts:
        record["full_shape"] = full_table(DESIGNS)
    if "quality" in parts and scale == "demo":
        record["quality"] = quality(pipe, held_out(asked.clips), wanted)
    record["targets"] = [
        {"name": name, "measured": record["ratios"][name], "target": least, "met": record["ratios"][name] >= least}
        for name, least in TARGETS.items()
        if name in record["ratios"]
    ]
    record["wall_s"] = time.perf_counter() - began
    return record


def keep(record: dict[str, Any], asked: argparse.Namespace) -> None:
    """Write record and plot where they were asked for; those of a whole run have a place of their own."""
    name = f"interp_speed_{record['scale']}"
    folder = asked.folder if asked.folder is not None else ROOT / "bench" / "results" if record["whole"] else None
    places = [folder / f"{name}.{ending}" if folder is not None else None for ending in ("json", "png")]
    record_place = places[0] if asked.json is None else asked.json
    picture = places[1] if asked.plot is None else asked.plot
    if record_place is not None:
        write_json(record_place, record)
    if picture is not None and "cells" in record:
        write_png(picture, plot(record))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure scale by scale, write records and plots, print the tables. 0: every design ran; 1: one did not;
    2: not everything could be measured.
    """
    asked = parser().parse_args(arguments)
    if len(asked.scale) > 1 and (asked.json is not None or asked.plot is not None):
        print("nothing measured: several scales make several records; give --folder instead", file=sys.stderr)
        return 2
    status = 0
    for scale in asked.scale:
        try:
            record = run(asked, scale)
        except (FfrtError, ValueError) as error:
            print(f"scale {scale} not measured: {error}", file=sys.stderr)
            return 2
        keep(record, asked)
        print(table(record))
        for design in record["absent"]:
            print(f"{design} did not run: {asked.bundle} has no graph for it", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
