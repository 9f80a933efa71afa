"""The jobs of `bench.cuda_run`: what is measured in which order, what is kept of it, and the summary of all."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contenders.full_size import BUILD
from bench.harness.program import target
from bench.harness.record import write_json
from bench.harness.run import ChildError, child, say

MEASURE = "from bench.cuda.stage import measure\nresult['record'] = measure(argument)\n"
EXPECTED_S = {"build": 260.0, "measure": 40.0, "compiled": 100.0}
"""Seconds of each kind of job at the full scale, for the time left; corrected by those of the jobs before."""
TARGET = 2.0


@dataclass(frozen=True)
class Job:
    """One measurement and the file that keeps it."""

    part: str
    compiled: bool

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.part}_compiled" if self.compiled else self.part


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
    """The kind of a job, as in `EXPECTED_S`."""
    return "compiled" if job.compiled else "measure"


def build(asked: Namespace, models: Path, parts: Sequence[str]) -> None:
    """The bundles of all parts, side by side, each in a process of its own. Raises ChildError where one fails."""
    argument = {
        "scale": asked.scale,
        "folder": str(models),
        "demo": str(asked.bundle.resolve()),
        "provider": asked.provider,
    }
    with ThreadPoolExecutor(len(parts)) as pool:
        builds = {part: pool.submit(child, BUILD, {**argument, "part": part}, True) for part in parts}
        for part, job in builds.items():
            say(f"{part}: bundles built after {job.result()['seconds']:.0f} s")


def measured_jobs(asked: Namespace, models: Path, jobs: Sequence[Job], began: float) -> Iterator[Job]:
    """Measure what is missing, job by job; each is kept before it is yielded. Raises ChildError where one fails."""
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
        run = child(MEASURE, argument, show=True)
        record = {"scale": asked.scale, "provider": asked.provider, **run["record"], "wall_s": run["seconds"]}
        write_json(asked.folder / f"{job.name}.json", record)
        done.append((kind_of(job), run["seconds"]))
        for name, error in record["failed"].items():
            say(f"{job.name}: {name} did not run: {error}")
        yield job


def summary_of(folder: Path, jobs: Sequence[Job], scale: str, provider: str) -> dict[str, Any]:
    """One record of all parts that are kept: the contenders of every stage, PyTorch over each, targets."""
    stages: dict[str, Any] = {}
    missing = []
    overheads = []
    rate = 0.0
    for job in jobs:
        if not kept(folder, job, scale, provider):
            missing.append(job.name)
            if not (folder / f"{job.name}.json").is_file():
                continue
        found = json.loads((folder / f"{job.name}.json").read_text(encoding="utf-8"))
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
        "product_flops_per_s": rate,
        "scales": {scale: {"stages": stages}},
        "missing": missing,
        "ratios": ratios,
        "host_overhead": max(overheads) if overheads else None,
        "targets": [target(name, ratio, TARGET) for name, ratio in ratios.items()],
    }


def gpu_name() -> str | None:
    """The first GPU as its driver calls it."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    try:
        name = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return name if name else None


def carry_out(asked: Namespace, models: Path, missing: Sequence[Job], began: float) -> int:
    """Build and measure what is missing.

    0: all that there was time for; 1: something failed; 130: stopped by Ctrl-C or a termination signal.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if missing:
            minutes = time_left(["build", *map(kind_of, missing)], []) / 60
            say(f"building the bundles of {', '.join(asked.parts)}; about {minutes:.0f} minutes at the full scale")
            build(asked, models, list(dict.fromkeys(job.part for job in missing)))
        for job in measured_jobs(asked, models, missing, began):
            say(f"{job.name}: kept in {job.name}.json")
    except ChildError as error:
        say(f"stopped: {error}; what was measured is kept, the same command goes on")
        return 1
    except KeyboardInterrupt:
        say("stopped; what was measured is kept, the same command goes on")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
