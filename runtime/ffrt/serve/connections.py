"""Connections that ask for nothing are closed, so that whoever holds many of them keeps nobody else out."""

from __future__ import annotations

import asyncio
import json
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

from ffrt.serve.errors import error_body

MAX_CONNECTIONS = 768
"""Well above the requests that are answered at a time, and below the 1024 files that a process may often open."""
MAX_ACCEPTED = 64
"""Connections taken in one turn of the event loop: those that are too many are closed in later ones.

asyncio would take all that wait, and where the process may open no more files write two thousand errors, each turn.
"""
HEAD_S = 10.0
"""The longest time from the first sign of a request, or from the connection, to the end of its headers."""


class Connection(H11Protocol):
    """uvicorn's connection, with a time for the head of every request and a limit to how many there are.

    Pauses between two requests are uvicorn's `timeout_keep_alive`, and answers may take as long as they want.
    """

    idle_since_s = 0.0
    """When it began to wait for a request, of a monotonic clock."""
    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; where there are too many connections, one that waits longest is closed."""
        super().connection_made(transport)
        self._wait_for_head()
        if len(self.connections) > MAX_CONNECTIONS:
            idle = [one for one in self.connections if isinstance(one, Connection) and one.waits]
            min(idle, key=lambda one: one.idle_since_s).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Its end."""
        self._forget_head()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Read what came; the time runs on while that is a part of a head."""
        super().handle_events()
        if not self.waits:
            self._forget_head()
        elif self._head is None and self.timeout_keep_alive_task is None:
            self._wait_for_head()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP has an error of the form of every other; amid an answer there is no place for one."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps(error_body(400, "invalid_http", msg))
            kind = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
            self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{kind}\r\n\r\n{body}".encode())
        self.transport.close()

    def on_response_complete(self) -> None:
        """An answer is whole, and the pause before the next request begins."""
        self.idle_since_s = time.monotonic()
        super().on_response_complete()

    @property
    def waits(self) -> bool:
        """Whether it is open and nothing that came on it is being answered."""
        return (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing()

    def _wait_for_head(self) -> None:
        self.idle_since_s = time.monotonic()
        self._head = self.loop.call_later(HEAD_S, self.transport.abort)

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
