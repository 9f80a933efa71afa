"""bench.serving measures real servers, tells what it saw, and refuses answers that must not be."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.harness.program import is_whole, parser
from bench.harness.record import BenchError
from bench.report.tables import shown, with_tables
from bench.serving import __main__ as serving
from bench.serving.cancel import POINTS, spread
from bench.serving.generator import Load, Seen, next_video, quantiles, run
from bench.serving.growth import grown, line
from bench.serving.load import KEYS, MOST_VIDEOS, enough, rows_of
from bench.serving.plot import PLOTS
from bench.serving.processes import bytes_below, children, is_worker, usage
from bench.serving.server import Client, free_port
from bench.serving.sizes import sizes_of
from bench.serving.table import MADE, table
from ffrt import Bundle

WHOLE = sizes_of(Path("bundle"), 1, 60, quick=False, steps=None)


@pytest.fixture(scope="module")
def records(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A quick run of every part over the tiny bundle, with steps enough that jobs can be met while they run."""
    pytest.importorskip("openai")
    folder = tmp_path_factory.mktemp("records")
    line = ["--bundle", str(tiny.folder), "--quick", "--steps", "100", "--soak", "0.1", "--folder", str(folder)]
    assert serving.main([*line, "--only", *serving.PARTS]) == 0
    return {name: json.loads((folder / f"serving_{name}.json").read_text()) for name in serving.PARTS}


@pytest.mark.slow
def test_a_quick_run_keeps_a_record_of_every_part(records: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for name, record in records.items():
        assert (record["bench"], record["part"], record["whole"]) == ("serving", name, False)
        assert record["environment"]["threads"] == 1 and record["environment"]["fastapi"]
        assert record["targets"] and all(item["name"] in table(record) for item in record["targets"])
        shown({**record, "whole": True}, f"serving_{name}", "figures", tmp_path / "page.md", tmp_path)
        if name in PLOTS:
            assert PLOTS[name](record).ndim == 3


@pytest.mark.slow
def test_the_targets_of_all_parts_are_one_table(records: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- bench:serving/targets -->\n<!-- /bench -->\n")
    assert "Not measured" in with_tables(page.read_text(), page, tmp_path)
    for name in ("load", "cancel"):
        (tmp_path / f"serving_{name}.json").write_text(json.dumps({**records[name], "whole": True}))
    lines = with_tables(page.read_text(), page, tmp_path).splitlines()
    assert [line.split(" | ")[0] for line in lines[3:-1]] == [
        "| from a cancel to a place free",
        "| while videos are made, 99 of 100 status polls",
    ]


@pytest.mark.slow
def test_the_parts_say_what_they_are_about(records: dict[str, dict[str, Any]]) -> None:
    ways = records["overhead"]["ways"]
    assert set(ways) == {"bare", "served", "watched"} and ways["bare"]["percent"]["median"] == 0
    rows = records["load"]["rows"]
    assert [row["clients"] for row in rows] == [row.words for row in rows_of(sizes_of(Path(), 1, 1, True, None))]
    assert all(set(row["statuses"]) == {"200"} for row in rows if row["pollers"])
    assert rows[3]["events"]["completed"] > 0 and rows[3]["answers"] > rows[1]["answers"]
    points = records["cancel"]["points"]
    assert set(points) == {"in the queue", *(point.words for point in POINTS)}
    assert all(point["answer_s"] is None or point["answer_s"]["runs"] == 1 for point in points.values())
    for marks in records["recovery"]["killed"].values():
        times = [marks[name]["median"] for name in ("answers", "ready", "goes_on", "done")]
        assert 0 < times[0] < times[-1]
    wrong = [case for case in records["client"]["cases"] if not case["right"]]
    assert [case["case"] for case in wrong if "full" not in case["case"]] == []
    assert records["soak"]["restarts"] == 0 and records["soak"]["did"]["created"] > 3


def test_a_whole_run_is_every_part_or_some_of_them_at_full_length() -> None:
    def whole(*words: str) -> bool:
        return is_whole(serving.PROGRAM, parser(serving.PROGRAM).parse_args(words))

    assert whole() and whole("--only", "soak") and whole("--threads", "2") and whole("--only", "soak", "--soak", "150")
    assert not whole("--quick") and not whole("--only", "soak", "--soak", "10") and not whole("--steps", "3")
    assert set(serving.PARTS) == set(MADE) and "soak" not in serving.USUAL


def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert serving.main(["--soak", "0", "--folder", str(tmp_path)]) == 2
    assert "--soak: expected minutes above 0, got 0.0" in capsys.readouterr().err
    assert serving.main(["--only", "load", "cancel", "--json", str(tmp_path / "one.json")]) == 2
    assert "expected --folder, got --json" in capsys.readouterr().err


def test_quantiles_are_of_the_answers_and_none_of_nothing() -> None:
    found = quantiles([i / 1000 for i in range(1000)])
    assert found is not None
    assert (found["p0"], found["p50"], found["p99"], found["p100"]) == (0.0, 500.0, 990.0, 999.0)
    assert quantiles([]) is None and spread([]) is None
    assert spread([1.0, 3.0, 2.0]) == {"median": 2.0, "max": 3.0, "runs": 3}


def test_a_load_lasts_for_its_window_and_fits_into_the_queue() -> None:
    assert enough(WHOLE, 30.0) == WHOLE.loaded
    assert enough(WHOLE, 1.0) == 10
    assert enough(WHOLE, 0.0) + WHOLE.waiting == MOST_VIDEOS
    assert all(row.pollers + row.streams < 256 and row.streams <= 8 * KEYS for row in rows_of(WHOLE))


def test_growth_is_a_slope_with_its_noise() -> None:
    times = np.arange(400.0)
    noise = np.random.default_rng(0).normal(0, 3, 400)
    slope, half = line(times, 5 + 0.5 * times + noise)
    assert abs(slope - 0.5) < half < 0.05
    slope, half = line(times, 5 + noise)
    assert abs(slope) < half
    samples = [{"at_s": t, "server": {"rss": 100 + (50 if t < 90 else 0)}} for t in times]
    assert grown(samples, "server", "rss", 100)["per_hour"] == 0, "what happens while it warms up is left out"
    with pytest.raises(BenchError, match="expected at least 4 samples"):
        line(times[:3], times[:3])


def test_points_are_told_from_what_a_client_sees() -> None:
    def met(**video: Any) -> list[str]:
        return [point.words for point in POINTS if point.at({"state": "in_progress", "stage": None, **video})]

    assert met(step=0, steps=0) == met(stage="text", step=1, steps=1) == ["before the first step"]
    assert met(stage="keyframes", step=2, steps=8) == ["in a step", "between two steps"]
    assert met(stage="keyframes", step=8, steps=8) == ["between two stages"]
    assert met(stage="decoding", step=3, steps=61) == ["while frames are decoded and written"]
    assert met(stage="decoding", step=61, steps=61) == ["after the last frame"]
    assert met(stage="interpolation", step=2, steps=4) == []


def test_the_system_tells_of_processes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1000))
    assert bytes_below(tmp_path) == 1000
    line = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"1\n"
        assert child.pid in children(os.getpid()) and not is_worker(child.pid)
        found = usage(child.pid)
        assert found is not None and found.rss > found.own > 1 << 20 and found.files >= 3 and found.threads == 1
    assert usage(child.pid) is None


@pytest.fixture
def closing() -> Iterator[int]:
    """A server that closes every connection after one answer without a word of it."""
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def live() -> None:
        while True:
            try:
                one, _ = listening.accept()
            except OSError:
                return
            with one:
                one.recv(65536)
                one.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            if over.is_set():
                return

    thread = threading.Thread(target=live)
    thread.start()
    yield listening.getsockname()[1]
    over.set()
    with socket.create_connection(listening.getsockname()) as last:
        last.sendall(b"x")
    thread.join()
    listening.close()


def test_a_kept_connection_that_was_closed_is_opened_again(closing: int) -> None:
    with Client(closing) as client:
        assert [client.ask("GET", "/").json for _ in range(3)] == [{}, {}, {}]
    with Client(free_port()) as nobody, pytest.raises(ConnectionRefusedError):
        nobody.ask("GET", "/")


def answer_of(head: str) -> bytes:
    """What a stand-in for the server says: one video that runs, one that has ended, and a stream of it."""
    if head.endswith("/events"):
        return b"HTTP/1.1 200 OK\r\n\r\nevent: progress\nid: 1\ndata: {}\n\nevent: completed\nid: 2\ndata: {}\n\n"
    status = "completed" if "video_b" in head else "in_progress"
    body = f'{{"status":"{status}"}}'.encode()
    return (
        f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nopenai-poll-after-ms: 5\r\n\r\n".encode() + body
        if "video_" in head
        else b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    )


async def crowd(load: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Run a load against the stand-in until it has answered a few times; what was seen, and what was asked."""
    asked: list[str] = []
    stop = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while raw := await reader.readuntil(b"\r\n\r\n"):
                asked.append(raw.split()[1].decode())
                writer.write(answer_of(asked[-1]))
                if len(asked) >= 20:
                    stop.set()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    seen = await run(Load(port=port, **load), stop)
    server.close()
    return seen, asked


def test_pollers_ask_until_they_are_stopped_and_leave_videos_that_have_ended() -> None:
    videos = [("key", "video_a"), ("key", "video_b")]
    seen, asked = asyncio.run(crowd({"videos": videos, "pollers": 2, "wait": True, "spread_s": 0.1}))
    assert set(seen["statuses"]) == {"200"} and seen["answers"] >= 17 and seen["faults"] == []
    assert asked.count("/v1/videos/video_b") <= 2 < asked.count("/v1/videos/video_a")
    assert seen["answers_ms"]["p50"] > 0 and seen["events_ms"] is None
    lost, _ = asyncio.run(crowd({"videos": [(None, "nothing")], "pollers": 1, "route": "list"}))
    assert set(lost["statuses"]) == {"404"}


def test_readers_hear_every_event_of_each_video_once() -> None:
    load = {"videos": [(None, "video_a"), (None, "video_b"), (None, "nothing")], "pollers": 1, "streams": 1}
    seen, asked = asyncio.run(crowd({**load, "route": "health"}))
    assert [path for path in asked if path.endswith("/events")] == [
        f"/v1/videos/{id}/events" for id in ("video_a", "video_b", "nothing")
    ]
    assert seen["events"] == {"progress": 3, "completed": 3} and seen["events_ms"]["p100"] > 1e6


def test_the_next_video_is_one_of_the_same_key_that_has_not_ended() -> None:
    load = Load(1, [("a", "1"), ("b", "2"), ("a", "3")], 1)
    seen = Seen(ended={"1"})
    assert next_video(load, seen, 0) == 1 and next_video(load, seen, 0, "a") == 2
    assert next_video(load, Seen(ended={"1", "2", "3"}), 0) is None
