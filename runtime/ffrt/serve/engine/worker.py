"""The child process of one place: opens a pipeline, makes one job at a time, and ends with its parent.

A process of its own, because a fault of CUDA stays in its process, the system that runs out of memory ends this one and
not the API's, and what it held is given back. Messages are pickled tuples over one pipe.
"""

from __future__ import annotations

import errno
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from ffrt.errors import BundleError, Cancelled, FfrtError, OutOfMemoryError, RequestError, VideoWriteError
from ffrt.serve.engine import executor as told
from ffrt.serve.engine.settings import EngineSettings
from ffrt.serve.logs import log_to

if TYPE_CHECKING:
    from ffrt.backend.free_memory import FreeMemory
    from ffrt.pipeline import Pipeline

BEAT_S = 2.0


@dataclass(frozen=True)
class Opened:
    """The first word of a place: the provider it got, and the memory that was free before."""

    provider: str
    on_gpu: bool
    free: FreeMemory | None


@dataclass(frozen=True)
class Ready:
    """The place has made a step of every stage."""


@dataclass(frozen=True)
class Broken:
    """The place cannot work; its process ends."""

    why: str


@dataclass(frozen=True)
class Beat:
    """The process is alive."""


Message = Opened | Ready | Broken | Beat | told.Event
Job = tuple[told.Work, bytes | None]


def main(pipe: Connection, settings: EngineSettings) -> None:
    """The whole life of the process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent decides
        signal.signal(number, signal.SIG_IGN)
    if settings.gpu is not None:
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi and the metrics count
        os.environ["CUDA_VISIBLE_DEVICES"] = str(settings.gpu)
    with log_to():
        Worker(pipe, settings).run()


class Worker:
    """One thread makes jobs, one listens, one says that the process is alive."""

    def __init__(self, pipe: Connection, settings: EngineSettings) -> None:
        self._pipe, self._settings = pipe, settings
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._sending, self._choosing = threading.Lock(), threading.Lock()
        self._current: str | None = None
        self._cancelled = False
        self._stop: Callable[[], None] | None = None

    def run(self) -> None:
        """Open, warm up, and make jobs until the parent is gone."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            pipeline = self._opened()
        except BaseException as error:  # whatever it is, the parent says it and tries again
            self._end(Broken(_told(error)))
            return
        self._send(Ready())
        while True:
            job = self._jobs.get()
            if job is None:
                self._probe(pipeline)
            else:
                self._make(pipeline, *job)

    def _opened(self) -> Pipeline:
        from ffrt.backend.free_memory import free_memory
        from ffrt.pipeline import Pipeline
        from ffrt.serve.engine.making import warm_up

        settings = self._settings
        settings.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        pipeline = Pipeline.from_pretrained(
            settings.bundle, provider=settings.provider, threads=settings.threads, memory=settings.memory
        )
        if pipeline.bundle.digest != settings.digest:
            raise BundleError(
                f"{settings.bundle}: expected the bundle {settings.digest[:12]}, got {pipeline.bundle.digest[:12]}; "
                "start the server again"
            )
        on_gpu = pipeline.stages.graphs.on_gpu
        self._send(Opened(pipeline.provider, on_gpu, free_memory(on_gpu)))
        warm_up(pipeline)
        return pipeline

    def _make(self, pipeline: Pipeline, work: told.Work, saved: bytes | None) -> None:
        """One job, from its first event to its last. After an error that nobody foresaw the process ends."""
        from ffrt.serve.engine.making import Making

        settings = self._settings
        with self._choosing:
            self._current, self._cancelled, self._stop = work.id, False, None
        self._send(told.Started(settings.place))
        end: told.Event
        broken = False
        try:
            previews = settings.previews and settings.memory == "fast"
            making = Making(pipeline, work, saved, settings.scratch, previews=previews)
            with self._choosing:
                self._stop = making.generation.cancel
                if self._cancelled:
                    making.generation.cancel()
            last: list[told.Event] = []
            making.run(lambda event: last.append(event) if isinstance(event, told.Finished) else self._send(event))
            (end,) = last
        except Cancelled:
            end = told.Stopped()
        except OutOfMemoryError as error:
            end = told.Failed("does_not_fit", str(error))
        except RequestError as error:
            picture = str(error).startswith("image:")
            end = told.Failed("invalid_reference" if picture else "invalid_value", str(error))
        except VideoWriteError as error:
            full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
            end, broken = told.Failed("disk_full" if full else "write_failed", str(error), retryable=True), True
        except BaseException as error:
            end, broken = told.Failed("internal_error", _told(error), retryable=True), True
        with self._choosing:
            self._current = self._stop = None
        if broken:
            self._end(end)
        self._send(end)

    def _probe(self, pipeline: Pipeline) -> None:
        from ffrt.serve.engine.making import probe

        try:
            probe(pipeline)
        except BaseException as error:
            self._end(Broken(_told(error)))
        self._send(Ready())

    def _listen(self) -> None:
        """Take jobs, cancel the one that runs, and end when the parent does."""
        try:
            while True:
                word, value = self._pipe.recv()
                if word == "job":
                    self._jobs.put(value)
                elif word == "probe":
                    self._jobs.put(None)
                elif word == "cancel":
                    with self._choosing:
                        if self._current == value:
                            self._cancelled = True
                            if self._stop is not None:
                                self._stop()
        finally:
            os._exit(1)  # in mid-operator too

    def _beat(self) -> None:
        while True:
            self._send(Beat())
            time.sleep(BEAT_S)

    def _send(self, message: Message) -> None:
        try:
            with self._sending:
                self._pipe.send(message)
        except OSError:  # the parent is gone
            os._exit(1)

    def _end(self, message: Message) -> None:
        self._send(message)
        os._exit(1)


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, FfrtError) else f"{type(error).__name__}: {error}"
