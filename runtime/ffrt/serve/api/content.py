"""The routes that give files, pictures and events of a video."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from ffrt.serve.api.access import Asker
from ffrt.serve.api.answers import errors
from ffrt.serve.api.openapi import body_schema
from ffrt.serve.api.service import Service
from ffrt.serve.api.stream import events
from ffrt.serve.api.videos import created
from ffrt.serve.errors import Refused
from ffrt.serve.jobs.job import Job, State
from ffrt.serve.keys import Key

TYPES = {"mp4": "video/mp4", "webm": "video/webm", "gif": "image/gif"}
ONE_RANGE = r"(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})"
RANGES = re.compile(rf"(?i:bytes)={ONE_RANGE}(?:[ \t]*,[ \t]*{ONE_RANGE})*")
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
FILES: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": BINARY} for kind in (*TYPES.values(), "image/webp")}},
    206: {"description": "a range"},
    304: {"description": "as the client has it"},
    416: errors(416)[416],
}
PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {"schema": BINARY}}}, 304: FILES[304]}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


def content(service: Service, ask: Asker) -> APIRouter:
    """The routes over one service."""
    router = APIRouter(prefix="/v1/videos", tags=["content"])

    @router.post(
        "/sync",
        response_class=Response,
        responses={**FILES, **errors(401, 403, 404, 408, 413, 415, 422, 429, 503, 507)},
        openapi_extra=body_schema(service.bundle, service.limits),
    )
    async def sync(request: Request) -> Response:
        """Make a video and answer with its file. A client that leaves cancels it."""
        key = ask(request)
        service.syncs.take(key.name)
        try:
            job, _ = await created(service, ask, request)
            return await _made(service, job, key, request)
        finally:
            service.syncs.give(key.name)

    @router.get("/{id}/content", response_class=Response, responses={**FILES, **errors(401, 404)})
    async def file(
        id: str, request: Request, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
    ) -> Response:
        """The file of a finished video, whole or in ranges, or a picture of it."""
        return _file(service, await service.find(id, ask(request)), request, variant)

    @router.get("/{id}/preview", response_class=Response, responses={**PICTURE, **errors(401, 404)})
    async def preview(id: str, request: Request) -> Response:
        """The newest picture of a video that runs."""
        now = service.live.of((await service.find(id, ask(request))).id)
        if now is None or now.preview is None:
            raise Refused(404, "not_ready", "there is no preview now")
        headers = {"cache-control": "no-store", "etag": f'"{now.preview_version}"'}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(now.preview, media_type="image/webp", headers=headers)

    @router.get("/{id}/events", response_class=Response, responses={**STREAM, **errors(401, 404, 429)})
    async def stream(id: str, request: Request) -> Response:
        """What happens to a video, as Server-Sent Events."""
        key = ask(request)
        job = await service.find(id, key)
        seen = request.headers.get("last-event-id", "")
        known = int(seen) if seen.isdecimal() and len(seen) < 20 else None
        service.streams.take(key.name)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return _Stream(service, key, events(service, job, known), media_type="text/event-stream", headers=headers)

    return router


class _Stream(StreamingResponse):
    """A stream that gives its slot back, however it ends."""

    def __init__(self, service: Service, key: Key, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._service, self._key = service, key

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:
            self._service.streams.give(self._key.name)


class _File(FileResponse):
    """A file whose refusal of a range has the form of every error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 416:
                asked, has = Headers(scope=scope).get("range", ""), Headers(raw=message["headers"])["content-range"]
                size = has.rpartition("/")[2]
                raise Refused(
                    416,
                    "invalid_range",
                    f"Range: expected bytes of a file of {size}, got {asked!r:.100}",
                    param="Range",
                    headers={"content-range": has},
                )
            await send(message)

        await super().__call__(scope, receive, told)


async def _made(service: Service, job: Job, key: Key, request: Request) -> Response:
    """Wait for the end of a job while its client waits. Raises Refused."""
    while True:
        now = await service.ended(job.id, 1.0)
        if now is None:
            raise Refused(404, "not_found", "the video was deleted while it was made")
        if now.state.terminal:
            break
        if service.ending.is_set():
            raise Refused(
                503,
                "draining",
                f"the server ends; {job.id} is made when it is back, and can be fetched then",
                headers={"retry-after": "60", "x-should-retry": "false"},
            )
        if await request.is_disconnected():
            await service.cancel(now)
            raise Refused(400, "cancelled", "the client left")
    if now.state is not State.COMPLETED:
        code = "internal_error" if now.error_code is None else now.error_code
        status = 400 if code in ("does_not_fit", "invalid_reference", "invalid_value", "cancelled") else 500
        headers = {"x-should-retry": "false"}
        raise Refused(status, code, now.error_message or "the video was not made", headers=headers)
    response = _file(service, now, request, "video")
    response.headers["x-video-id"] = job.id
    return response


def _file(service: Service, job: Job, request: Request, variant: str) -> Response:
    """A file of a completed job. Raises Refused."""
    if job.state is not State.COMPLETED or job.result is None:
        raise Refused(404, "not_ready", f"the video is {job.state}; its file is there when it is completed")
    output = job.request["output_format"]
    suffix = {"video": f".{output}", "thumbnail": ".webp", "spritesheet": ".sprite.webp"}[variant]
    path: Path = service.data.file(job.id, suffix)
    if (job.expires_at is not None and job.expires_at <= time.time()) or not path.is_file():
        raise Refused(404, "expired", "the file was kept for its time and is gone; make the video again")
    etag = job.result["sha256"] if variant == "video" else f"{job.result['sha256']}-{variant}"
    headers = {"etag": f'"{etag}"', "content-disposition": f'inline; filename="{job.id}{suffix}"'}
    if variant == "spritesheet":
        columns, rows = job.result["grid"]
        headers["x-spritesheet"] = f"{columns}x{rows}"
    headers["cache-control"] = "private, no-cache"  # a browser asks each time: it may be deleted, or logged out
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    _forget_bad_ranges(request)
    return _File(path, media_type=TYPES[output] if variant == "video" else "image/webp", headers=headers)


def _forget_bad_ranges(request: Request) -> None:
    """Ranges of another unit or form are as none (RFC 9110, 14.2): the whole file is the answer."""
    asked = request.headers.get("range", "")
    backwards = any(int(first) > int(last) for first, last in re.findall(r"([0-9]{1,18})-([0-9]{1,18})", asked))
    if RANGES.fullmatch(asked) is None or backwards:
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
