"""Stdout as the place of a video: never a terminal, and left as soon as nobody reads it."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from ffrt.backend.cancel import WAIT_S
from ffrt.errors import RequestError

PIECE_BYTES = select.PIPE_BUF
"""A pipe that can be written takes so many bytes at once, without waiting."""


def refuse_terminal() -> None:
    """Raise RequestError where stdout is a terminal."""
    if sys.stdout.isatty():
        raise RequestError(
            "path: expected a pipe or a file for the bytes of the video, got a terminal; type '-o - | ffplay -', "
            "or '-o video.mp4'"
        )


class StdoutPipe:
    """Stdout for bytes. A write waits for the reader no longer than until `check` raises."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._number = sys.stdout.fileno()
        self._check = check

    def write(self, data: bytes) -> int:
        """Write everything. Raises BrokenPipeError where the reader has gone, and what `check` raises."""
        rest = memoryview(data)
        while len(rest) > 0:
            self._check()
            if select.select([], [self._number], [], WAIT_S)[1]:
                rest = rest[os.write(self._number, rest[:PIECE_BYTES]) :]
        return len(data)

    def check_reader(self) -> None:
        """Raise BrokenPipeError where the reader has gone."""
        poll = select.poll()
        poll.register(self._number, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise BrokenPipeError("the reader of stdout has gone")
