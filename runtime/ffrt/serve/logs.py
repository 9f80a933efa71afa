"""What the server says on stderr: a JSON object a line, or text on a terminal. Prompts are in it only if asked for."""

from __future__ import annotations

import contextlib
import json
import logging
import select
import sys
import time
from collections.abc import Iterator
from typing import TextIO

FACTS = ("request_id", "video_id", "key", "place", "attempt", "stage", "seconds", "method", "route", "code", "prompt")
"""What a record may carry beside its message, as `extra`."""
PATIENCE_MS = 100
"""How long a line waits for a reader that is slow."""


class Lines(logging.Formatter):
    """One line for each record."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, with its traceback inside."""
        facts = {name: getattr(record, name) for name in FACTS if hasattr(record, name)}
        event = record.getMessage()
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        if self._as_json:
            line = {"ts": round(record.created, 3), "level": record.levelname.lower(), "event": event, **facts}
            return json.dumps(line, default=str)
        words = " ".join(f"{name}={value}" for name, value in facts.items())
        return f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {event} {words}".rstrip()


class Written(logging.StreamHandler[TextIO]):
    """Writes lines that the stream takes; others are counted, and the process goes on.

    A pipe that nobody reads, or a terminal that was stopped, would hold every thread that has something to say.
    """

    _lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, and before it how many were not written."""
        if not self._takes_more():
            self._lost += 1
            return
        if self._lost:
            told = f"{self._lost} lines were lost: nobody read the log"
            self._lost = 0
            super().emit(logging.LogRecord(record.name, logging.WARNING, "", 0, told, None, None))
        super().emit(record)

    def _takes_more(self) -> bool:
        """Whether a line can be written without waiting for long; after one that was lost, without waiting."""
        try:
            number = self.stream.fileno()
        except (OSError, ValueError):  # no file, or one that is closed
            return True
        poll = select.poll()
        poll.register(number, select.POLLOUT)
        return bool(poll.poll(0 if self._lost else PATIENCE_MS))


@contextlib.contextmanager
def log_to(stream: TextIO | None = None, level: int = logging.INFO) -> Iterator[None]:
    """A block in which this package, uvicorn and asyncio write to a stream, stderr if none is given; for a command."""
    stream = sys.stderr if stream is None else stream
    handler = Written(stream)
    handler.setFormatter(Lines(as_json=not stream.isatty()))
    before = []
    for name, least in (("ffrt", level), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        before.append((logger, logger.handlers, logger.level, logger.propagate))
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)
    try:
        yield
    finally:
        for logger, handlers, old, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(old)
