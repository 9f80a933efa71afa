"""`python -m bench.cuda_run --folder results`: the full-size 1.0 networks on one NVIDIA GPU, in under 8 minutes.

Random weights of the released shapes (keyframes 4.14, interpolation 3.87 billion parameters) are drawn, exported and
optimised for CUDA, the parts side by side; then PyTorch eager and torch.compile in float16, the plain and the optimised
graph take turns at each stage at 512 px. Every part leaves its own JSON at once: stopped with Ctrl-C or out of time,
the same command goes on with what is missing. `--scale tiny --provider cpu` is the same program on any machine.
"""

from __future__ import annotations

import math
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bench.contenders.full_size import SHAPES
from bench.contenders.words import stage_plot
from bench.cuda.jobs import carry_out, gpu_name, jobs_of, kept, summary_of
from bench.cuda.table import table
from bench.harness import program
from bench.harness.program import Program, Result, check_counts
from bench.harness.record import ROOT, BenchError, version
from ffrt import ProviderError, open_bundle
from ffrt.backend.providers import choose_provider

PARTS = ("keyframes", "interpolation", "decode")
COMPILED = {"full": PARTS, "tiny": ("decode",)}
"""What torch.compile gets at each scale: one part is enough for a dry run, where it takes a minute per network."""
NEEDED_GB = 40
"""Room for the bundles of the full scale."""
DRY_RUN = "python -m bench.cuda_run --scale tiny --provider cpu --folder FOLDER is a dry run on the CPU"


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--scale", choices=SHAPES, default="full", help="released size or tiny networks (full)")
    line.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (everything)")
    line.add_argument("--no-compile", action="store_true", help="without torch.compile, which comes last")
    line.add_argument("--minutes", type=float, default=8.0, help="no torch.compile is begun that would end later (8)")
    line.add_argument("--runs", type=int, default=3, help="rounds of every stage (3)")
    line.add_argument("--row", type=int, default=2, help="denoising steps timed in a row (2)")
    line.add_argument(
        "--models",
        type=Path,
        default=ROOT / "graphs" / "bundles",
        help=f"bundles are kept below it and used again; {NEEDED_GB} GB at the full scale (graphs/bundles)",
    )


def check(asked: Namespace) -> None:
    """Raise ProviderError where there is no GPU to run on, BenchError for what makes no sense."""
    check_counts(asked, "runs", "row")
    if asked.folder is None:
        raise BenchError("--folder: expected the folder of the parts and their summary, got none")
    if not (math.isfinite(asked.minutes) and asked.minutes > 0):
        raise BenchError(f"--minutes: expected more than 0, got {asked.minutes}")
    if asked.provider == "cpu":
        if asked.scale == "full":
            raise BenchError("--scale full would take hours on the CPU; type --scale tiny --provider cpu for a dry run")
    else:
        check_gpu()
    open_bundle(asked.bundle.resolve())


def check_gpu() -> None:
    """Raise ProviderError unless both ONNX Runtime and PyTorch can use an NVIDIA GPU."""
    try:
        choose_provider("cuda")
    except ProviderError as error:
        raise ProviderError(f"{error}; {DRY_RUN}") from error
    import torch

    if not torch.cuda.is_available():
        raise ProviderError(f"provider 'cuda': expected an NVIDIA GPU that PyTorch {version('torch')} sees; {DRY_RUN}")


def measure(asked: Namespace) -> Iterator[Result]:
    """Build and measure what is missing, then sum up. Status 0: everything is there; 1: something is missing."""
    models = asked.models.resolve() / f"cuda-{asked.scale}"
    jobs = jobs_of(asked.parts, () if asked.no_compile else COMPILED[asked.scale])
    missing = [job for job in jobs if not kept(asked.folder, job, asked.scale, asked.provider)]
    status = carry_out(asked, models, missing, time.perf_counter())
    record = summary_of(asked.folder, jobs, asked.scale, asked.provider)
    if status == 0 and record["missing"]:
        status = 1
    if record["scales"][asked.scale]["stages"]:
        around = {"torch": version("torch"), "gpu": gpu_name()}
        yield Result(record, partial(stage_plot, record), name="summary", environment=around, status=status)
    else:
        yield Result({}, status=status)


PROGRAM = Program(
    "cuda_run",
    __doc__,
    measure,
    table,
    arguments,
    check,
    provider="cuda",
    providers=("cuda", "cpu"),
    threads=False,
    matplotlib=True,
    free=lambda asked: frozenset({"models", "minutes"}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, measure, sum up. 0: everything is there; 1: something is missing; 2: not begun; 130: stopped."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
