"""Whether the server can make a video now, and why not."""

from __future__ import annotations

import time

from ffrt.serve.api.service import Service

SILENT_S = 15.0


def reasons(service: Service) -> list[str]:
    """What keeps the server from making videos now; nothing if it can."""
    found = []
    if service.ending.is_set():
        found.append("it ends")
    if not service.store.works:
        found.append("the table of jobs takes no write")
    places = service.executor.places()
    ready = [one for one in places if one.ready and time.monotonic() - one.seen_s < SILENT_S]
    if not ready:
        found += [f"{one.id}: {one.why if one.why is not None else 'it is silent'}" for one in places]
    try:
        free, total = service.data.free()
        if free < service.limits.floor(total):
            found.append("the disk is full")
    except OSError as error:
        found.append(f"the data folder cannot be read: {error}")
    return found


def report(service: Service) -> dict[str, object]:
    """The body of `/health/ready`."""
    found = reasons(service)
    places = [
        {
            "id": one.id,
            "device": one.device,
            "provider": one.provider,
            "ready": one.ready,
            "why": one.why,
            "busy": one.current is not None,
        }
        for one in service.executor.places()
    ]
    return {"ready": not found, "reasons": found, "places": places}
