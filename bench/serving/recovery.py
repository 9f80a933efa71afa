"""How soon a server is back after `kill -9` in the middle of a job: its own process, its worker, or both.

Seconds count from the kill; a killed server is started again at once. `answers`: the first answer of any route.
`ready`: a place has warmed up. `goes_on`: the job has finished a step again. `done`: its video is there.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness.program import target
from bench.harness.record import BenchError
from bench.harness.run import say
from bench.serving.cancel import spread
from bench.serving.processes import usage
from bench.serving.server import PATIENCE_S, Client, Server, environment, free_port, until
from bench.serving.sizes import Sizes

MOST_S = 1.0
WHOM = ("server", "worker", "both")
MARKS = ("answers", "ready", "goes_on", "done")


def recovery(sizes: Sizes) -> dict[str, Any]:
    """The measurement. Raises BenchError for a job that does not come to its end."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {}
        for whom in WHOM:
            say(f"recovery: kill -9 of {whom}")
            times = [one_kill(sizes, folder / f"{whom}-{number}", whom) for number in range(sizes.kills)]
            found[whom] = {mark: spread([time[mark] for time in times]) for mark in MARKS}
        say("recovery: the parts of a start")
        parts = start_parts(sizes, folder / "parts")
    answers = found["server"]["answers"]
    assert answers is not None
    return {
        "killed": found,
        "start": parts,
        "targets": [target("kill -9 to the first answer", answers["median"], MOST_S, least=False, unit="s")],
    }


def one_kill(sizes: Sizes, data: Path, whom: str) -> dict[str, float]:
    """Kill once, in the first half of a job, and follow the job to its end."""
    port = free_port()
    server = Server(sizes.bundle, data, sizes.threads, port)
    try:
        server.until_ready()
        with server.client() as client:
            id = client.create(sizes.fields(0))
            until(lambda: after_keyframes(client.video(id)), "the middle of the job", 0.02)
        worker = server.worker()
        if worker is None:
            raise BenchError("recovery: expected a worker, got none")
        began_s = time.perf_counter()
        if whom != "server":
            os.kill(worker, signal.SIGKILL)
        if whom != "worker":
            server.kill()
            server = Server(sizes.bundle, data, sizes.threads, port)
        else:
            until(lambda: server.worker() != worker, "the end of the worker")
        return followed(server, id, worker, began_s)
    finally:
        server.kill()


def after_keyframes(video: dict[str, Any]) -> bool:
    """Whether a job has left its first long stage, so that there is a checkpoint to go on from."""
    if video["status"] in ("completed", "failed"):
        raise BenchError("recovery: the job ended before it was to be killed; give it more steps")
    return video["stage"] not in (None, "text", "keyframes")


def followed(server: Server, id: str, killed: int, began_s: float) -> dict[str, float]:
    """When each of `MARKS` came, in seconds from `began_s`; `killed` is the worker that there was."""
    times: dict[str, float] = {}

    def mark(name: str) -> None:
        times.setdefault(name, time.perf_counter() - began_s)

    with server.client() as client:
        until(lambda: answered(client), "an answer")
        mark("answers")
        before: dict[str, Any] | None = None
        ends_s = time.monotonic() + PATIENCE_S
        while "done" not in times:
            if time.monotonic() > ends_s:
                raise BenchError("recovery: the job did not come to its end")
            new = "ready" not in times and server.worker() not in (None, killed)
            if new and client.ask("GET", "/health/ready").status == 200:
                mark("ready")
            video = client.video(id)
            if video["attempt"] > 1 and video["step"] and (before is None or before["step"] != video["step"]):
                mark("goes_on")
            if video["status"] == "completed":
                mark("ready")
                mark("goes_on")
                mark("done")
            elif video["status"] == "failed":
                raise BenchError(f"recovery: expected a completed video, got {video['error']}")
            before = video
            time.sleep(0.005)
    return times


def answered(client: Client) -> bool:
    """Whether the server answers at all."""
    try:
        return client.ask("GET", "/health").status == 200
    except (OSError, http.client.HTTPException):
        return False


def start_parts(sizes: Sizes, data: Path) -> dict[str, Any]:
    """The parts of a start, medians of processes that do only so much, each within the next one."""

    def imports(modules: str) -> Callable[[], float]:
        def once() -> float:
            began_s = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {modules}"], env=environment(), check=True)
            return time.perf_counter() - began_s

        return once

    def whole() -> dict[str, float]:
        server = Server(sizes.bundle, data, sizes.threads, free_port())
        try:
            with server.client() as client:
                until(lambda: answered(client), "an answer")
                answers_s = time.perf_counter() - server.spawned_s
                spent = usage(server.process.pid)
                spent_s = 0.0 if spent is None else spent.cpu_s
                server.until_ready()
                return {
                    "listens": server.told_s - server.spawned_s,
                    "answers": answers_s,
                    "processor": spent_s,
                    "ready": time.perf_counter() - server.spawned_s,
                }
        finally:
            server.kill(signal.SIGINT)

    parts = {"python": "sys", "ffrt": "ffrt", "fastapi": "fastapi, uvicorn", "imports": "ffrt.serve.server"}
    found: dict[str, list[float]] = {name: [] for name in (*parts, "listens", "answers", "processor", "ready")}
    for _ in range(sizes.kills):
        for name, modules in parts.items():
            found[name].append(imports(modules)())
        for name, seconds in whole().items():
            found[name].append(seconds)
    return {name: spread(seconds) for name, seconds in found.items()}
