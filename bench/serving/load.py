"""Many clients while videos are made: how fast the server answers, and how much the videos are slowed.

Each row queues the same videos, with others that wait behind them, lets clients ask until the first ones are made, and
takes the rest back. The seconds of the videos are those of the table of jobs, and are held against those of two rows
without clients, at the beginning and at the end.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.harness.program import target
from bench.harness.record import BenchError
from bench.harness.run import say
from bench.serving.generator import Load
from bench.serving.processes import usage
from bench.serving.server import Server, environment, made_keys, serving, until
from bench.serving.sizes import Sizes

MOST_VIDEOS = 60
"""In the queue, which takes 64."""
KEYS = 8
"""Of 16 jobs and 8 streams each; a server bears 64 of either, and 256 requests at a time."""
MOST_MS = 50.0
QUIET = "nobody asks"
TOLD = "pollers, as told, and streams"


@dataclass(frozen=True)
class Clients:
    """One row: who asks, and what for."""

    words: str
    pollers: int = 0
    wait: bool = False
    streams: int = 0
    route: str = "status"


def rows_of(sizes: Sizes) -> list[Clients]:
    """What is measured, in this order."""
    many, streams = sizes.pollers, sizes.streams
    return [
        Clients(QUIET),
        Clients("1 poller, as told", 1, wait=True),
        Clients(f"{many} {TOLD.replace('streams', f'{streams} streams')}", many, wait=True, streams=streams),
        Clients(f"{many} pollers without a pause, and {streams} streams", many, streams=streams),
        *(Clients(f"{count} without a pause", count) for count in (1, 8, 64)),
        Clients("8 without a pause, lists of 20", 8, route="list"),
        Clients("8 without a pause, /health", 8, route="health"),
        Clients(QUIET),
    ]


def load(sizes: Sizes) -> dict[str, Any]:
    """The measurement. Raises BenchError where an answer is no 200."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys, flags = made_keys(folder, KEYS)
        server = stack.enter_context(serving(sizes.bundle, folder, sizes.threads, flags))
        count = 1
        for _ in range(2):  # the first one also opens graphs
            count = enough(sizes, made(server, keys, sizes, 1, Clients("warm-up"))["videos_s"])
        found = []
        for clients in rows_of(sizes):
            say(f"load: {clients.words}")
            found.append(made(server, keys, sizes, count, clients))
    quiet_s = statistics.mean(row["videos_s"] for row in found if row["clients"] == QUIET)
    for row in found:
        row["slower"] = row["videos_s"] / quiet_s
    told = found[2]
    return {
        "videos": count,
        "waiting": sizes.waiting,
        "keys": KEYS,
        "rows": found,
        "targets": [
            target("99 of 100 status polls", told["answers_ms"]["p99"], MOST_MS, least=False, unit="ms"),
        ],
    }


def enough(sizes: Sizes, video_s: float) -> int:
    """How many videos a load lasts for, within what the queue takes."""
    return min(MOST_VIDEOS - sizes.waiting, max(sizes.loaded, math.ceil(sizes.window_s / max(video_s, 1e-3))))


def made(server: Server, keys: Sequence[str], sizes: Sizes, count: int, clients: Clients) -> dict[str, Any]:
    """One row: queue, ask until the first `count` videos are made, and take the others back."""
    with contextlib.ExitStack() as stack:
        askers = [stack.enter_context(server.client(key)) for key in keys]
        crowd = stack.enter_context(Crowd()) if clients.pollers else None
        total = count + sizes.waiting
        videos: list[tuple[str | None, str]] = []
        for number in range(total):
            id = askers[number % KEYS].create(sizes.fields(number % count))
            videos.append((keys[number % KEYS], id))
        for asker in askers:  # every open connection counts among the server's 256
            asker.close()
        mine = [id for _, id in videos[:count]]
        until(lambda: server.rows(mine)[0]["state"] != "queued", "the first video to begin")
        before = used(server)
        if crowd is not None:
            crowd.begin(Load(server.port, videos, clients.pollers, clients.streams, clients.wait, clients.route))
        until_made(server, mine)
        seen = {} if crowd is None else crowd.end()
        after, rows = used(server), server.rows(mine)
        for number in reversed(range(total)):  # from the end of the queue, so that none of them begins
            askers[number % KEYS].ask("DELETE", f"/v1/videos/{videos[number][1]}")
    if states := {row["state"] for row in rows} - {"completed"}:
        raise BenchError(f"load: expected completed videos, got {sorted(states)}")
    videos_s = max(row["completed_at"] for row in rows) - min(row["started_at"] for row in rows)
    spent = {name: (after[name] - before[name]) / videos_s for name in before}
    return {"clients": clients.words, **asdict(clients), "videos_s": videos_s, "processors": spent, **seen}


class Crowd:
    """The process that asks; started beforehand, so that its start is over when the load begins."""

    def __init__(self) -> None:
        line = [sys.executable, "-m", "bench.serving.generator"]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._out.readline()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *error: object) -> None:
        self._in.close()
        self._process.wait()
        self._out.close()

    def begin(self, load: Load) -> None:
        """Let the clients ask."""
        self._in.write(json.dumps(asdict(load)).encode() + b"\n")
        self._in.flush()

    def end(self) -> dict[str, Any]:
        """Stop them; what they saw. Raises BenchError for any answer but 200."""
        self._in.close()
        told = self._out.readline()
        if not told:
            raise BenchError(f"load: the clients ended with {self._process.wait()}")
        seen: dict[str, Any] = json.loads(told)
        if seen["faults"] or set(seen["statuses"]) - {"200"} or not seen["answers"]:
            raise BenchError(f"load: expected answers with 200 alone, got {seen['statuses']} {seen['faults']}")
        return seen


def until_made(server: Server, ids: Sequence[str]) -> None:
    """Wait for videos without asking the server."""
    until(lambda: all(row["state"] not in ("queued", "in_progress") for row in server.rows(ids)), "the videos", 0.05)


def used(server: Server) -> dict[str, float]:
    """Seconds of processor time of the server and of its worker."""
    pids = {"server": server.process.pid, "worker": server.worker()}
    found = {name: None if pid is None else usage(pid) for name, pid in pids.items()}
    return {name: 0.0 if one is None else one.cpu_s for name, one in found.items()}
