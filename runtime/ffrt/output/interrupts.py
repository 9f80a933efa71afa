"""Ctrl-C and SIGTERM at moments that must not be cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Handlers of SIGINT and SIGTERM run when the block is over, not within it.

    Python runs handlers in the main thread, so that in any other one there is nothing to hold.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in before.items() if callable(handler)}
    caught: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda caught_number, frame: caught.append((caught_number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for caught_number, frame in caught:
            handlers[signal.Signals(caught_number)](caught_number, frame)
