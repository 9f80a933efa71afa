"""The routes of the page's session: log in with an API key, ask who it is, log out."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ffrt.serve.api.access import bearer, cookie_name, session_token
from ffrt.serve.api.service import Service
from ffrt.serve.errors import Refused
from ffrt.serve.sessions import LASTS_S, Sessions

NOT_KEPT = {"cache-control": "no-store"}


def session(service: Service, sessions: Sessions) -> APIRouter:
    """The routes over one service. They are for the page, so `/openapi.json` does not name them."""
    router = APIRouter(prefix="/session", include_in_schema=False)

    @router.get("")
    async def show(request: Request) -> Response:
        """Whether keys are wanted, whose session it is, and whether the server ends."""
        token = session_token(request) if service.with_keys else None
        key = None if token is None else sessions.find(token)
        name = None if key is None else key.name
        body = {"keys": service.with_keys, "name": name, "ending": service.ending.is_set()}
        return JSONResponse(body, headers=NOT_KEPT)

    @router.post("")
    async def begin(request: Request) -> Response:
        """Log in with the key in the header; the answer sets a cookie that scripts cannot read."""
        if not service.with_keys:
            raise Refused(404, "not_found", "this server asks for no keys, so there is nothing to log in to")
        token = sessions.begin(bearer(request, service.keys))
        response = Response(status_code=204, headers=NOT_KEPT)
        secure = request.url.scheme == "https"
        response.set_cookie(
            cookie_name(request), token, max_age=int(LASTS_S), path="/", secure=secure, httponly=True, samesite="strict"
        )
        return response

    @router.delete("")
    async def end(request: Request) -> Response:
        """Log out; the token is worth nothing from then on."""
        token = session_token(request)
        if token is not None:
            sessions.end(token)
        response = Response(status_code=204, headers=NOT_KEPT)
        response.delete_cookie(cookie_name(request), path="/", httponly=True, samesite="strict")
        return response

    return router
