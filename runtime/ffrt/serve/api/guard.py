"""What every request passes before any route: the name it asks for, where it comes from, how much it sends.

And what every answer carries. Plain ASGI around everything else, so that no route can forget it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import secrets
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ffrt.serve.api.metrics.recorded import Metrics
from ffrt.serve.errors import Refused, error_body
from ffrt.serve.jobs.data import ID

logger = logging.getLogger("ffrt.serve")
MAX_HEADER_BYTES = 16 << 10
BODY_S = 20.0
"""The longest time between two pieces of a body."""
SAFE = ("GET", "HEAD", "OPTIONS")
ALWAYS = ("/health", "/health/ready", "/metrics")
"""What is answered whatever the load: a supervisor that hears nothing would end a server that is only busy."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Names of hosts, origins, the size of bodies, headers, numbers of requests, and errors that nobody foresaw."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        origins: Collection[str],
        most: int,
        requests: int,
        metrics: Metrics,
    ) -> None:
        """`hosts` without ports, `*` for any; `origins` that may post beside our own; `most` bytes of a body.

        `requests` are answered at a time.
        """
        self._app, self._hosts, self._origins, self._most, self._metrics = app, hosts, origins, most, metrics
        self._requests, self._open = requests, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, request_id, status = time.monotonic(), f"req_{secrets.token_hex(8)}", 0
        scope.setdefault("state", {})["request_id"] = request_id

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self._open += 1
        try:
            self._check(scope)
            await self._app(scope, self._counted(scope, receive), told)
        except Refused as error:
            if status == 0:
                await _answer(told, error.status, error.body, dict(error.headers))
        except Exception:
            logger.exception("a fault of the server", extra={"request_id": request_id})
            if status == 0:
                await _answer(told, 500, error_body(500, "internal_error", f"a fault of the server, {request_id}"), {})
        finally:
            self._open -= 1
            route = getattr(scope.get("route"), "path", "none")
            seconds = time.monotonic() - began_s
            self._metrics.answered(route, scope["method"], status, seconds)
            facts = {"request_id": request_id, "method": scope["method"], "route": route, "code": status}
            id = str(scope.get("path_params", {}).get("id", ""))
            if ID.fullmatch(id) is not None:
                facts["video_id"] = id
            if "key" in scope.get("state", {}):
                facts["key"] = scope["state"]["key"]
            logger.info("request", extra={**facts, "seconds": round(seconds, 4)})

    def _check(self, scope: Scope) -> None:
        if self._open > self._requests and scope["path"] not in ALWAYS:
            raise Refused(
                503,
                "overloaded",
                f"expected at most {self._requests} requests at a time, got more; ask again",
                headers={"retry-after": "5"},
            )
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
            raise Refused(431, "headers_too_large", f"expected headers of at most {MAX_HEADER_BYTES} bytes, got more")
        host = headers.get("host", "")
        if "*" not in self._hosts and not _known(_name(host), self._hosts):
            raise Refused(400, "invalid_host", f"Host: expected one of {sorted(self._hosts)}, got {host!r:.100}")
        origin = headers.get("origin")
        ours = origin is None or origin in self._origins or origin == f"{scope['scheme']}://{host}"
        if scope["method"] not in SAFE and not ours:
            raise Refused(403, "origin_not_allowed", f"Origin: expected none, or our own, got {origin!r:.100}")
        length = headers.get("content-length")
        if length is not None and (not length.isdecimal() or int(length) > self._most):
            raise _too_large(self._most)

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that counts, for a body that does not say its length, and that waits for no body for ever."""
        got, whole = 0, False

        async def counted() -> Message:
            nonlocal got, whole
            try:
                async with asyncio.timeout(None if whole else BODY_S):
                    message = await receive()
            except TimeoutError:
                raise Refused(
                    408,
                    "body_too_slow",
                    f"expected the rest of the body within {BODY_S:g} s, got nothing; send it again",
                ) from None
            whole = not message.get("more_body", False)
            got += len(message.get("body", b""))
            if got > self._most:
                raise _too_large(self._most)
            return message

        return counted


def _known(name: str, hosts: Collection[str]) -> bool:
    """A name of ours, or an address: a page can point a foreign name at this machine, and no address."""
    if name in hosts:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _too_large(most: int) -> Refused:
    return Refused(413, "body_too_large", f"expected a body of at most {most} bytes, got more")


async def _answer(send: Send, status: int, body: object, headers: dict[str, str]) -> None:
    raw = json.dumps(body).encode()
    named = {"content-type": "application/json", "content-length": str(len(raw)), **headers}
    pairs = [(name.encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": raw})
