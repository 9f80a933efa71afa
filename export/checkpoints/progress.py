"""Progress of a long copy, for people."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TextIO

SECONDS_PER_LINE = 2.0


class Progress:
    """A `report` for people: "unet 3.2 of 8.3 GB, 41 s left".

    On a terminal the line is rewritten in place, elsewhere there is one for every tenth that took seconds.
    """

    def __init__(self, label: str, stream: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic) -> None:
        self._label, self._stream, self._clock = label, stream, clock
        self._first: tuple[float, int] | None = None  # when, and the bytes of an earlier part: they took no time
        self._said: tuple[float, int] | None = None  # when, and at which tenth

    def __call__(self, done: int, total: int) -> None:
        """Say how far it is, if it is time to."""
        now = self._clock()
        if self._first is None:
            self._first = (now, done)
        tenth = 10 * done // total if total else 10
        terminal = self._stream.isatty()
        if self._said is not None and done < total and not self._is_due(now, tenth, terminal, *self._said):
            return
        self._said = (now, tenth)
        began, before = self._first
        seconds = (total - done) * (now - began) / (done - before) if done > before else None
        line = progress_line(self._label, done, total, seconds)
        end = "\n" if done >= total or not terminal else ""
        self._stream.write(f"\r\x1b[K{line}{end}" if terminal else f"{line}{end}")
        self._stream.flush()

    def _is_due(self, now: float, tenth: int, terminal: bool, last: float, last_tenth: int) -> bool:
        return now - last >= 0.1 if terminal else tenth != last_tenth and now - last >= SECONDS_PER_LINE


def progress_line(label: str, done: int, total: int, seconds_left: float | None) -> str:
    """`seconds_left` is None where nothing is known yet."""
    unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
    line = f"{label} {done / unit:.1f} of {total / unit:.1f} {name}"
    if seconds_left is None or done >= total:
        return line
    seconds = math.ceil(seconds_left)
    return f"{line}, {seconds} s left" if seconds < 120 else f"{line}, {math.ceil(seconds / 60)} min left"
