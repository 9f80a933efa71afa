"""What Linux says about a process: its memory, processor time, files and threads, and who its children are."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """A process at one moment: resident bytes, its own bytes of them, seconds of processor time, open files, threads.

    The rest of the resident bytes are pages of files, which the system takes and gives back as it likes.
    """

    rss: int
    own: int
    cpu_s: float
    files: int
    threads: int


def usage(pid: int) -> Usage | None:
    """What a process takes now; None if it is gone."""
    place = Path(f"/proc/{pid}")
    try:
        fields = (place / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        shared = int((place / "statm").read_text(encoding="utf-8").split()[2])
        files = len(list((place / "fd").iterdir()))
    except OSError:
        return None
    # counted from the state, which is field 3 of proc(5): utime 14, stime 15, num_threads 20, rss 24
    pages = int(fields[21])
    cpu_s = (int(fields[11]) + int(fields[12])) / TICKS
    return Usage(pages * PAGE, (pages - shared) * PAGE, cpu_s, files, int(fields[17]))


def children(pid: int) -> list[int]:
    """The processes that any thread of a process has started."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found |= {int(word) for word in (task / "children").read_text(encoding="utf-8").split()}
    return sorted(found)


def is_worker(pid: int) -> bool:
    """Whether a process was spawned to make videos; multiprocessing has another child that keeps its books."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; those that go meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
