"""The application: routes over a service, behind the guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from ffrt import __version__
from ffrt.serve.api.about import about
from ffrt.serve.api.access import asker
from ffrt.serve.api.answers import add_handlers
from ffrt.serve.api.content import content
from ffrt.serve.api.guard import Guard
from ffrt.serve.api.page import page
from ffrt.serve.api.service import Service
from ffrt.serve.api.session import session
from ffrt.serve.api.videos import videos
from ffrt.serve.sessions import Sessions


def build(service: Service, *, hosts: Sequence[str], origins: Sequence[str] = ()) -> ASGIApp:
    """The ASGI application. `hosts` are the names that clients may use for it, `origins` foreign pages that may."""

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        service.live.bind(asyncio.get_running_loop())
        yield

    app = FastAPI(title="ffrt", version=__version__, docs_url=None, redoc_url=None, lifespan=alive)
    add_handlers(app)
    sessions = Sessions(service.keys)
    ask = asker(service.keys, service.with_keys, sessions)
    app.include_router(content(service, ask))
    app.include_router(videos(service, ask))
    app.include_router(about(service, ask))
    app.include_router(session(service, sessions))
    app.include_router(page())
    limits = service.limits
    takes_picture = service.bundle.keyframes.image is not None
    most = limits.body_with_picture if takes_picture else limits.body
    inner: ASGIApp = app
    if origins:
        inner = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
            expose_headers=["x-request-id", "x-spritesheet", "openai-poll-after-ms", "retry-after"],
        )
    return Guard(inner, hosts=hosts, origins=origins, most=most, requests=limits.requests, metrics=service.metrics)
