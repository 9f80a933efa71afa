"""What the log says of a job: a JSON object a line, by which it can be followed from its request to its end."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable

from ffrt.serve.logs import log_to
from tests.serve.fakes import Running, loses
from tests.serve.processes import filled

Start = Callable[..., Running]


def lines_of(server: Running, stream: io.StringIO) -> tuple[str, list[dict[str, object]]]:
    """The number of a request, and the lines about the job that it made."""
    with server.client() as client:
        answer = client.post("/v1/videos", json={"prompt": "a secret circle"})
        id = answer.json()["id"]
        server.until(lambda: server.state(id) in ("completed", "failed") and server.service.live.of(id) is None)
        client.get(f"/v1/videos/{id}")
        client.get("/v1/videos/video_no")
        server.until(lambda: stream.getvalue().count("/v1/videos/{id}") == 2)
    assert "secret" not in stream.getvalue() and "video_no" not in stream.getvalue()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return answer.headers["x-request-id"], [line for line in lines if line.get("video_id") == id]


def test_a_job_can_be_followed_from_its_request_to_its_end(running: Start) -> None:
    stream = io.StringIO()
    with log_to(stream):
        request_id, lines = lines_of(running(), stream)
    stages = ["text", "keyframes", "interpolation", "decoding"]
    events = ["queued", "begins", *["stage done"] * 4, "completed", "request"]
    assert [line["event"] for line in lines] == events
    assert all({"ts", "level", "event", "video_id"} <= set(line) for line in lines)
    queued, begins, *done, completed, asked = lines
    assert (queued["request_id"], queued["key"]) == (request_id, "")
    assert (begins["place"], begins["attempt"], begins["key"]) == ("place-0", 1, "")
    assert [line["stage"] for line in done] == stages
    assert all({"place", "attempt", "seconds"} <= set(line) for line in done)
    assert {"key", "attempt", "seconds"} <= set(completed)
    assert {"request_id", "method", "route", "code", "seconds"} <= set(asked)


def test_every_lost_attempt_is_told(running: Start) -> None:
    stream = io.StringIO()
    with log_to(stream):
        _, lines = lines_of(running(loses), stream)
    lost = [line["attempt"] for line in lines if str(line["event"]).startswith("attempt lost")]
    assert lost == list(range(1, len(lost) + 1)) and lost
    assert lines[-2]["event"] == "failed"


def test_lines_that_nobody_reads_are_counted_and_stop_nobody() -> None:
    reading, writing = os.pipe()
    filled(writing)
    logger = logging.getLogger("ffrt.serve")
    with open(reading, "rb") as read, open(writing, "w", encoding="utf-8") as stream:
        with log_to(stream):
            logger.info("first")
            logger.info("second")
            os.read(read.fileno(), 1 << 20)
            logger.info("third")
            logger.info("fourth")
        lines = os.read(read.fileno(), 1 << 20).decode().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["2 lines were lost: nobody read the log", "third", "fourth"]
