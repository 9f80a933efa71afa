"""The child process of one place: opens a pipeline, makes one job at a time, and ends with its parent.

A process of its own, because a fault of CUDA stays in its process, the system that runs out of memory ends this one and
not the API's, and what it held is given back. Messages are pickled tuples over one pipe.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from ffrt.serve import memory
from ffrt.serve.engine import executor as told
from ffrt.serve.engine.maker import Maker, Opened, words
from ffrt.serve.engine.settings import EngineSettings
from ffrt.serve.logs import log_to

BEAT_S = 2.0


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
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.gpu
    with log_to():
        Worker(pipe, settings).run()


class Worker:
    """One thread makes jobs, one listens, one says that the process is alive."""

    def __init__(self, pipe: Connection, settings: EngineSettings) -> None:
        self._pipe = pipe
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._maker = Maker(settings)

    def run(self) -> None:
        """Open, warm up, and make jobs until the parent is gone."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            self._maker.open(self._send)
        except BaseException as error:  # whatever it is, the parent says it and tries again
            self._end(Broken(words(error)))
            return
        self._send(Ready())
        memory.keep_loaded()
        while True:
            job = self._jobs.get()
            if job is None:
                self._probe()
            else:
                self._make(*job)

    def _make(self, work: told.Work, saved: bytes | None) -> None:
        """One job, from its first event to its last. After an error that nobody foresaw the process ends."""
        end = self._maker.make(work, saved, self._send)
        if isinstance(end, told.Failed) and end.retryable:
            self._end(end)
        self._send(end)
        memory.tidy()

    def _probe(self) -> None:
        try:
            self._maker.probe()
        except BaseException as error:
            self._end(Broken(words(error)))
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
                    self._maker.cancel(value)
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
