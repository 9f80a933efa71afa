"""Clients by the hundred, in a process of its own: pollers and readers of events over raw sockets.

They do as little work for each request as possible, so that what is measured is the server. `python -m
bench.serving.generator` says that it is ready, reads one line of JSON, a `Load`, from stdin, asks until stdin is
closed, and prints one line of JSON. It imports nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
AFTER = re.compile(rb"\r\nopenai-poll-after-ms: (\d+)", re.IGNORECASE)
EVENT = re.compile(rb"event: (\w+)\r?\nid: (\d+)")
ENDED = (b'"status":"completed"', b'"status":"failed"')
LAST = ("completed", "failed", "shutdown")
ROUTES = ("status", "list", "health")


@dataclass(frozen=True)
class Load:
    """Who asks: `videos` are pairs of a key, or None, and an id; `wait` obeys the server's word when to ask again."""

    port: int
    videos: Sequence[tuple[str | None, str]]
    pollers: int
    streams: int = 0
    wait: bool = False
    route: str = "status"
    spread_s: float = 5.0
    """Over which pollers that wait come in, the first one at once: the longest pause that they are told."""


@dataclass(frozen=True)
class Seen:
    """What came back, filled while it comes.

    Seconds of every answer, and of every event from the change that it tells to its arrival.
    """

    answers_s: list[float] = field(default_factory=list)
    events_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    ended: set[str] = field(default_factory=set)


def request(load: Load, key: str | None, path: str) -> bytes:
    """The bytes of a GET."""
    asker = "" if key is None else f"authorization: Bearer {key}\r\n"
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{load.port}\r\n{asker}\r\n".encode()


def path_of(route: str, id: str) -> str:
    """What is asked for."""
    return {"status": f"/v1/videos/{id}", "list": "/v1/videos?limit=20", "health": "/health"}[route]


def next_video(load: Load, seen: Seen, start: int, key: str | None = None) -> int | None:
    """The number of the first video from `start` on that has not ended, of `key` if one is given."""
    for step in range(len(load.videos)):
        number = (start + step) % len(load.videos)
        own, id = load.videos[number]
        if id not in seen.ended and (key is None or own == key):
            return number
    return None


async def poll(load: Load, seen: Seen, number: int, stop: asyncio.Event) -> None:
    """One connection that asks for one video again and again, and for the next one when it has ended."""
    if load.wait:  # clients do not come at the same moment, and those that obey would stay together
        await paused(stop, load.spread_s * number / load.pollers)
    reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
    number %= len(load.videos)
    try:
        while not stop.is_set():
            key, id = load.videos[number]
            began_s = time.perf_counter()
            writer.write(request(load, key, path_of(load.route, id)))
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = b"" if length is None else await reader.readexactly(int(length[1]))
            seen.answers_s.append(time.perf_counter() - began_s)
            seen.statuses[head[9:12].decode()] += 1
            after = AFTER.search(head)
            if after is not None and any(word in body for word in ENDED):
                seen.ended.add(id)
                following = next_video(load, seen, number + 1)
                number = number if following is None else following
            if load.wait:
                await paused(stop, 1.0 if after is None else int(after[1]) / 1000)
    except (OSError, asyncio.IncompleteReadError):
        seen.statuses["lost"] += 1
    finally:
        writer.close()


async def listen(load: Load, seen: Seen, number: int, stop: asyncio.Event) -> None:
    """One reader of events, of one video after the other."""
    own = load.videos[number % len(load.videos)][0]
    start = next_video(load, seen, number, own)
    while not stop.is_set() and start is not None:
        key, id = load.videos[start]
        reader, writer = await asyncio.open_connection("127.0.0.1", load.port)
        writer.write(request(load, key, f"/v1/videos/{id}/events"))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head[9:12] != b"200":
                seen.statuses[f"stream {head[9:12].decode()}"] += 1
                return
            await hear(reader, seen, id)
        except (OSError, asyncio.IncompleteReadError):
            seen.statuses["stream lost"] += 1
            return
        finally:
            writer.close()
        start = next_video(load, seen, start, own)


async def hear(reader: asyncio.StreamReader, seen: Seen, id: str) -> None:
    """Read one stream to its end. The first event tells what was before, so it has no delay."""
    first, rest = True, b""
    while raw := await reader.read(65536):
        rest += raw
        *whole, rest = rest.split(b"\n\n")
        for block in whole:
            event = EVENT.search(block)
            if event is None:
                continue
            name = event[1].decode()
            seen.events[name] += 1
            if not first and name != "preview":
                seen.events_s.append(max(0.0, time.time() - int(event[2]) / 1000))
            first = False
            if name in LAST:
                seen.ended.add(id)
                return


async def paused(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but not longer than the load lasts."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def run(load: Load, stop: asyncio.Event) -> dict[str, Any]:
    """The load from start to stop, and what was seen."""
    seen = Seen()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    tasks = [asyncio.create_task(listen(load, seen, number, stop)) for number in range(load.streams)]
    tasks += [asyncio.create_task(poll(load, seen, number, stop)) for number in range(load.pollers)]
    await stop.wait()
    wall_s, own_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    faults = [repr(end) for end in ends if isinstance(end, Exception)]
    return {
        "seconds": wall_s,
        "cpu": own_s / wall_s,
        "answers": len(seen.answers_s),
        "per_s": len(seen.answers_s) / wall_s,
        "answers_ms": quantiles(seen.answers_s),
        "events_ms": quantiles(seen.events_s),
        "statuses": dict(seen.statuses),
        "events": dict(seen.events),
        "faults": faults[:5],
    }


def quantiles(seconds: list[float]) -> dict[str, float] | None:
    """Milliseconds at each of `QUANTILES`, named p0 to p100; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return {f"p{100 * q:g}": 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in QUANTILES}


async def main() -> None:
    """Read the load, run it until stdin ends, print what was seen."""
    print("ready", flush=True)
    asked = json.loads(sys.stdin.readline())
    asked["videos"] = [(key, id) for key, id in asked["videos"]]
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def heard() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), heard)
    print(json.dumps(await run(Load(**asked), stop)))


if __name__ == "__main__":
    asyncio.run(main())
