"""A server under traffic of every kind for two hours: whether it holds its memory, files, threads and disk.

The first part is warm-up. What grows is judged by a line through the samples after it, as in `bench.serving.growth`. A
process that was replaced is counted as a restart.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.harness.program import target
from bench.harness.record import BenchError
from bench.harness.run import say
from bench.serving.growth import grown
from bench.serving.processes import bytes_below, usage
from bench.serving.server import Server, serving
from bench.serving.sizes import Sizes
from bench.serving.traffic import Traffic

WARM_UP = 0.25
"""Of the time."""
MOST_PERCENT = 2.0
SAY_EVERY_S = 300.0
PROCESSES = ("server", "worker")
VALUES = ("own", "rss", "files", "threads")


def soak(sizes: Sizes) -> dict[str, Any]:
    """The measurement. Raises BenchError if a process ends, or the server answers what it must not."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        flags = ["--max-disk", "0.05", "--max-steps", "100"]
        server = stack.enter_context(serving(sizes.bundle, folder, sizes.threads, flags))
        say(f"soak: {sizes.soak_s / 60:.1f} minutes")
        traffic = Traffic(server, sizes)
        try:
            samples = sampled(server, traffic, sizes.soak_s, sizes.sample_s)
        finally:
            traffic.close()
        with server.client() as client:
            places = client.ask("GET", "/metrics").body.decode()
    restarts = sum(
        float(line.split()[-1]) for line in places.splitlines() if line.startswith("ffrt_place_restarts_total")
    )
    growth = {
        name: {value: grown(samples, name, value, WARM_UP * samples[-1]["at_s"]) for value in VALUES}
        for name in PROCESSES
    }
    return {
        "minutes": sizes.soak_s / 60,
        "sample_s": sizes.sample_s,
        "did": dict(traffic.done),
        "restarts": restarts,
        "growth": growth,
        "disk": {"first": samples[0]["disk"], "largest": max(one["disk"] for one in samples)},
        "samples": thinned(samples),
        "targets": [one for name in PROCESSES for one in targets_of(name, growth[name]["own"])],
    }


def targets_of(name: str, own: Mapping[str, float]) -> list[dict[str, Any]]:
    """Whether a process's own memory grows beyond the interval of its slope, and by how much, first to last quarter."""
    percent = 100 * (own["last_quarter"] / own["first_quarter"] - 1)
    noise = own["per_hour"] / own["noise_per_hour"]
    return [
        target(f"slope of the {name}'s own memory, over its 95 % interval", noise, 1.0, least=False),
        target(f"own memory of the {name}, last over first quarter", percent, MOST_PERCENT, least=False, unit="%"),
    ]


def sampled(server: Server, traffic: Traffic, seconds: float, every_s: float) -> list[dict[str, Any]]:
    """What both processes take, every so often."""
    samples: list[dict[str, Any]] = []
    began_s = said_s = time.monotonic()
    while (now_s := time.monotonic()) - began_s < seconds:
        traffic.check()
        pids = {"server": server.process.pid, "worker": server.worker()}
        found = {name: None if pid is None else usage(pid) for name, pid in pids.items()}
        one: dict[str, Any] = {"at_s": now_s - began_s, "disk": bytes_below(server.data)}
        for name, seen in found.items():
            if seen is None:
                raise BenchError(f"soak: expected a {name}, got none after {now_s - began_s:.0f} s")
            one[name] = {**asdict(seen), "pid": pids[name]}
        samples.append(one)
        if now_s - said_s > SAY_EVERY_S:
            said_s = now_s
            say(f"soak: {one['at_s'] / 60:.0f} min, {one['server']['own'] / 1e6:.1f} MB, {dict(traffic.done)}")
        time.sleep(every_s)
    return samples


def thinned(samples: list[dict[str, Any]], most: int = 240) -> list[dict[str, Any]]:
    """At most so many samples, evenly, for the plot."""
    step = -(-len(samples) // most)
    return samples[::step]
