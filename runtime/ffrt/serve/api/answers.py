"""Errors as answers, for every way in which a request can fail."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from ffrt.serve.api.schema import ErrorBody
from ffrt.serve.errors import Refused, StoreError, error_body

CODES = {404: "not_found", 405: "method_not_allowed"}


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for `/openapi.json`; 400 and 500 may come from any."""
    return {code: {"model": ErrorBody} for code in sorted({400, 500, *codes})}


def add_handlers(app: FastAPI) -> None:
    """Give every error the one form that clients read."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse(error.body, error.status, dict(error.headers))

    @app.exception_handler(StoreError)
    async def store(request: Request, error: StoreError) -> JSONResponse:
        body = error_body(503, "not_ready", "the table of jobs cannot be read now; ask again")
        return JSONResponse(body, 503, {"retry-after": "5"})

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> JSONResponse:
        code = CODES.get(error.status_code, "invalid_value")
        body = error_body(error.status_code, code, str(error.detail))
        headers = {name.lower(): value for name, value in ({} if error.headers is None else error.headers).items()}
        if error.status_code == 405:
            headers["allow"] = ", ".join(sorted(_methods(request)))
        return JSONResponse(body, error.status_code, headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        """The guard writes it into the log, under the same number."""
        number = getattr(request.state, "request_id", "")
        return JSONResponse(error_body(500, "internal_error", f"a fault of the server, {number}"), 500)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = str(first["loc"][-1])[:80]
        body = error_body(400, "invalid_value", f"{param}: {first['msg']}, got {first.get('input')!r:.100}", param)
        return JSONResponse(body, 400)


def _methods(request: Request) -> set[str]:
    """The methods that the path of a request takes."""
    found: set[str] = set()
    for method in ("GET", "POST", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            found.add(method)
    return found
