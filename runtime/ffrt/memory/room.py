"""Whether a request fits into the memory that is free, and what would fit instead."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ffrt.backend.free_memory import FreeMemory, free_memory
from ffrt.backend.runner import Memory
from ffrt.bundle import Bundle
from ffrt.errors import OutOfMemoryError
from ffrt.memory.estimate import Estimate, Run, estimate

logger = logging.getLogger("ffrt")

UNFITTED = 0.4
"""How much of the least another engine of the CPU may do with: OpenVINO decodes in half of it."""


@dataclass(frozen=True)
class Room:
    """The memory that requests must fit in: how sessions hold weights, on which device, and how much is free.

    `fitted` says whether estimates were fitted to the provider's engine.
    """

    memory: Memory
    on_gpu: bool
    free: FreeMemory | None
    fitted: bool = True

    @classmethod
    def here(cls, memory: Memory = "fast", on_gpu: bool = False, fitted: bool = True) -> Room:
        """What is free now on this machine, or on its first GPU."""
        return cls(memory, on_gpu, free_memory(on_gpu), fitted)


@dataclass(frozen=True)
class Need:
    """What the memory of a request depends on: `runs` one after the other, on frames of `height` and `width` in pixels.

    `what` says in an error what they are for. `simpler` are runs that would do for less, with the argument for them,
    and `size` is how a smaller size is told.
    """

    what: str
    height: int
    width: int
    runs: tuple[Run, ...]
    simpler: tuple[tuple[str, tuple[Run, ...]], ...] = ()
    size: str = "height={height}, width={width}"


def wanted(bundle: Bundle, need: Need, memory: Memory, on_gpu: bool = False) -> Estimate:
    """What a request takes."""
    latent = need.height * need.width // bundle.video.downscale**2
    return estimate(bundle, need.runs, latent, memory, on_gpu)


def check_memory(bundle: Bundle, need: Need, room: Room) -> None:
    """Raise OutOfMemoryError, which says what would fit, if a request cannot fit; where free memory is unknown, pass.

    It is refused where the least that it takes is more than is free. Between that and the estimate it may fit, which
    the logger "ffrt" says as a warning.
    """
    if room.free is None:
        return
    asked = wanted(bundle, need, room.memory, room.on_gpu)
    if asked.taken <= room.free.bytes:
        return
    least = asked.least if room.fitted else int(UNFITTED * asked.least)
    leaves = f"{room.free.limit} leaves {_readable(room.free.bytes)}"
    about = f"{need.what} with memory={room.memory!r} needs"
    if least <= room.free.bytes:
        logger.warning("%s about %s, and %s; it may not fit", about, _readable(asked.taken), leaves)
        return
    fits = list(_fits(bundle, need, room))
    advice = f"what would fit: {' or '.join(fits)}" if fits else "no smaller request of this bundle would fit"
    raise OutOfMemoryError(f"{about} at least {_readable(least)}, and {leaves}; {advice}")


def _fits(bundle: Bundle, need: Need, room: Room) -> Iterator[str]:
    """The arguments of requests that need less and fit."""
    assert room.free is not None
    free = room.free.bytes

    def taken(other: Need, memory: Memory) -> int:
        return wanted(bundle, other, memory, room.on_gpu).taken

    if room.memory == "fast" and taken(need, "low") <= free:
        yield 'memory="low"'
    for told, runs in need.simpler:
        if taken(replace(need, runs=runs), room.memory) <= free:
            yield told
    for other in _smaller(bundle, need):
        if taken(other, room.memory) <= free:
            yield need.size.format(height=other.height, width=other.width)
            return


def _smaller(bundle: Bundle, need: Need) -> Iterator[Need]:
    """Requests of smaller frames of about the same aspect ratio, the largest first."""
    multiple = bundle.video.size_multiple
    for height in range(need.height - multiple, 0, -multiple):
        width = max(multiple, need.width * height // need.height // multiple * multiple)
        yield replace(need, height=height, width=width)


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
