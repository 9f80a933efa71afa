"""A place of a Ray cluster as it is on its own machine: what an actor does.

A plain class, which `ffrt.serve.engine.ray_cluster` makes an actor of. The process never ends by itself: what is wrong
with it is told until the server, or the next one, has Ray start it again. So a bundle that is missing on a machine is
seen as such, and does not make a process begin over and over.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import re
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ffrt import __version__
from ffrt.backend.runner import Memory
from ffrt.bundle import MANIFEST, find_bundle
from ffrt.errors import BundleError, FfrtError
from ffrt.output.work import work_folder
from ffrt.serve.engine import executor as told
from ffrt.serve.engine.maker import Maker, Opened, words
from ffrt.serve.engine.settings import EngineSettings
from ffrt.serve.logs import log_to

if TYPE_CHECKING:
    from ffrt.backend.free_memory import FreeMemory

HELD_S = 30.0
"""A place belongs to the server that spoke to it last, until that one was silent for so long."""
PROBE_S = 60.0
GATHER_S = 0.05
"""The least time between two messages of a job: each costs milliseconds in which no step goes on."""
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Asked:
    """What a server wants of a place. `bundle` is a folder on the place's machine, None for the demo."""

    place: str
    bundle: str | None
    digest: str
    provider: str
    threads: int | None
    memory: Memory
    gpu: bool = False


@dataclass(frozen=True)
class Facts:
    """What must be the same everywhere: versions, and the digest of the bundle."""

    ffrt: str
    python: str
    ray: str
    digest: str

    def differences(self, wanted: Facts) -> str:
        """What differs from `wanted`, each with both values; empty if nothing does."""
        names = {"ffrt": "ffrt", "python": "Python", "ray": "Ray", "digest": "bundle"}
        both = [(label, getattr(wanted, name), getattr(self, name)) for name, label in names.items()]
        return ", ".join(
            f"expected {label} {_brief(want)}, got {_brief(got)}" for label, want, got in both if want != got
        )


def _brief(word: str) -> str:
    return word[:12] if SHA256.fullmatch(word) else word


@dataclass(frozen=True)
class Health:
    """How a place is. `life` is another one after every start of its process; `why` says what is wrong."""

    life: str
    server: str
    current: str | None
    ready: bool
    broken: bool
    why: str | None
    provider: str | None
    on_gpu: bool
    free: FreeMemory | None


def facts(digest: str) -> Facts:
    """The versions here, with the digest of a bundle."""
    return Facts(__version__, f"{sys.version_info.major}.{sys.version_info.minor}", version("ray"), digest)


class PlaceActor:
    """`generate` runs in a group of one thread, everything else in another, so that a busy place answers."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._life = secrets.token_hex(8)
        self._server, self._heard_s = "", 0.0
        self._jobs: queue.SimpleQueue[tuple[told.Work, bytes | None, queue.SimpleQueue[told.Event]]]
        self._jobs = queue.SimpleQueue()
        self._taken: str | None = None
        self._maker: Maker | None = None
        self._ready = self._broken = False
        self._why: str | None = "it opens the bundle"
        self._opened = Opened("", False, None)
        threading.Thread(target=self._live, name="ffrt-place", daemon=True).start()

    def hello(self, server: str) -> dict[str, str]:
        """What this place is; from now on it belongs to `server`, unless another one spoke to it just now.

        Plain words, so that another version of ffrt can read them: the fields of `Facts`, `life`, `node`, `asked` (of
        the server that made the place), and `server`, whose it is.
        """
        from ray import get_runtime_context

        now_s = time.monotonic()
        if self._server in ("", server) or now_s - self._heard_s > HELD_S:
            self._server, self._heard_s = server, now_s
        told_of = facts(self._digest())
        node = str(get_runtime_context().get_node_id())
        return {**vars(told_of), "life": self._life, "node": node, "asked": repr(self._asked), "server": self._server}

    def health(self, server: str) -> Health:
        """How it is; the server that it belongs to asks this every second."""
        if server == self._server:
            self._heard_s = time.monotonic()
        opened = self._opened
        return Health(
            life=self._life,
            server=self._server,
            current=self._taken,
            ready=self._ready,
            broken=self._broken,
            why=self._why,
            provider=opened.provider if opened.provider else None,
            on_gpu=opened.on_gpu,
            free=opened.free,
        )

    def cancel(self, job_id: str) -> None:
        """Stop a job in mid-step, if it is the one that runs."""
        if self._maker is not None:
            self._maker.cancel(job_id)

    def generate(self, work: told.Work, saved: bytes | None) -> Iterator[list[told.Event]]:
        """As `Executor.run`; without an end if the place is not ready.

        What happened since the last item comes together, since steps of a small network are faster than messages.
        """
        if not self._ready:
            return
        self._taken = work.id
        try:
            events: queue.SimpleQueue[told.Event] = queue.SimpleQueue()
            self._jobs.put((work, saved, events))
            some: list[told.Event] = []
            sent_s = 0.0
            while not some or not isinstance(some[-1], told.ENDS):
                some = gathered(events, sent_s + GATHER_S)
                if isinstance(some[-1], told.ENDS):
                    self._taken = None
                yield some
                sent_s = time.monotonic()
        finally:
            self._taken = None

    def _live(self) -> None:
        """The thread that opens, makes and probes."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(log_to())
            try:
                folder = stack.enter_context(work_folder(Path(tempfile.gettempdir())))
                maker = Maker(self._settings(folder / "scratch"))
                maker.open(self._open)
                self._maker = maker
                self._ready, self._why = True, None
                while not self._broken:
                    self._once(maker)
            except BaseException as error:  # whatever it is, the server says it and has another process started
                self._break(words(error))

    def _once(self, maker: Maker) -> None:
        try:
            work, saved, events = self._jobs.get(timeout=PROBE_S)
        except queue.Empty:
            if self._opened.on_gpu:
                maker.probe()
            return
        end = maker.make(work, saved, events.put)
        fault = end.message if isinstance(end, told.Failed) and end.retryable else None
        if fault is not None:
            self._ready = False  # no job comes after this one
        events.put(end)  # before it is told as broken, since the server ends a process that is
        if fault is not None:
            self._break(fault)

    def _open(self, opened: Opened) -> None:
        if self._asked.gpu and not opened.on_gpu:
            raise BundleError(
                f"expected a GPU, got {opened.provider}; on that machine type: pip install 'ffrt[cuda,ray]', or start "
                " the server with --provider cpu"
            )
        self._opened, self._why = opened, "it warms up"

    def _break(self, why: str) -> None:
        self._ready, self._broken, self._why = False, True, why

    def _settings(self, scratch: Path) -> EngineSettings:
        asked = self._asked
        return EngineSettings(
            place=asked.place,
            bundle=find_bundle(asked.bundle),
            digest=asked.digest,
            scratch=scratch,
            provider=asked.provider,
            threads=asked.threads,
            memory=asked.memory,
            mend="copy the server's bundle to that machine",
        )

    def _digest(self) -> str:
        """The digest of the bundle here, or why there is none."""
        try:
            return hashlib.sha256((find_bundle(self._asked.bundle) / MANIFEST).read_bytes()).hexdigest()
        except (FfrtError, OSError) as error:
            return f"none ({error})"


def gathered(events: queue.SimpleQueue[told.Event], until_s: float) -> list[told.Event]:
    """The next event, and those that follow until a time or the end of the job."""
    some = [events.get()]
    while not isinstance(some[-1], told.ENDS):
        try:
            some.append(events.get(timeout=max(0.0, until_s - time.monotonic())))
        except queue.Empty:
            break
    return some
