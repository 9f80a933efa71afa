"""How soon a place is free after `POST /cancel`, at every point of a job: the next job has begun by then.

A job is watched by polling without a pause until it is at the point, then it is cancelled. Behind it waits another one,
whose row says when it began; that one is the next to be cancelled. A job that came to its end first is counted as late.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness.program import target
from bench.harness.record import BenchError
from bench.harness.run import say
from bench.serving.server import Client, Server, serving, until
from bench.serving.sizes import Sizes

MOST_S = 1.0
MORE_TRIES = 2
"""For one that was cancelled too late, so many times as often as it is repeated."""
Video = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """Where a job is cancelled: once `at` holds, and `steps` of a step later."""

    words: str
    at: Callable[[Video], bool]
    steps: float = 0.0


def in_stage(video: Video, stage: str) -> bool:
    """Whether a job runs in a stage, with at least two steps done and one to come."""
    return bool(video["stage"] == stage and 2 <= video["step"] < video["steps"])


def at_end(video: Video, stage: str) -> bool:
    """Whether the last step of a stage is done, and no step of the next one."""
    return bool(video["stage"] == stage and video["step"] == video["steps"])


def before_steps(video: Video) -> bool:
    """Whether a job was begun and has not denoised yet."""
    return bool(video["state"] == "in_progress" and video["stage"] in (None, "text"))


POINTS = (
    Point("before the first step", before_steps),
    Point("in a step", lambda video: in_stage(video, "keyframes"), 0.5),
    Point("between two steps", lambda video: in_stage(video, "keyframes")),
    Point("between two stages", lambda video: at_end(video, "keyframes")),
    Point("while frames are decoded and written", lambda video: in_stage(video, "decoding"), 0.5),
    Point("after the last frame", lambda video: at_end(video, "decoding")),
)
QUEUED = "in the queue"


def cancels(sizes: Sizes) -> dict[str, Any]:
    """The measurement. Raises BenchError for a cancelled job that goes on, or a point that is never met."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(serving(sizes.bundle, folder, sizes.threads))
        client = stack.enter_context(server.client())
        first = client.create(sizes.fields(0))
        say(f"cancel: {QUEUED}")
        found = {QUEUED: of_queued(client, sizes)}
        for point in POINTS:
            say(f"cancel: {point.words}")
            first, found[point.words] = of_running(server, client, first, point, sizes)
    frees = [row["free_s"]["max"] for row in found.values() if row["free_s"] is not None]
    if not frees:
        raise BenchError("cancel: expected a job to be met at some point, got none; give it more steps")
    return {
        "points": found,
        "targets": [target("place free", max(frees), MOST_S, least=False, unit="s")],
    }


def of_queued(client: Client, sizes: Sizes) -> dict[str, Any]:
    """Jobs that wait behind one that runs."""
    answers_s = []
    for number in range(sizes.cancels):
        id = client.create(sizes.fields(number))
        began_s = time.perf_counter()
        state = client.ask("POST", f"/v1/videos/{id}/cancel").json["state"]
        answers_s.append(time.perf_counter() - began_s)
        if state != "cancelled":
            raise BenchError(f"cancel: expected a cancelled job, got {state!r}")
    return row_of(answers_s, [], 0)


def of_running(server: Server, client: Client, first: str, point: Point, sizes: Sizes) -> tuple[str, dict[str, Any]]:
    """Jobs at one point; and the job that runs now."""
    answers_s: list[float] = []
    frees_s: list[float] = []
    late = 0
    while len(frees_s) < sizes.cancels and late < MORE_TRIES * sizes.cancels:
        following = client.create(sizes.fields(len(frees_s)))
        if until_at(client, first, point):
            asked_s, began_s = time.time(), time.perf_counter()
            state = client.ask("POST", f"/v1/videos/{first}/cancel").json["state"]
            took_s = time.perf_counter() - began_s
        else:
            state = "completed"
        until(partial(has_begun, server, following), "the next job to begin")
        if state == "cancelled":
            answers_s.append(took_s)
            frees_s.append(max(0.0, server.rows([following])[0]["started_at"] - asked_s))
        elif state == "completed":
            late += 1
        else:
            raise BenchError(f"cancel, {point.words}: expected a cancelled job, got {state!r}")
        first = following
    return first, row_of(answers_s, frees_s, late)


def has_begun(server: Server, id: str) -> bool:
    """Whether a job was ever begun."""
    return server.rows([id])[0]["started_at"] is not None


def until_at(client: Client, id: str, point: Point) -> bool:
    """Wait until a job is at a point; False if it has passed it."""
    seen: list[tuple[int, float]] = []  # steps done, and when that was seen
    while True:
        video = client.video(id)
        if video["status"] in ("completed", "failed"):
            return False
        done = (video["step"], time.perf_counter())
        if video["state"] == "in_progress" and video["step"] and (not seen or seen[-1][0] != done[0]):
            seen.append(done)
        if point.at(video):
            if point.steps and len(seen) > 1:
                time.sleep(point.steps * (seen[-1][1] - seen[-2][1]) / max(1, seen[-1][0] - seen[-2][0]))
            return True


def row_of(answers_s: list[float], frees_s: list[float], late: int) -> dict[str, Any]:
    """Seconds to the answer and to the next job: median and largest, None of nothing."""
    return {"answer_s": spread(answers_s), "free_s": spread(frees_s), "late": late}


def spread(seconds: list[float]) -> dict[str, Any] | None:
    """Median, largest and how many; None of nothing."""
    if not seconds:
        return None
    return {"median": statistics.median(seconds), "max": max(seconds), "runs": len(seconds)}
