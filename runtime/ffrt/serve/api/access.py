"""Who asks: the API key of a request, or the session of the page that made it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from starlette.requests import Request

from ffrt.serve.errors import Refused
from ffrt.serve.keys import NOBODY, Key, Keys
from ffrt.serve.sessions import Sessions

Asker = Callable[[Request], Key]
COOKIE = "ffrt_session"


def asker(keys: Keys, with_keys: bool, sessions: Sessions) -> Asker:
    """A function that gives the key of a request, or raises Refused; without keys everybody is the same.

    A header wins over the cookie of a session.
    """

    def ask(request: Request) -> Key:
        if not with_keys:
            return NOBODY
        key = known(request)
        request.state.key = key.name  # for the log
        return key

    def known(request: Request) -> Key:
        if "authorization" in request.headers:
            return bearer(request, keys)
        token = session_token(request)
        key = None if token is None else sessions.find(token)
        if key is None:
            raise unknown()
        return key

    return ask


def bearer(request: Request, keys: Keys) -> Key:
    """The key in the header of a request. Raises Refused."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    key = keys.find(token.strip()) if kind.lower() == "bearer" else None
    if key is None:
        raise unknown()
    return key


def unknown() -> Refused:
    """401: a key is wanted, and none that is known came."""
    return Refused(
        401,
        "invalid_api_key",
        "expected the header 'Authorization: Bearer ffrt_...' with a key of 'ffrt serve keys add'",
        headers={"www-authenticate": "Bearer"},
    )


def cookie_name(request: Request) -> str:
    """The cookie of a server: browsers share cookies between the ports of a host, and two servers may be on one."""
    port = request.url.port
    return COOKIE if port is None else f"{COOKIE}_{port}"


def session_token(request: Request) -> str | None:
    """What a cookie says, if the page that asks is our own. Raises Refused for another page.

    A browser sends the cookie for pages of other ports of the same host too, since they are the same site.
    """
    token = request.cookies.get(cookie_name(request))
    if token is None:
        return None
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin not in (None, own) or site not in (None, "none", "same-origin"):
        raise Refused(403, "origin_not_allowed", f"a session is for the page of this server, got {origin!r:.100}")
    return token


def is_loopback(request: Request) -> bool:
    """Whether a request comes from this machine, and not through a proxy on it."""
    if request.client is None or "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
