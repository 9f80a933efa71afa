"""What the dispatcher asks of places that make videos, and the events that they answer with.

A place runs one job at a time. Nothing here knows of HTTP or of a database, and results travel as bytes, so a place may
be a child process or another machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from ffrt.backend.free_memory import FreeMemory

GPU = re.compile(r"[0-9]+|(?:GPU|MIG)-\S+")
"""How CUDA_VISIBLE_DEVICES names one: by its number, or by the id of a card or of a part of one."""


class Replaced(StrEnum):
    """Why the process of a place was replaced by another one."""

    ENDED = "ended"
    """It ended, and nobody here had it end: a crash, or a system without memory."""
    BROKEN = "broken"
    """It said that it cannot work."""
    ERROR = "error"
    """Its job failed in a way that nobody foresaw."""
    SILENT = "silent"
    """It said nothing for too long."""
    LEFT = "left"
    """Its job was given up, and it would have gone on with it."""


@dataclass(frozen=True)
class Place:
    """Where jobs can run. `ready` after warm-up; `why` says what is wrong; `current` is the job that runs.

    `free` is the memory before any graph was open. `seen_s` is when it last spoke, of a monotonic clock. `restarts`
    counts the processes that were replaced, by why.
    """

    id: str
    device: str
    provider: str | None = None
    on_gpu: bool = False
    free: FreeMemory | None = None
    current: str | None = None
    ready: bool = False
    why: str | None = "it starts"
    seen_s: float = 0.0
    restarts: Mapping[Replaced, int] = field(default_factory=dict)

    @property
    def free_bytes(self) -> int | None:
        """Free memory before any graph was open, None if it is not known."""
        return None if self.free is None else self.free.bytes

    def restarted(self, why: Replaced) -> Mapping[Replaced, int]:
        """`restarts` after one more."""
        return {**self.restarts, why: self.restarts.get(why, 0) + 1}


@dataclass(frozen=True)
class Work:
    """A job as a place gets it: the fields of a `Request` as JSON has them, and a picture to begin with."""

    id: str
    request: Mapping[str, Any]
    output_format: str
    picture: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Started:
    """The job runs; from now on it can be cancelled."""

    place: str


@dataclass(frozen=True)
class Progress:
    """A step is finished: `index` of `total` of a stage, from 0; `overall_index` of `overall_total`, from 1."""

    stage: str
    fps: int | None
    index: int
    total: int
    overall_index: int
    overall_total: int
    step_s: float


@dataclass(frozen=True)
class Preview:
    """The current estimate of the first frame, as WebP."""

    webp: bytes = field(repr=False)


@dataclass(frozen=True)
class Checkpoint:
    """The end of a stage. `saved` is a file that `ffrt.Checkpoint.load` reads."""

    stage: str
    saved: bytes = field(repr=False)


@dataclass(frozen=True)
class Warned:
    """What a client should know though nothing failed."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The files of a finished job; `grid` is columns and rows of the sprite sheet."""

    video: bytes = field(repr=False)
    thumbnail: bytes = field(repr=False)
    spritesheet: bytes = field(repr=False)
    grid: tuple[int, int]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """The job has no video. `retryable`: the place is replaced, and the job may be tried once more."""

    code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True)
class Stopped:
    """The job was cancelled, and the place is free."""


Event = Started | Progress | Preview | Checkpoint | Warned | Finished | Failed | Stopped
ENDS = (Finished, Failed, Stopped)
"""The events that are the last one of a run."""


class Executor(Protocol):
    """Places, and how a job runs on one. Every method may be called from any thread."""

    def places(self) -> list[Place]:
        """All places as they are now."""

    def run(self, place: str, work: Work, checkpoint: bytes | None) -> Iterator[Event]:
        """Run a job on an idle place, from the end of a stage if there is a checkpoint. The last event is an end.

        Raises PlaceLost if the place is gone, or was silent for too long.
        """

    def cancel(self, place: str, job_id: str) -> None:
        """Stop a job in mid-step, if it is the one that runs there; a run that began ends with `Stopped`."""

    def close(self) -> None:
        """End every place at once."""
