"""Who asks: the API key of a request."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from starlette.requests import Request

from ffrt.serve.errors import Refused
from ffrt.serve.keys import NOBODY, Key, Keys

Asker = Callable[[Request], Key]


def asker(keys: Keys, with_keys: bool) -> Asker:
    """A function that gives the key of a request, or raises Refused; without keys everybody is the same."""

    def ask(request: Request) -> Key:
        if not with_keys:
            return NOBODY
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        key = keys.find(token.strip()) if kind.lower() == "bearer" else None
        if key is None:
            raise Refused(
                401,
                "invalid_api_key",
                "expected the header 'Authorization: Bearer ffrt_...' with a key of 'ffrt serve keys add'",
                headers={"www-authenticate": "Bearer"},
            )
        return key

    return ask


def is_loopback(request: Request) -> bool:
    """Whether a request comes from this machine, and not through a proxy on it."""
    if request.client is None or "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
