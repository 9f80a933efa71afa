"""The routes under `/v1/videos` that ask for JSON: create, list, show, cancel, delete."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from ffrt.serve.api.access import Asker
from ffrt.serve.api.answers import errors
from ffrt.serve.api.body import read_body
from ffrt.serve.api.openapi import body_schema
from ffrt.serve.api.schema import Deleted, Video, VideoList
from ffrt.serve.api.service import Service
from ffrt.serve.errors import Refused
from ffrt.serve.jobs.job import Job, State
from ffrt.serve.jobs.store import Store
from ffrt.serve.jobs.traces import TRACEPARENT, traceparent_of

IDEMPOTENCY_KEY = re.compile(r"[A-Za-z0-9._:-]{1,255}")
LEAST_POLL_MS, MOST_POLL_MS = 250, 5000


def videos(service: Service, ask: Asker) -> APIRouter:
    """The routes over one service."""
    router = APIRouter(prefix="/v1/videos", tags=["videos"])

    @router.post(
        "",
        responses=errors(400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 507),
        openapi_extra=body_schema(service.bundle, service.limits),
    )
    async def create(request: Request, response: Response) -> Video:
        """Queue a video."""
        job, replayed = await created(service, ask, request)
        if replayed:
            response.headers["idempotency-replayed"] = "true"
        return (await service.show(job))[0]

    @router.get("", responses=errors(400, 401))
    async def page(
        request: Request,
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """The videos of a key, newest first."""
        key = ask(request)
        jobs, more = await service.store.ask(Store.page, key.name, after, limit, order == "desc")
        data = await service.show(*jobs)
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return VideoList(data=data, first_id=first, last_id=last, has_more=more)

    @router.get("/{id}", responses=errors(401, 404))
    async def show(id: str, request: Request, response: Response) -> Video:
        """One video; a header says when to ask again."""
        job = await service.find(id, ask(request))
        (video,) = await service.show(job)
        response.headers["openai-poll-after-ms"] = str(poll_after_ms(video))
        return video

    @router.post("/{id}/cancel", responses=errors(401, 403, 404, 507))
    async def cancel(id: str, request: Request) -> Video:
        """Stop a video that waits or runs; one that has ended stays as it is."""
        job = await service.find(id, ask(request))
        return (await service.show(await service.cancel(job)))[0]

    @router.delete("/{id}", responses={**errors(401, 403, 404, 507), 202: {"model": Deleted}}, response_model=Deleted)
    async def delete(id: str, request: Request) -> Response:
        """Remove a video and its files; one that runs is stopped first."""
        job = await service.find(id, ask(request))
        gone = await service.delete(job)
        return JSONResponse(Deleted(id=id, deleted=gone).model_dump(), 200 if gone else 202)

    return router


async def created(service: Service, ask: Asker, request: Request) -> tuple[Job, bool]:
    """The job of a request to create one. Raises Refused."""
    key = ask(request)
    name = request.headers.get("idempotency-key")
    if name is not None and IDEMPOTENCY_KEY.fullmatch(name) is None:
        raise Refused(
            400,
            "invalid_value",
            f"Idempotency-Key: expected 1 to 255 letters, digits and ._:-, got {name!r:.100}",
            param="Idempotency-Key",
        )
    asked, part = await read_body(request, service.limits)
    return await service.create(
        asked,
        part,
        key,
        name,
        traceparent=traceparent_of(request.headers.get(TRACEPARENT)),
        request_id=request.state.request_id,
    )


def poll_after_ms(video: Video) -> int:
    """When a client should look again: a tenth of the time that is left."""
    if video.state not in (State.QUEUED, State.IN_PROGRESS):
        return LEAST_POLL_MS
    left_s = 10.0 if video.eta_s is None else video.eta_s
    return int(min(MOST_POLL_MS, max(LEAST_POLL_MS, 100 * left_s)))
