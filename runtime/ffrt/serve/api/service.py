"""What the server can do with jobs, behind every route: one object that is made at the start and handed on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ffrt.backend.providers import CPU
from ffrt.backend.runner import Memory
from ffrt.bundle import Bundle
from ffrt.memory.room import Room
from ffrt.serve.api.check import checked, picture_of, refuse
from ffrt.serve.api.metrics.recorded import Metrics
from ffrt.serve.api.schema import CreateVideo, Video
from ffrt.serve.api.video import video_of
from ffrt.serve.engine.executor import Executor
from ffrt.serve.errors import Refused, StoreError
from ffrt.serve.jobs.data import ID, Data
from ffrt.serve.jobs.dispatcher import Dispatcher
from ffrt.serve.jobs.estimates import Estimates
from ffrt.serve.jobs.job import Job, NewJob, State, new_id
from ffrt.serve.jobs.live import Live
from ffrt.serve.jobs.store import Store
from ffrt.serve.jobs.thread import StoreThread
from ffrt.serve.jobs.traces import TRACEPARENT
from ffrt.serve.keys import Key, Keys
from ffrt.serve.limits import Limits, Rate, Slots

logger = logging.getLogger("ffrt.serve")
T = TypeVar("T")
UNCHANGED = "nothing was changed"


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts of a server. `ending` is set when it drains."""

    bundle: Bundle
    memory: Memory
    limits: Limits
    keys: Keys
    with_keys: bool
    store: StoreThread
    data: Data
    live: Live
    estimates: Estimates
    executor: Executor
    dispatcher: Dispatcher
    metrics: Metrics
    rate: Rate
    streams: Slots
    syncs: Slots
    log_prompts: bool = False
    started_s: float = field(default_factory=time.time)
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(
        self,
        asked: CreateVideo,
        part: bytes | None,
        key: Key,
        idempotency_key: str | None,
        *,
        traceparent: str | None = None,
        request_id: str = "",
    ) -> tuple[Job, bool]:
        """Check a request and queue it; (job, False), or (the stored job, True) for a repeat. Raises Refused.

        `traceparent` names the span that asks; it is kept with the job and is no part of what is asked.
        """
        if self.ending.is_set():
            raise Refused(503, "draining", "the server ends; ask again in a minute", headers={"retry-after": "60"})
        picture = picture_of(asked, part, self.bundle, self.limits)
        priority = 0 if asked.priority is None else asked.priority
        if priority > 0 and not key.first:
            raise refuse("priority", "at most 0 with this key", priority)
        request, digest = checked(asked, picture, self.bundle, self.limits, self.room())
        self.rate.take(key.name)
        self._check_disk()
        if traceparent is not None:
            request[TRACEPARENT] = traceparent
        new = NewJob(new_id(), key.name, request, digest, self.bundle.digest, priority, idempotency_key)
        job, replayed = await _or_full(asyncio.to_thread(self._keep, new, picture))
        if not replayed:
            self.metrics.submitted(job)
            self.dispatcher.wake()
            facts = {"request_id": request_id, "video_id": job.id, "key": key.name}
            logger.info("queued", extra={**facts, "prompt": asked.prompt} if self.log_prompts else facts)
        return job, replayed

    def room(self) -> Room:
        """The memory that a place has, as it said; nothing is known before one has."""
        place = next((one for one in self.executor.places() if one.provider is not None), None)
        if place is None:
            return Room(self.memory, False, None)
        return Room(self.memory, place.on_gpu, place.free, place.on_gpu or place.provider == CPU.name)

    async def find(self, id: str, key: Key) -> Job:
        """The job of that id, if it is this key's. Raises Refused."""
        job = None
        if ID.fullmatch(id) is not None:
            job = await self.store.ask(Store.find, id, key.name)
        if job is None:
            raise Refused(404, "not_found", "there is no video of that id")
        return job

    async def show(self, *jobs: Job) -> list[Video]:
        """Jobs as clients see them; of those that wait, with their place in the queue and the time to their end.

        A job whose row says that it runs, and of which nothing live is known any more, has ended meanwhile: its row is
        read again.
        """
        jobs = tuple([await self._again(job) for job in jobs])
        queue: list[tuple[str, Mapping[str, Any]]] = []
        running_s = 0.0
        if any(job.state is State.QUEUED for job in jobs):
            queue = await self.store.ask(Store.waiting)
            running = [self.live.of(job.id) for job in await self.store.ask(Store.running)]
            running_s = sum(now.eta_s for now in running if now is not None and now.eta_s is not None)
        places = self.executor.places()
        provider, shown = str(next((one.provider for one in places), None)), []
        for job in jobs:
            now, position, eta_s = self.live.of(job.id), None, None
            if job.state is State.IN_PROGRESS and now is not None:
                eta_s = now.eta_s
            elif job.state is State.QUEUED:
                ids = [id for id, _ in queue]
                position = ids.index(job.id) + 1 if job.id in ids else 1
                requests = [*(request for _, request in queue[: position - 1]), job.request]
                times = [self.estimates.remaining_s(request, provider) for request in requests]
                known = [time for time in times if time is not None]
                eta_s = (running_s + sum(known[:-1])) / max(1, len(places)) + known[-1] if known else None
            shown.append(video_of(job, now, position, eta_s))
        return shown

    async def _again(self, job: Job) -> Job:
        if job.state is not State.IN_PROGRESS or self.live.of(job.id) is not None:
            return job
        found = await self.store.ask(Store.find, job.id)
        return job if found is None else found

    async def cancel(self, job: Job) -> Job:
        """Cancel a job and wait for the worker's word, for some seconds.

        Where the table takes no write, a job that runs stops too, and its row says so when there is room. If the server
        is killed before that, the job is made after all.
        """
        began_s, ended = time.monotonic(), False
        try:
            asked, ended = await self.store.ask(Store.cancel, job.id)
        except StoreError as error:
            logger.error("%s", error)
            if not await asyncio.to_thread(self.dispatcher.cancel, job.id):
                raise full_disk() from error
            asked = job
        if asked is None:
            raise Refused(404, "not_found", "there is no video of that id")
        if asked.state is State.IN_PROGRESS:
            await asyncio.to_thread(self.dispatcher.cancel, job.id)
            asked = await self.ended(job.id, self.limits.cancel_s) or asked
            self.metrics.cancel_s(time.monotonic() - began_s)
        elif ended:
            await asyncio.to_thread(self.data.forget, job.id)
            self.metrics.ended(asked)
        self.live.tell(job.id)
        return asked

    async def delete(self, job: Job) -> bool:
        """Remove a job and its files; False if it runs and its worker has not yet said that it stopped."""
        try:
            gone = await self.store.ask(Store.delete, job.id)
        except StoreError as error:
            logger.error("%s", error)
            freed = await self._free(job)
            gone = await _or_full(self.store.ask(Store.delete, job.id), freed)
        if gone is None:
            await asyncio.to_thread(self.dispatcher.cancel, job.id)
            await self._until(job.id, lambda now: now is None, self.limits.cancel_s)
            return await self.store.ask(Store.any_state, job.id) is None
        await asyncio.to_thread(self.data.forget, job.id)
        if gone.state is State.QUEUED:
            self.metrics.ended(replace(gone, state=State.CANCELLED, error_code="cancelled"))
        self.live.tell(job.id)
        return True

    async def _free(self, job: Job) -> str:
        """Make room with a job whose row cannot be removed; what was done. One that waits keeps its picture."""
        if job.state.terminal:
            await asyncio.to_thread(self.data.forget, job.id)
            return "the files of the video are gone; ask again when there is room"
        if await asyncio.to_thread(self.dispatcher.cancel, job.id):
            await self.ended(job.id, self.limits.cancel_s)
            return "the video is not made any more; ask again when there is room"
        return UNCHANGED

    async def ended(self, id: str, patience_s: float) -> Job | None:
        """The job when it is in its last state, or as it is when the time is over; None if it is gone."""
        return await self._until(id, lambda now: now is None or now.state.terminal, patience_s)

    def _keep(self, new: NewJob, picture: bytes | None) -> tuple[Job, bool]:
        """The picture, then the row: a row never waits for a file that is not there."""
        kept = False
        try:
            if picture is not None:
                self.data.publish({self.data.reference(new.id): picture})
            job, replayed = self.store.wait(Store.create, new, self.limits.queue, self.limits.queue_per_key)
            kept = not replayed
            return job, replayed
        finally:
            if picture is not None and not kept:
                self.data.forget_work(new.id)

    def _check_disk(self) -> None:
        """Raise Refused if the disk has less left than its floor."""
        try:
            free, total = self.data.free()
        except OSError as error:
            raise full_disk() from error
        if free < self.limits.floor(total):
            raise full_disk()

    async def _until(self, id: str, done: Callable[[Job | None], bool], patience_s: float) -> Job | None:
        event = self.live.watch(id)
        try:
            until_s = time.monotonic() + patience_s
            while True:
                event.clear()
                job = await self.store.ask(Store.any_state, id)
                left_s = until_s - time.monotonic()
                if done(job) or left_s <= 0:
                    return job
                try:
                    await asyncio.wait_for(event.wait(), min(1.0, left_s))
                except TimeoutError:
                    continue
        finally:
            self.live.unwatch(id, event)


def full_disk(done: str = UNCHANGED) -> Refused:
    """507: a client need not try again soon."""
    message = f"the disk of the server is full; {done}"
    return Refused(507, "disk_full", message, headers={"x-should-retry": "false"})


async def _or_full(work: Awaitable[T], done: str = UNCHANGED) -> T:
    """What `work` gives; a disk that takes no write is answered with 507, which says what was done all the same."""
    try:
        return await work
    except (OSError, StoreError) as error:
        logger.error("%s", error)
        raise full_disk(done) from error
