"""What a forked child inherits of an engine: objects whose threads are not in its process, and locks as they were."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator


def keep_for_ever(*objects: object) -> None:
    """Never destroy these objects: their destructors would wait for threads that a forked child does not have."""
    for value in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


class ForkGate:
    """Blocks that no fork happens in: `os.fork` waits until all other threads have left them.

    An engine holds locks of its whole process in them, which nobody in a forked child would ever give back.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: list[int] = []
        if hasattr(os, "register_at_fork"):
            leave = self._changed.release
            os.register_at_fork(before=self._wait, after_in_parent=leave, after_in_child=leave)

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Run a block; any number of threads may at the same time."""
        own = threading.get_ident()
        with self._changed:
            self._inside.append(own)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(own)
                self._changed.notify_all()

    def _wait(self) -> None:
        """Take the lock once no other thread is inside; this thread may be, where a signal handler forks."""
        own = threading.get_ident()
        self._changed.acquire()
        self._changed.wait_for(lambda: all(thread == own for thread in self._inside))


OPENING = ForkGate()
"""Around the opening of a graph by an engine whose sessions a forked child can open anew."""
