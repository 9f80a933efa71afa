"""Server-Sent Events of one job: where it is now, then every change, until its end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from ffrt.serve.api.service import Service
from ffrt.serve.errors import StoreError
from ffrt.serve.jobs.job import Job, State
from ffrt.serve.jobs.store import Store

PING_S = 15.0
LEAST_S = 0.25
"""Between two events; a reader that is slow gets the newest state and no backlog."""
NAMES = {State.QUEUED: "queued", State.IN_PROGRESS: "progress", State.COMPLETED: "completed"}


async def events(service: Service, job: Job, known: int | None) -> AsyncIterator[bytes]:
    """The stream of a job; `known` is the version that the reader has seen already."""
    id, ends_s = job.id, time.monotonic() + service.limits.stream_s
    changed = service.live.watch(id)
    last, seen_preview = known, 0
    try:
        while True:
            changed.clear()
            now = await service.store.ask(Store.find, id)
            if now is None:  # deleted: nothing will follow
                return
            version, live = service.live.version(now), service.live.of(id)
            if version != last or now.state.terminal:
                last = version
                (video,) = await service.show(now)
                yield _event(NAMES.get(now.state, "failed"), version, video.model_dump_json())
            if live is not None and live.preview_version > seen_preview and not now.state.terminal:
                seen_preview = live.preview_version
                where = {"url": f"/v1/videos/{id}/preview", "step": live.step, "stage": live.stage}
                yield _event("preview", version, json.dumps(where))
            if now.state.terminal:
                return
            if service.ending.is_set():
                yield _event("shutdown", version, "{}")
                return
            if time.monotonic() > ends_s:
                return
            await asyncio.sleep(LEAST_S)
            while not changed.is_set() and not service.ending.is_set() and time.monotonic() < ends_s:
                try:
                    await asyncio.wait_for(changed.wait(), PING_S)
                except TimeoutError:
                    yield b": ping\n\n"
    except StoreError:
        return  # the client comes again
    finally:
        service.live.unwatch(id, changed)


def _event(name: str, version: int, data: str) -> bytes:
    return f"event: {name}\nid: {version}\ndata: {data}\n\n".encode()
