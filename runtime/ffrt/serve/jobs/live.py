"""What is known of running jobs and not on the disk: progress and previews; and who waits for news."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, replace

from ffrt.serve.jobs.job import Job


@dataclass(frozen=True)
class Now:
    """A running job at this moment. `version` grows with every change."""

    version: int
    stage: str | None = None
    step: int = 0
    steps: int = 0
    progress: int = 0
    eta_s: float | None = None
    preview: bytes | None = None
    preview_version: int = 0


class Live:
    """Written by the threads that run jobs, read by the event loop."""

    def __init__(self) -> None:
        self._now: dict[str, Now] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The event loop in which `changed` is awaited."""
        self._loop = loop

    def of(self, id: str) -> Now | None:
        """What is known of a job that runs; None of any other."""
        with self._lock:
            return self._now.get(id)

    def version(self, job: Job) -> int:
        """A number that grows with every change of a job, over restarts of the server too."""
        now = self.of(job.id)
        times = (job.created_at, job.started_at, job.completed_at)
        at = max(int(1000 * one) for one in times if one is not None)
        return at if now is None or job.state.terminal else max(at, now.version)

    def begin(self, id: str) -> None:
        """An attempt begins: progress begins anew."""
        with self._lock:
            self._now[id] = Now(_after(self._now.get(id)))
        self.tell(id)

    def step(self, id: str, stage: str, step: int, steps: int, progress: int, eta_s: float | None) -> None:
        """A step is finished. Progress never goes back within an attempt, and 100 is for what is completed."""
        with self._lock:
            before = self._now.get(id)
            if before is None:
                return
            progress = max(before.progress, min(99, progress))
            new = replace(before, stage=stage, step=step, steps=steps, progress=progress, eta_s=eta_s)
            self._now[id] = replace(new, version=_after(before))
        self.tell(id)

    def preview(self, id: str, webp: bytes) -> None:
        """A picture of what comes."""
        with self._lock:
            before = self._now.get(id)
            if before is None:
                return
            version = _after(before)
            self._now[id] = replace(before, preview=webp, preview_version=version, version=version)
        self.tell(id)

    def end(self, id: str) -> None:
        """The attempt is over, and the table says how."""
        with self._lock:
            self._now.pop(id, None)
        self.tell(id)

    def tell(self, id: str) -> None:
        """Wake who waits for a job; from any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake, id)

    def watch(self, id: str) -> asyncio.Event:
        """An event that is set at every change from now on; the watcher clears it. In the event loop."""
        event = asyncio.Event()
        self._waiting.setdefault(id, set()).add(event)
        return event

    def unwatch(self, id: str, event: asyncio.Event) -> None:
        """The end of `watch`."""
        waiting = self._waiting.get(id, set())
        waiting.discard(event)
        if not waiting:
            self._waiting.pop(id, None)

    def wake_all(self) -> None:
        """Wake everybody, since the server ends. In the event loop."""
        for id in list(self._waiting):
            self._wake(id)

    def _wake(self, id: str) -> None:
        for event in self._waiting.get(id, ()):
            event.set()


def _after(before: Now | None) -> int:
    now = int(1000 * time.time())
    return now if before is None else max(now, before.version + 1)
