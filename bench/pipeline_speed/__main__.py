"""`python -m bench.pipeline_speed`: PyTorch eager, the plain exported graphs and the optimised ones, in one run.

Where OpenVINO is installed and the processor multiplies in bfloat16 there are two contenders more: the graphs optimised
for that, and PyTorch under bfloat16 autocast.
Same weights, same noise, same threads, alternating order, stage by stage at the prototype's shapes (random weights) and
at the demo's, then whole videos of the demo. First all contenders are compared: one that computes something else is not
timed. The timer of a step holds the whole step: inputs, networks, guidance, sampler. What is computed once per request,
loading and optimising stay outside. `bench.cuda_run` is the one for a GPU.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.contenders.work import SMALL, STEPS, scale_of
from bench.harness import program
from bench.harness.machine import product_rate
from bench.harness.program import Program, Result, check_counts
from bench.harness.record import ROOT, BenchError, environment, version
from bench.harness.run import say
from bench.pipeline_speed.bundles import contenders_of, optimised_bundle, small_bundle
from bench.pipeline_speed.clips import clips_of
from bench.pipeline_speed.headline import host_overheads, projected, ratios, targets
from bench.pipeline_speed.memory import memory_of
from bench.pipeline_speed.plot import plot
from bench.pipeline_speed.stages import measure_scale, videos
from bench.pipeline_speed.table import table
from bench.pipeline_speed.waiting import first_frames_of, neighbours_of, starts_of
from ffrt import Bundle, open_bundle
from ffrt.backend.openvino import multiplies_bfloat16
from ffrt.stages.interpolate import MIDDLE

PARTS = ("stages", "video", "clips", "start", "first_frame", "neighbour", "memory", "profile")


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument(
        "--small",
        type=Path,
        default=ROOT / "graphs" / "bundles" / "speed-small",
        help="random networks of the prototype's shapes, written there when they are missing (graphs/bundles/...)",
    )
    line.add_argument("--runs", type=int, default=5, help="rounds of every stage (5)")
    line.add_argument("--row", type=int, default=4, help="denoising steps timed in a row (4)")
    line.add_argument("--video-runs", type=int, default=3, help="rounds of whole videos (3)")
    line.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (everything)")
    line.add_argument("--compile", action="store_true", help="torch.compile as well, which takes minutes")
    line.add_argument("--quick", action="store_true", help="under a minute: the demo's stages alone, no whole video")


def check(asked: Namespace) -> None:
    """Raise BenchError for numbers that make no sense; a quick run has few rounds."""
    check_counts(asked, "runs", "row", "video_runs")
    if asked.quick:
        asked.runs, asked.row = min(asked.runs, 3), min(asked.row, 2)
    if (most := (asked.runs + 1) * asked.row) > STEPS - 1:
        raise BenchError(f"--runs and --row: expected (runs + 1) * row of at most {STEPS - 1} steps, got {most}")


def measure(asked: Namespace) -> Iterator[Result]:
    """Measure. Raises FfrtError where something cannot be had or contenders disagree."""
    demo = open_bundle(asked.bundle.resolve())
    around = environment(None, "cpu", None)
    threads = around["cores"] if asked.threads is None else asked.threads
    parts = ["stages"] if asked.quick else asked.parts
    record: dict[str, Any] = {
        "steps_in_a_row": asked.row,
        "product_flops_per_s": product_rate("cpu", threads),
        "optimise_s": {},
        "scales": {},
    }
    plain = {"demo": demo}
    if not asked.quick and {"stages", "memory"} & set(parts):
        plain = {"small": small_bundle(asked.small.resolve(), demo), **plain}
    scales = {kind: SMALL if kind == "small" else scale_of(one) for kind, one in plain.items()}
    providers = {"optimised": "cpu"} | ({"openvino": "openvino"} if multiplies_bfloat16() else {})
    bundles: dict[str, Bundle] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, one in plain.items():
            bundles[f"{kind} plain"] = one
            for name, provider in providers.items():
                say(f"optimising {kind} for {provider}")
                place = Path(folder) / f"{kind}-{provider}"
                bundles[f"{kind} {name}"], record["optimise_s"][f"{kind}, {provider}"] = optimised_bundle(
                    one, place, provider
                )
        for kind, scale in scales.items():
            own = {name: bundles[f"{kind} {name}"] for name in ("plain", *providers)}
            contenders = contenders_of(own, kind, threads, asked.compile)
            if "stages" in parts:
                rate = record["product_flops_per_s"]
                record["scales"][kind] = measure_scale(contenders, own, scale, asked, threads, rate)
            if "video" in parts and kind == "demo":
                say("whole videos")
                record["video"] = videos(contenders, asked.video_runs)
            del contenders  # the networks of one scale are enough at a time
        if "clips" in parts:
            record["clips"] = clips_of(str(demo.folder), asked.threads, asked.video_runs)
        if "start" in parts:
            say("starts")
            record["start"] = starts_of(str(demo.folder), asked.threads)
        if "first_frame" in parts:
            record["first_frame"] = first_frames_of(str(demo.folder), threads, asked.video_runs)
        if "neighbour" in parts:
            record["neighbour"] = neighbours_of(str(demo.folder), threads, asked.video_runs)
        if "memory" in parts:
            record["memory"] = memory_of(bundles, scales, threads)
    if asked.quick:
        frames = (MIDDLE + 1) * (demo.keyframes.num_frames - 1) + 1
        record["projected"] = projected(record["scales"]["demo"]["stages"], demo, frames)
    record["ratios"], record["ratios_to_float32"] = ratios(record), ratios(record, "ratios_to_float32")
    record["host_overhead"] = host_overheads(record)
    record["targets"] = targets(record)
    versions = {name: version(name) for name in ("torch", "openvino")}
    draw = partial(plot, record) if record["scales"] else None
    yield Result(record, draw, environment={"threads": threads, **versions})


PROGRAM = Program(
    "pipeline_speed",
    __doc__,
    measure,
    table,
    arguments,
    check,
    providers=("cpu",),
    pictured=True,
    matplotlib=True,
    free=lambda asked: frozenset({"small", "compile"}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep record and plot, print the table. 0: it ran; 2: it could not, and nothing was written."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
