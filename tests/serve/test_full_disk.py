"""A real server whose every write to a file fails, as on a full disk, and then works again."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
from pathlib import Path

import httpx

from ffrt import Bundle
from tests.serve.processes import ServerProcess, serving, until

ASK = {"prompt": "a red circle moving right", "seed": 7, "fps": 30, "num_inference_steps": 100}


def full(server: ServerProcess, is_full: bool) -> None:
    """No file of the server and its worker may have a single byte more, or all may."""
    for pid in (server.pid, *server.workers()):
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if is_full else most, most))


def state(client: httpx.Client, id: str) -> str:
    return str(client.get(f"/v1/videos/{id}").json()["state"])


def test_a_full_disk_loses_no_job_and_is_told(tiny: Bundle, tmp_path: Path) -> None:
    with serving(tiny.folder, tmp_path / "data") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        ids = [client.post("/v1/videos", json=ASK).json()["id"] for _ in range(3)]
        until(lambda: state(client, ids[0]) == "in_progress")
        full(server, True)
        answer = client.post("/v1/videos", json=ASK)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        until(lambda: client.get("/health/ready").status_code == 503)
        assert "the table of jobs takes no write" in client.get("/health/ready").json()["reasons"]
        assert client.post(f"/v1/videos/{ids[2]}/cancel").status_code == 507
        full(server, False)
        until(lambda: {state(client, id) for id in ids} <= {"completed", "failed"})
        states = [client.get(f"/v1/videos/{id}").json() for id in ids]
        assert [(one["state"], one["error"]) for one in states] == [("completed", None)] * 3
        assert client.get("/health/ready").status_code == 200
        for id, one in zip(ids, states, strict=True):
            assert len(client.get(f"/v1/videos/{id}/content").content) == one["bytes"]


def test_a_delete_on_a_full_disk_makes_room(tiny: Bundle, tmp_path: Path) -> None:
    with serving(tiny.folder, tmp_path / "data") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        until(lambda: state(client, id) == "completed")
        files = tmp_path / "data" / "files"
        assert len(list(files.iterdir())) == 3
        full(server, True)
        answer = client.delete(f"/v1/videos/{id}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        assert "files of the video are gone" in answer.json()["error"]["message"] and list(files.iterdir()) == []
        assert client.get(f"/v1/videos/{id}/content").json()["error"]["code"] == "expired"
        full(server, False)
        assert client.delete(f"/v1/videos/{id}").json()["deleted"] and client.get("/v1/videos").json()["data"] == []


def test_a_job_that_runs_is_stopped_on_a_full_disk(tiny: Bundle, tmp_path: Path) -> None:
    with serving(tiny.folder, tmp_path / "data") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        id, later = (client.post("/v1/videos", json=ASK).json()["id"] for _ in range(2))
        until(lambda: state(client, id) == "in_progress")
        full(server, True)
        answer = client.post(f"/v1/videos/{id}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "in_progress"), "it is not on the disk yet"
        full(server, False)
        until(lambda: state(client, later) == "completed")
        assert state(client, id) == "cancelled"


def test_a_server_that_is_killed_on_a_full_disk_has_every_job_afterwards(tiny: Bundle, tmp_path: Path) -> None:
    with serving(tiny.folder, tmp_path / "data") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        ids = [client.post("/v1/videos", json=ASK).json()["id"] for _ in range(2)]
        until(lambda: state(client, ids[0]) == "in_progress")
        full(server, True)
        with contextlib.suppress(ProcessLookupError):
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
        until(lambda: client.get("/health/ready").status_code == 503)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "jobs.sqlite")) as table:
        assert table.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with serving(tiny.folder, tmp_path / "data") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        until(lambda: {state(client, id) for id in ids} == {"completed"})
