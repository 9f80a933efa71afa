"""A server without processes: places that do what a test says, and the application over them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from ffrt import Bundle
from ffrt.serve.api.app import build
from ffrt.serve.engine import executor as told
from ffrt.serve.errors import PlaceLost
from ffrt.serve.jobs.data import Data
from ffrt.serve.jobs.store import Store
from ffrt.serve.keys import Keys
from ffrt.serve.options import ServeOptions
from ffrt.serve.server import assembled, bound, configured, names, opened_store

VIDEO = bytes(range(256)) * 8
FINISHED = told.Finished(VIDEO, b"RIFFthumb", b"RIFFsprite", (3, 3), {"frames": 9, "fps": 8})
Script = Callable[["FakeExecutor", told.Work, "bytes | None"], Iterator[told.Event]]


def steps(work: told.Work) -> Iterator[told.Event]:
    """Every step of the tiny bundle at 8 fps."""
    names = [("text", None, 1), ("keyframes", 2, 4), ("interpolation", 8, 4), ("decoding", 8, 9)]
    done, total = 0, sum(count for _, _, count in names)
    for stage, fps, count in names:
        for index in range(count):
            done += 1
            yield told.Progress(stage, fps, index, count, done, total, 0.01)


def at_once(fake: FakeExecutor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
    """A job that goes well."""
    yield from steps(work)
    yield FINISHED


def waits(fake: FakeExecutor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
    """A job that runs until it is cancelled, or told to go on."""
    yield from list(steps(work))[:3]
    yield told.Preview(b"RIFFpreview")
    while not fake.go_on.wait(0.01):
        if work.id in fake.cancelled:
            yield told.Stopped()
            return
    yield FINISHED


def loses(fake: FakeExecutor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
    """A job that kills its worker."""
    yield from list(steps(work))[:2]
    raise PlaceLost("killed")


def fails(code: str, retryable: bool) -> Script:
    def script(fake: FakeExecutor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
        yield told.Failed(code, "it went wrong", retryable)

    return script


class FakeExecutor:
    """One place that runs `script`."""

    def __init__(self, script: Script = at_once) -> None:
        self.script = script
        self.go_on = threading.Event()
        self.cancelled: set[str] = set()
        self.ran: list[tuple[str, bytes | None]] = []
        self.place = told.Place("place-0", "cpu", "cpu", ready=True, why=None, seen_s=1e18)

    def places(self) -> list[told.Place]:
        return [self.place]

    def run(self, place: str, work: told.Work, checkpoint: bytes | None) -> Iterator[told.Event]:
        self.ran.append((work.id, checkpoint))
        self.place = replace(self.place, current=work.id)
        try:
            yield told.Started(place)
            yield from self.script(self, work, checkpoint)
        finally:
            self.place = replace(self.place, current=None)

    def cancel(self, place: str, job_id: str) -> None:
        if self.place.current == job_id:
            self.cancelled.add(job_id)

    def close(self) -> None:
        if self.place.current is not None:
            self.cancelled.add(self.place.current)


class Running:
    """A server over a fake executor, on a free port of this machine, in threads of this process; close it."""

    def __init__(self, folder: Path, bundle: Bundle, executor: FakeExecutor, options: ServeOptions) -> None:
        self.options = replace(options, data=folder)
        self.executor = executor
        self.data = Data(folder)
        self.keys = Keys(self.options.keys_file)
        self.store = opened_store(self.data)
        self.service = assembled(self.options, self.keys, bundle, self.store, self.data, executor)
        self.service.dispatcher.start()
        app = build(self.service, hosts=names(self.options), origins=self.options.origins)
        self._listening = bound("127.0.0.1", 0)
        self._server = uvicorn.Server(configured(self.options, app))
        self._thread = threading.Thread(target=self._server.run, args=([self._listening],))
        self._thread.start()
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for something that threads do."""
        deadline = time.monotonic() + 30
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def state(self, id: str) -> str | None:
        job = self.store.wait(Store.any_state, id)
        return None if job is None else str(job.state)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.service.dispatcher.drain(0)
        self.store.close()
        self._listening.close()
        self.data.close()
