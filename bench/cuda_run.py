"""`python -m bench.cuda_run --folder results`: the full-size 1.0 networks on one NVIDIA GPU, in under 8 minutes.

Random weights of the released shapes (keyframes 4.14, interpolation 3.87 billion parameters) are made, exported and
optimised for CUDA, the parts side by side; then PyTorch eager and torch.compile in float16, the plain and the optimised
graph take turns at each stage at 512 px. Every part leaves its own JSON at once: stopped with Ctrl-C or out of time,
the same command goes on with what is missing. `--scale tiny --provider cpu` is the same program on any machine.
"""

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.run import ROOT, child, environment, version, write_json
from ffrt import FfrtError, ProviderError, open_bundle
from ffrt.backend.session import check_provider

PARTS = ("keyframes", "interpolation", "decode")
SCALES = ("full", "tiny")
BUILD = "from bench.contenders.full_size import build\nbuild(argument)\n"
MEASURE = "from bench.cuda.stage import measure\nresult['record'] = measure(argument)\n"
COMPILED = {"full": PARTS, "tiny": ("decode",)}
"""What torch.compile gets at each scale: one part will do for a dry run, where it takes a minute for each network."""
EXPECTED_S = {"build": 260.0, "measure": 40.0, "compiled": 100.0}
"""What each job takes at the full scale, for the time left; corrected by what the jobs before really took."""
TARGET = 2.0
NEEDED_GB = 40
"""Room for the bundles of the full scale."""


@dataclass(frozen=True)
class Job:
    """One measurement and the file that keeps it."""

    part: str
    compiled: bool

    @property
    def name(self) -> str:
        return f"{self.part}_compiled" if self.compiled else self.part


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m bench.cuda_run", description=__doc__.splitlines()[0])
    line.add_argument("--folder", type=Path, required=True, help="the JSON files go here, those of a run before stay")
    line.add_argument("--scale", choices=SCALES, default="full", help="released size or tiny networks (full)")
    line.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="cpu is for --scale tiny (cuda)")
    line.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (everything)")
    line.add_argument("--no-compile", action="store_true", help="without torch.compile, which comes last")
    line.add_argument("--minutes", type=float, default=8.0, help="no torch.compile is begun that would end later (8)")
    line.add_argument("--runs", type=int, default=3, help="rounds of every stage (3)")
    line.add_argument("--row", type=int, default=2, help="denoising steps timed in a row (2)")
    line.add_argument("--bundle", type=Path, default=ROOT / "graphs" / "demo", help="the demo's folder (graphs/demo)")
    line.add_argument(
        "--models",
        type=Path,
        default=ROOT / "graphs" / "bundles",
        help=f"bundles are kept below it and used again; {NEEDED_GB} GB at the full scale (graphs/bundles)",
    )
    return line


def check(asked: argparse.Namespace) -> None:
    """Raises ProviderError where there is no GPU to run on, ValueError for what makes no sense."""
    for name in ("runs", "row"):
        if vars(asked)[name] < 1:
            raise ValueError(f"--{name}: expected 1 or more, got {vars(asked)[name]}")
    if not (math.isfinite(asked.minutes) and asked.minutes > 0):
        raise ValueError(f"--minutes: expected more than 0, got {asked.minutes}")
    if asked.provider == "cpu":
        if asked.scale == "full":
            raise ValueError("--scale full would take hours on the CPU; type --scale tiny --provider cpu for a dry run")
        return
    dry = "python -m bench.cuda_run --scale tiny --provider cpu --folder FOLDER is a dry run on the CPU"
    try:
        check_provider("cuda")
    except ProviderError as error:
        raise ProviderError(f"{error}; {dry}") from error
    import torch

    if not torch.cuda.is_available():
        raise ProviderError(f"provider 'cuda': expected an NVIDIA GPU that PyTorch {version('torch')} sees; {dry}")


def jobs_of(parts: Sequence[str], compiled: Sequence[str]) -> list[Job]:
    """What is to be measured, in this order: torch.compile last, since it takes longest and is asked for least."""
    return [*(Job(part, False) for part in parts), *(Job(part, True) for part in parts if part in compiled)]


def kept(folder: Path, job: Job, scale: str, provider: str) -> bool:
    """Whether a job is done: its file is there, of the same scale and provider, and every contender ran."""
    try:
        found = json.loads((folder / f"{job.name}.json").read_text())
        return bool(found["scale"] == scale and found["provider"] == provider and not found["failed"])
    except (OSError, ValueError, KeyError):
        return False


def time_left(left: Sequence[str], done: Sequence[tuple[str, float]]) -> float:
    """Seconds that jobs of these kinds will take, by `EXPECTED_S` and by what jobs of (kind, seconds) took."""
    expected = sum(EXPECTED_S[kind] for kind, _ in done)
    pace = sum(seconds for _, seconds in done) / expected if expected else 1.0
    return pace * sum(EXPECTED_S[kind] for kind in left)


def kind_of(job: Job) -> str:
    return "compiled" if job.compiled else "measure"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def build(asked: argparse.Namespace, models: Path, parts: Sequence[str]) -> None:
    """The bundles of all parts, side by side, each in a process of its own. Raises RuntimeError where one fails."""
    argument = {
        "scale": asked.scale,
        "folder": str(models),
        "demo": str(asked.bundle.resolve()),
        "provider": asked.provider,
    }
    with ThreadPoolExecutor(len(parts)) as pool:
        made = {part: pool.submit(child, BUILD, {**argument, "part": part}, True) for part in parts}
        for part, job in made.items():
            say(f"{part}: bundles there after {job.result()['seconds']:.0f} s")


def measured_jobs(asked: argparse.Namespace, models: Path, jobs: Sequence[Job], began: float) -> Iterator[Job]:
    """Measure what is missing, job by job, each kept before it is yielded. Raises RuntimeError where one fails."""
    done: list[tuple[str, float]] = []
    for index, job in enumerate(jobs):
        left = [kind_of(one) for one in jobs[index:]]
        spent = time.perf_counter() - began
        if job.compiled and spent + time_left(left[:1], done) > 60 * asked.minutes:
            say(f"{job.name} left out: {asked.minutes:g} minutes are over before it would end; call again to go on")
            return
        say(f"{job.name}: {index + 1} of {len(jobs)}, {spent:.0f} s so far, {time_left(left, done):.0f} s left")
        argument = {
            "part": job.part,
            "scale": asked.scale,
            "folder": str(models),
            "provider": asked.provider,
            "compiled": job.compiled,
            "runs": asked.runs,
            "row": asked.row,
        }
        made = child(MEASURE, argument, show=True)
        record = {"scale": asked.scale, "provider": asked.provider, **made["record"], "wall_s": made["seconds"]}
        write_json(asked.folder / f"{job.name}.json", record)
        done.append((kind_of(job), made["seconds"]))
        for name, error in record["failed"].items():
            say(f"{job.name}: {name} did not run: {error}")
        yield job


def summary_of(
    folder: Path, jobs: Sequence[Job], around: Mapping[str, Any], scale: str, provider: str
) -> dict[str, Any]:
    """One record of all parts that are there: every stage's contenders, eager over each, targets."""
    stages: dict[str, Any] = {}
    missing = []
    overheads = []
    rate = 0.0
    for job in jobs:
        if not kept(folder, job, scale, provider):
            missing.append(job.name)
            if not (folder / f"{job.name}.json").is_file():
                continue
        found = json.loads((folder / f"{job.name}.json").read_text())
        rows = stages.setdefault(found["stage"], {"contenders": {}, "ratios": {}})
        rows["contenders"] = {**found["contenders"], **rows["contenders"]}  # eager of the run with the graphs
        rows["ratios"] |= found["ratios"]
        rate = max(rate, found["product_flops_per_s"])
        if "host_overhead" in found:
            overheads.append(found["host_overhead"])
    ratios = {
        stage: rows["ratios"]["optimised"]["median"] for stage, rows in stages.items() if "optimised" in rows["ratios"]
    }
    return {
        "bench": "cuda_run",
        "whole": not missing and scale == "full",
        "environment": {**around, "torch": version("torch"), "gpu": gpu_name()},
        "product_flops_per_s": rate,
        "scales": {scale: {"stages": stages}},
        "missing": missing,
        "ratios": ratios,
        "host_overhead": max(overheads) if overheads else None,
        "targets": [
            {"name": name, "measured": ratio, "target": TARGET, "met": ratio >= TARGET}
            for name, ratio in ratios.items()
        ],
    }


def gpu_name() -> str | None:
    """The first GPU as its driver calls it."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return said if said else None


def carry_out(asked: argparse.Namespace, models: Path, missing: Sequence[Job], began: float) -> int:
    """Build and measure what is missing. 0: all that there was time for; 1: something failed; 130: stopped by Ctrl-C or
    by a termination signal.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if missing:
            minutes = time_left(["build", *map(kind_of, missing)], []) / 60
            say(f"building the bundles of {', '.join(asked.parts)}; about {minutes:.0f} minutes at the full scale")
            build(asked, models, list(dict.fromkeys(job.part for job in missing)))
        for job in measured_jobs(asked, models, missing, began):
            say(f"{job.name}: kept in {job.name}.json")
    except RuntimeError as error:
        say(f"stopped: {error}; what was measured is kept, the same command goes on")
        return 1
    except KeyboardInterrupt:
        say("stopped; what was measured is kept, the same command goes on")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, measure, sum up. 0: everything is there; 1: something is missing; 2: not begun; 130: stopped."""
    from bench.cuda.table import plot, table
    from bench.harness.pictures import write_png

    asked = parser().parse_args(arguments)
    began = time.perf_counter()
    try:
        check(asked)
        open_bundle(asked.bundle.resolve())
    except (FfrtError, ValueError) as error:
        print(f"nothing measured: {error}", file=sys.stderr)
        return 2
    models = asked.models.resolve() / f"cuda-{asked.scale}"
    jobs = jobs_of(asked.parts, () if asked.no_compile else COMPILED[asked.scale])
    missing = [job for job in jobs if not kept(asked.folder, job, asked.scale, asked.provider)]
    status = carry_out(asked, models, missing, began)
    around = environment(asked.bundle.resolve(), asked.provider, None)
    record = summary_of(asked.folder, jobs, around, asked.scale, asked.provider)
    if record["scales"][asked.scale]["stages"]:
        write_json(asked.folder / "summary.json", record)
        write_png(asked.folder / "summary.png", plot(record))
        print(table(record))
    return status if status or not record["missing"] else 1


if __name__ == "__main__":
    sys.exit(main())
