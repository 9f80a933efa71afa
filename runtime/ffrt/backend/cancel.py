"""Ending what runs, from another thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from ffrt.errors import Cancelled

Yielded = TypeVar("Yielded")
Returned = TypeVar("Returned")


class Stop:
    """What one pipeline has under way, so that it can be ended in the middle of a step.

    A request under way is ended even where it is between two graphs: its next graph then does not start. `cancel` may
    be called from any thread, a signal handler or a callback; with nothing under way it does nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may call cancel() in the thread that holds it
        self._depth = 0
        self._asked = False
        self._enders: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """End what is under way: it raises Cancelled, within one operator of its graph."""
        with self._lock:
            self._asked = self._depth > 0
            for end in self._enders:
                end()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """A request: from here to the end of the block `cancel` has something to end."""
        with self._lock:
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._asked = False

    @contextlib.contextmanager
    def ends(self, end: Callable[[], None], what: str) -> Iterator[None]:
        """A call that `end()` makes fail: when that was asked for, its error becomes Cancelled."""
        asked = threading.Event()

        def told() -> None:
            asked.set()
            end()

        with self.under_way():
            with self._lock:
                if self._asked:
                    self._asked = False
                    raise Cancelled(f"{what} was not started: the request was cancelled")
                self._enders.append(told)
            try:
                yield
            except Exception:
                if not asked.is_set():
                    raise
                self._asked = False
                raise Cancelled(f"{what} was stopped before its end: the request was cancelled") from None
            finally:
                with self._lock:
                    self._enders.remove(told)

    def during(self, steps: Generator[Yielded, None, Returned]) -> Generator[Yielded, None, Returned]:
        """The same steps, as a request that is under way from the first of them to the last."""
        with self.under_way():
            return (yield from steps)
