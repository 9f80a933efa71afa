"""A server under traffic of every kind for two hours: whether it holds its memory, files, threads and disk.

The first part is warm-up. What grows is judged by a line through the samples after it; samples follow one another, so
the line's interval comes from means over pieces of the time. A process that was replaced is counted as a restart.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.program import target
from bench.harness.record import BenchError
from bench.harness.run import say
from bench.serving.processes import bytes_below, usage
from bench.serving.server import Server, serving
from bench.serving.sizes import Sizes
from bench.serving.traffic import Traffic

WARM_UP = 0.25
"""Of the time."""
MOST_PERCENT = 2.0
PIECES = 20
Z = 2.1
"""Of Student's distribution for so many pieces, 95 %."""
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
    growth = {name: {value: grown(samples, name, value) for value in VALUES} for name in PROCESSES}
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


def grown(samples: list[dict[str, Any]], name: str, value: str) -> dict[str, float]:
    """How one number of a process changed after warm-up: its slope, and the first and the last quarter."""
    times = np.array([one["at_s"] for one in samples])
    values = np.array([one[name][value] for one in samples], np.float64)
    kept = times >= WARM_UP * times[-1]
    slope, half = line(times[kept], values[kept])
    quarters = np.array_split(values[kept], 4)
    return {
        "per_hour": 3600 * slope,
        "noise_per_hour": 3600 * half,
        "first_quarter": float(quarters[0].mean()),
        "last_quarter": float(quarters[-1].mean()),
        "largest": float(values.max()),
    }


def line(times: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float]:
    """Slope of a line through the means of pieces, and the half-width of its 95 % interval.

    Raises BenchError for fewer than four samples.
    """
    count = min(PIECES, len(times) // 2)
    if count < 2:
        raise BenchError(f"soak: expected at least 4 samples after warm-up, got {len(times)}; give it more minutes")
    x = np.array([piece.mean() for piece in np.array_split(times, count)])
    y = np.array([piece.mean() for piece in np.array_split(values, count)])
    x0 = x - x.mean()
    slope = float(x0 @ y / (x0 @ x0))
    rest = y - y.mean() - slope * x0
    error = float(np.sqrt(rest @ rest / max(1, count - 2) / (x0 @ x0)))
    least = float(np.ptp(times)) ** -1  # one byte, file or thread over the whole time is no growth
    return slope, max(Z * error, least)


def thinned(samples: list[dict[str, Any]], most: int = 240) -> list[dict[str, Any]]:
    """At most so many samples, evenly, for the plot."""
    step = -(-len(samples) // most)
    return samples[::step]
