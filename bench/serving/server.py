"""A real server for the benches: `ffrt serve` in a process of its own, a plain client of it, and its table of jobs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ffrt
from bench.harness.record import ROOT, BenchError
from bench.serving.processes import children, is_worker
from ffrt.serve.keys import add_key

PATIENCE_S = 600.0
LOOK_S = 0.002
"""How often something is looked for that is timed."""


class Server:
    """`ffrt serve` over a bundle and a data folder. `spawned_s` and `told_s` are of `time.perf_counter`."""

    def __init__(self, bundle: Path, data: Path, threads: int, port: int, flags: Sequence[str] = ()) -> None:
        """Start it and wait for the line with its address. Raises BenchError if none comes."""
        self.data, self.port = data, port
        self.log = data.with_name(f"{data.name}.log")
        line = [sys.executable, "-m", "ffrt", "serve", "--bundle", str(bundle), "--data", str(data)]
        line += ["--port", str(port), "--provider", "cpu", "--threads", str(threads)]
        line += ["--disk-floor", "0", "--rate", "1000000", *flags]
        with open(self.log, "ab") as log:
            self.spawned_s = time.perf_counter()
            self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, env=environment())
        assert self.process.stdout is not None
        told = self.process.stdout.readline().decode()
        self.told_s = time.perf_counter()
        if re.search(r"http://\S+", told) is None:
            self.kill()
            end = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise BenchError(f"server: expected a line with its address, got {told!r} and the log {end!r}")

    def client(self, key: str | None = None) -> Client:
        """A client with a connection of its own."""
        return Client(self.port, key)

    def worker(self) -> int | None:
        """The process of its place; None while there is none."""
        return next((pid for pid in children(self.process.pid) if is_worker(pid)), None)

    def until_ready(self) -> None:
        """Wait until it can make videos."""
        with self.client() as client:
            until(lambda: client.ask("GET", "/health/ready").status == 200, "the server to be ready")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def rows(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """State and times of jobs as the table has them, in the order of `ids`; read without asking the server."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'jobs.sqlite'}?mode=ro", uri=True)) as table:
            table.row_factory = sqlite3.Row
            marks = ",".join("?" * len(ids))
            query = f"SELECT id, state, started_at, completed_at, attempt FROM jobs WHERE id IN ({marks})"
            found = {row["id"]: dict(row) for row in table.execute(query, list(ids))}
        return [found[id] for id in ids]


class Answer:
    """What the server said: status, headers by lower-case name, and the body."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()

    @property
    def json(self) -> dict[str, Any]:
        """The body of an answer in JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Client:
    """One kept connection, opened again when the server closed it."""

    def __init__(self, port: int, key: str | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    def ask(
        self, method: str, path: str, fields: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request. Raises OSError or HTTPException where there is no answer; the next call connects anew.

        A kept connection that the server has closed meanwhile is opened again, once.
        """
        sent = {**self._headers, **({} if headers is None else headers)}
        body = None
        if fields is not None:
            body, sent["content-type"] = json.dumps(fields), "application/json"
        if self._connection.sock is not None:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # RemoteDisconnected is one of them
                return self._try(method, path, body, sent)
        return self._try(method, path, body, sent)

    def _try(self, method: str, path: str, body: str | None, sent: Mapping[str, str]) -> Answer:
        try:
            self._connection.request(method, path, body, dict(sent))
            return Answer(self._connection.getresponse())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def stream(self, path: str) -> http.client.HTTPResponse:
        """An answer that is read while it comes; the connection is then for nothing else."""
        self._connection.request("GET", path, headers=self._headers)
        return self._connection.getresponse()

    def create(self, fields: Mapping[str, Any]) -> str:
        """Queue a video; its id. Raises BenchError if it is refused."""
        answer = self.ask("POST", "/v1/videos", fields)
        if answer.status != 200:
            raise BenchError(f"server: expected a queued video, got {answer.status} {answer.body.decode()!r:.300}")
        return str(answer.json["id"])

    def video(self, id: str) -> dict[str, Any]:
        """A video as it is now."""
        return self.ask("GET", f"/v1/videos/{id}").json

    def until_done(self, id: str, every_s: float = 0.05) -> dict[str, Any]:
        """Poll a video until its end."""
        found: dict[str, Any] = {}

        def done() -> bool:
            found.update(self.video(id))
            return found["status"] in ("completed", "failed")

        until(done, f"the end of {id}", every_s)
        return found


def until(done: Callable[[], bool], what: str, every_s: float = LOOK_S, patience_s: float = PATIENCE_S) -> None:
    """Wait for something that another process does. Raises BenchError when the patience is over."""
    ends_s = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > ends_s:
            raise BenchError(f"server: waited {patience_s:.0f} s for {what}")
        time.sleep(every_s)


def environment() -> dict[str, str]:
    """That of a child: the same ffrt and the same benches."""
    folders = [str(Path(ffrt.__file__).parent.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(bundle: Path, folder: Path, threads: int, flags: Sequence[str] = ()) -> Iterator[Server]:
    """A ready server for a block, with its data in `folder`."""
    server = Server(bundle, folder / "data", threads, free_port(), flags)
    try:
        server.until_ready()
        yield server
    finally:
        server.kill(signal.SIGINT)


def made_keys(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """API keys, and the flags of a server that knows them."""
    file = folder / "keys"
    return [add_key(file, f"client-{number}") for number in range(count)], ["--keys", str(file)]
