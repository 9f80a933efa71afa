"""The official `openai` client against a real server: what it costs, and whether errors and repeats are as it expects.

Each case counts the requests that really left the client: those that it repeats by itself are among them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.program import target
from bench.harness.record import BenchError
from bench.harness.run import say, summary
from bench.serving.server import Server, made_keys, serving, until
from bench.serving.sizes import PROMPTS, Sizes


@dataclass(frozen=True)
class Case:
    """What is asked, the error that must come (None: none), its code, and the requests that may leave the client."""

    words: str
    call: Callable[[Any], object]
    error: str | None = None
    code: str | None = None
    requests: int = 1


def extra(number: int = 0, **more: Any) -> dict[str, Any]:
    """Arguments of `create` for a video that is quick to make."""
    asked = {"prompt": PROMPTS[0], "seed": number, "preset": "fast", **more}
    return {"prompt": asked.pop("prompt"), "extra_body": asked}


CASES = (
    Case(
        "a length that the bundle does not make",
        lambda client: client.videos.create(**extra(), seconds="99"),
        "BadRequestError",
        "invalid_value",
    ),
    Case(
        "a field that there is not",
        lambda client: client.videos.create(**extra(nothing=1)),
        "BadRequestError",
        "invalid_value",
    ),
    Case(
        "another model",
        lambda client: client.videos.create(**extra(), model="sora-2"),
        "NotFoundError",
        "model_not_found",
    ),
    Case(
        "a video that there is not",
        lambda client: client.videos.retrieve("video_" + 32 * "0"),
        "NotFoundError",
        "not_found",
    ),
    Case(
        "a wrong key",
        lambda client: client.with_options(api_key="ffrt_wrong").videos.list(),
        "AuthenticationError",
        "invalid_api_key",
    ),
)


def check_client() -> None:
    """Raise BenchError where the client is not installed."""
    if importlib.util.find_spec("openai") is None:
        raise BenchError("the part 'client' needs OpenAI's client: pip install openai")


def official(sizes: Sizes) -> dict[str, Any]:
    """The measurement; what came is told case by case, and nothing is raised for it."""
    check_client()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", DeprecationWarning)  # the client marks its calls of videos so
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (key,), flags = made_keys(folder, 1)
        server = stack.enter_context(serving(sizes.bundle, folder, sizes.threads, [*flags, "--queue", "1"]))
        client, sent = stack.enter_context(opened(server, key))
        say("client: create, poll and download")
        videos = [whole(server, client, number) for number in range(sizes.block + 1)][1:]
        say("client: errors and repeats")
        cases = [tried(client, sent, case) for case in CASES]
        cases += repeats(server, client, sent)
    right = sum(case["right"] for case in cases)
    extra_s = summary([video["extra_s"] for video in videos])
    return {
        "openai": client._version,
        "videos": videos,
        "extra_s": {"median": extra_s.median_s, "iqr": extra_s.iqr_s},
        "cases": cases,
        "targets": [target("cases as OpenAI's client expects", 100 * right / len(cases), 100.0, unit="%")],
    }


@contextlib.contextmanager
def opened(server: Server, key: str) -> Iterator[tuple[Any, list[str]]]:
    """The client as it comes, with its repeats, and a list of the requests that leave it."""
    import openai

    sent: list[str] = []
    hooks = {"request": [lambda request: sent.append(f"{request.method} {request.url.path}")]}
    web = openai.DefaultHttpxClient(event_hooks=hooks)
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(api_key=key, base_url=url, http_client=web) as client:
        yield client, sent


def whole(server: Server, client: Any, number: int) -> dict[str, float]:
    """A video from `create_and_poll` to its downloaded bytes; `extra_s` is what is not its making."""
    began_s = time.perf_counter()
    video = client.videos.create_and_poll(**extra(number))
    if video.status != "completed":
        raise BenchError(f"client: expected a completed video, got {video.status} {video.error}")
    polled_s = time.perf_counter() - began_s
    size = len(client.videos.download_content(video.id).read())
    whole_s = time.perf_counter() - began_s
    (row,) = server.rows([video.id])
    made_s = row["completed_at"] - row["started_at"]
    return {"made_s": made_s, "polled_s": polled_s, "whole_s": whole_s, "extra_s": whole_s - made_s, "bytes": size}


def tried(client: Any, sent: list[str], case: Case) -> dict[str, Any]:
    """One case: what was expected, what came, and how many requests left the client."""
    import openai

    sent.clear()
    error = code = None
    try:
        case.call(client)
    except openai.APIStatusError as caught:
        error, code = type(caught).__name__, caught.code
    right = (error, code, len(sent)) == (case.error, case.code, case.requests)
    return {"case": case.words, "error": error, "code": code, "requests": len(sent), "right": right}


def repeats(server: Server, client: Any, sent: list[str]) -> list[dict[str, Any]]:
    """What the client repeats: a full queue, and a request whose answer was lost."""
    names = {"Idempotency-Key": "once"}
    first = client.videos.create(**extra(), extra_headers=names)
    found = []

    def same(one: Any) -> None:
        if one.videos.create(**extra(), extra_headers=names).id != first.id:
            raise BenchError("client: one Idempotency-Key made two videos")

    found.append(tried(client, sent, Case("the same Idempotency-Key again", same)))
    other = Case(
        "an Idempotency-Key of another request",
        lambda one: one.videos.create(**extra(1), extra_headers=names),
        "UnprocessableEntityError",
        "idempotency_key_reused",
    )
    found.append(tried(client, sent, other))
    found += full_queue(server, client, sent)
    return found


def full_queue(server: Server, client: Any, sent: list[str]) -> list[dict[str, Any]]:
    """A queue of one that is full, and one that has room again before the client repeats."""
    slow = extra(num_inference_steps=100)
    with server.client(client.api_key) as plain:
        for video in client.videos.list():
            plain.ask("POST", f"/v1/videos/{video.id}/cancel")
        runs = client.videos.create(**slow).id
        until(lambda: server.rows([runs])[0]["state"] != "queued", "a job to begin")
        waits = client.videos.create(**slow).id
        once = client.with_options(max_retries=0)
        case = Case("a full queue", lambda _: once.videos.create(**extra()), "RateLimitError", "queue_full")
        found = [tried(client, sent, case)]
        cancel = threading.Timer(1.0, lambda: plain.ask("POST", f"/v1/videos/{waits}/cancel"))
        cancel.start()
        words = "a full queue that has room before the client repeats"
        found.append(tried(client, sent, Case(words, lambda one: one.videos.create(**extra()), requests=2)))
        cancel.join()
        for video in client.videos.list():
            plain.ask("POST", f"/v1/videos/{video.id}/cancel")
    return found
