"""Cancelling one request from another thread, in the middle of an operator."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from ffrt.errors import Cancelled

WAIT_S = 0.05
"""Seconds between two looks at the cancellation of a call that waits."""


class Cancellation:
    """The cancellation of one request, passed with every call that the request makes.

    Once cancelled it stays cancelled: what runs is aborted, and nothing else that carries it starts.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may call cancel() in the thread that holds it
        self._cancelled = False
        self._aborts: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Abort what runs: it raises Cancelled within one operator. For any thread, signal handler or callback."""
        with self._lock:
            self._cancelled = True
            for abort in self._aborts:
                abort()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def check(self, what: str) -> None:
        """Raise Cancelled if `what` must not start any more."""
        if self._cancelled:
            raise Cancelled(f"{what} was not started: the request was cancelled")

    @contextlib.contextmanager
    def aborts(self, abort: Callable[[], None], what: str) -> Iterator[None]:
        """Run a block that `abort()` makes fail. Raises Cancelled before it starts, or in place of the error."""
        with self._lock:
            self.check(what)
            self._aborts.append(abort)
        try:
            yield
        except Cancelled:
            raise
        except Exception:
            if not self._cancelled:
                raise
            raise Cancelled(f"{what} was stopped before its end: the request was cancelled") from None
        finally:
            with self._lock:
                self._aborts.remove(abort)


def token(cancellation: Cancellation | None) -> Cancellation:
    """The cancellation that a call was given, or one that nobody cancels."""
    return Cancellation() if cancellation is None else cancellation


class Turn:
    """One call at a time; waiting for it can be cancelled. A forked child begins with nobody's turn."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}  # by process: in a child nobody gives back what was held

    @contextlib.contextmanager
    def taken(self, cancellation: Cancellation, what: str) -> Iterator[None]:
        """Run a block as the only one; raises Cancelled if `cancellation` comes before its turn."""
        lock = self._locks.setdefault(os.getpid(), threading.Lock())
        while not lock.acquire(timeout=WAIT_S):
            cancellation.check(what)
        try:
            yield
        finally:
            lock.release()
