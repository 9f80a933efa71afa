"""Places on this machine: a spawned child process for each GPU, or one for the processors."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from ffrt.serve.engine import executor as told
from ffrt.serve.engine.maker import Opened
from ffrt.serve.engine.patience import patience_s
from ffrt.serve.engine.settings import EngineSettings
from ffrt.serve.engine.worker import Beat, Broken, Message, Ready, main
from ffrt.serve.errors import PlaceLost

logger = logging.getLogger("ffrt.serve")

LONGEST_PAUSE_S = 30.0
PROBE_S = 60.0


class Child:
    """One place: its process, which a thread starts, listens to and replaces."""

    def __init__(self, settings: EngineSettings, device: str) -> None:
        self._settings = settings
        self._events: queue.SimpleQueue[told.Event | None] = queue.SimpleQueue()
        self._sending, self._changing = threading.Lock(), threading.Lock()
        self._process: BaseProcess | None = None
        self._replaced = told.Replaced.ENDED  # why the process of now will have been replaced
        self._pipe: Connection | None = None
        self._closing = threading.Event()
        self._spoke_s = time.monotonic()
        self.place = told.Place(settings.place, device)
        self._thread = threading.Thread(target=self._live, name=f"ffrt-{settings.place}", daemon=True)
        self._thread.start()

    def run(self, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
        """As `Executor.run`."""
        while not self._events.empty():
            self._events.get()
        self._change(current=work.id)
        left = False  # whether nothing of this job can come any more
        try:
            if not self.place.ready or not self._send(("job", (work, saved))):
                left = True
                self._change(ready=False)
                raise PlaceLost(f"{self.place.id} is not ready ({self.place.why})", began=False)
            event: told.Event | None = None
            while True:
                longest_s = patience_s(event)
                try:
                    event = self._events.get(timeout=longest_s)
                except queue.Empty:
                    left = True
                    self.kill(f"it said nothing for {longest_s:.0f} s", told.Replaced.SILENT)
                    raise PlaceLost(f"{self.place.id} said nothing for {longest_s:.0f} s") from None
                if event is None:
                    left = True
                    raise PlaceLost(f"{self.place.id} ended while it ran the job")
                if isinstance(event, told.Failed) and event.retryable:
                    self._change(ready=False, why="it is replaced")
                left = isinstance(event, told.ENDS)
                yield event
                if left:
                    return
        finally:
            if not left:
                self.kill("its job was left before its end", told.Replaced.LEFT)
            self._change(current=None)

    def cancel(self, job_id: str) -> None:
        """As `Executor.cancel`."""
        self._send(("cancel", job_id))

    def kill(self, why: str, replaced: told.Replaced) -> None:
        """End the process, whatever it does; another one is started."""
        process, self._replaced = self._process, replaced
        self._change(ready=False, why=why)
        if process is not None:
            logger.warning("%s: its process is ended: %s", self.place.id, why)
            process.kill()

    def close(self) -> None:
        """End the process for good."""
        self._closing.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join()

    def _live(self) -> None:
        """Start the process again and again; longer pauses after one that was never ready."""
        pause_s = 1.0
        while not self._closing.is_set():
            was_ready = self._one_life()
            if not self._closing.is_set():
                self._change(ready=False, restarts=self.place.restarted(self._replaced))
            self._events.put(None)
            if self._closing.is_set():
                return
            pause_s = 1.0 if was_ready else min(2 * pause_s, LONGEST_PAUSE_S)
            self._closing.wait(0.1 if was_ready else pause_s)

    def _one_life(self) -> bool:
        """One process from start to end; whether it was ever ready."""
        context = multiprocessing.get_context("spawn")  # a fork would inherit the lock, and threads of ONNX Runtime
        ours, theirs = context.Pipe()
        name = f"ffrt-{self._settings.place}"
        process = context.Process(target=main, args=(theirs, self._settings), name=name, daemon=True)
        process.start()
        theirs.close()
        self._process, self._replaced = process, told.Replaced.ENDED
        with self._sending:
            self._pipe = ours
        self._change(why="it starts", seen_s=time.monotonic())
        if self._closing.is_set():
            process.kill()
        was_ready, why = False, "its process ended"
        try:
            while True:
                if not ours.poll(PROBE_S):
                    self.kill("it is silent", told.Replaced.SILENT)
                message: Message = ours.recv()
                was_ready = was_ready or isinstance(message, Ready)
                why = message.why if isinstance(message, Broken) else why
                self._hear(message)
        except (EOFError, OSError):
            pass
        with self._sending:
            self._pipe = None
        ours.close()
        process.join()
        code = process.exitcode
        self._change(ready=False, why=f"{why} (status {code})")
        if not self._closing.is_set():
            logger.warning("%s: %s (status %s)", self.place.id, why, code)
        return was_ready

    def _hear(self, message: Message) -> None:
        now_s = time.monotonic()
        if isinstance(message, Opened):
            self._change(
                provider=message.provider, on_gpu=message.on_gpu, free=message.free, why="it warms up", seen_s=now_s
            )
        elif isinstance(message, Ready):
            self._change(ready=True, why=None, seen_s=now_s)
            self._spoke_s = now_s
        elif isinstance(message, Beat):
            self._change(seen_s=now_s)
            idle = self.place.ready and self.place.current is None and self._settings.gpu is not None
            if idle and now_s - self._spoke_s > PROBE_S:
                self._spoke_s = now_s
                self._send(("probe", None))
        elif isinstance(message, Broken):
            self._replaced = told.Replaced.BROKEN
        else:
            if isinstance(message, told.Failed) and message.retryable:
                self._replaced = told.Replaced.ERROR
            self._change(seen_s=now_s)
            self._spoke_s = now_s
            self._events.put(message)

    def _send(self, message: tuple[str, object]) -> bool:
        with self._sending:
            if self._pipe is None:
                return False
            try:
                self._pipe.send(message)
            except OSError:
                return False
        return True

    def _change(self, **values: object) -> None:
        with self._changing:
            self.place = replace(self.place, **values)  # type: ignore[arg-type]


class LocalExecutor:
    """An `Executor` of child processes."""

    def __init__(self, settings: Sequence[EngineSettings]) -> None:
        self._children = {one.place: Child(one, "cpu" if one.gpu is None else f"gpu {one.gpu}") for one in settings}

    def places(self) -> list[told.Place]:
        """As the protocol says."""
        return [child.place for child in self._children.values()]

    def run(self, place: str, work: told.Work, checkpoint: bytes | None) -> Iterator[told.Event]:
        """As the protocol says."""
        return self._children[place].run(work, checkpoint)

    def cancel(self, place: str, job_id: str) -> None:
        """As the protocol says."""
        self._children[place].cancel(job_id)

    def close(self) -> None:
        """As the protocol says."""
        for child in self._children.values():
            child.close()


def gpus(root: Path = Path("/")) -> list[str] | None:
    """The NVIDIA GPUs here by their numbers, or those that CUDA_VISIBLE_DEVICES leaves, as it names them.

    None where nothing says whether there are any. CUDA takes what stands before the first word that names no GPU.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        words = [word.strip() for word in visible.split(",")]
        return list(itertools.takewhile(told.GPU.fullmatch, words))
    folder = root / "proc/driver/nvidia/gpus"
    return [str(number) for number in range(len(list(folder.iterdir())))] if folder.is_dir() else None
