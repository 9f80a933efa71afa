"""Who runs the jobs: one thread for each place takes the next job, runs it, and brings its end to the disk.

The order of writes: files whole and in their places, then the row. So a row never speaks of a file that is not there,
and a job whose row still says `in_progress` is begun again, from the end of its last finished stage.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Hashable
from typing import Concatenate, ParamSpec, TypeVar

from ffrt.serve.engine import executor as told
from ffrt.serve.errors import PlaceLost, StoreError
from ffrt.serve.jobs.data import Data
from ffrt.serve.jobs.estimates import Estimates
from ffrt.serve.jobs.job import MAX_BEGUN, MAX_LOST, Job
from ffrt.serve.jobs.live import Live
from ffrt.serve.jobs.observer import Observer
from ffrt.serve.jobs.outcome import Outcome, read_progress
from ffrt.serve.jobs.schedule import choose, shape
from ffrt.serve.jobs.store import GIVEN_UP, Store
from ffrt.serve.jobs.thread import StoreThread
from ffrt.serve.jobs.traces import traced

logger = logging.getLogger("ffrt.serve")
P = ParamSpec("P")
T = TypeVar("T")
LOOK_S = 1.0
"""How often a place looks for a job though nobody called."""
MAX_ERRORS = 2
"""An error that nobody foresaw is tried once more."""


class Dispatcher:
    """Runs the jobs of a store on the places of an executor."""

    def __init__(
        self,
        store: StoreThread,
        data: Data,
        executor: told.Executor,
        live: Live,
        estimates: Estimates,
        observer: Observer,
        outcome: Outcome,
        bundle_digest: str,
    ) -> None:
        """`bundle_digest` is that of the bundle which the places have opened."""
        self._store, self._data, self._executor = store, data, executor
        self._live, self._estimates, self._observer, self._outcome = live, estimates, observer, outcome
        self._digest = bundle_digest
        self._news = threading.Condition()
        self._draining = self._stopping = self._hurried = False
        self._running: dict[str, str] = {}  # job -> place
        self._cancelled: set[str] = set()  # of those that run, though a full disk may not have let a row say so
        self._errors: dict[str, int] = {}
        self._passed: set[int] = set()
        self._threads: dict[str, threading.Thread] = {}  # place -> its thread
        self._looking = threading.Thread(target=self._look, name="ffrt-places", daemon=True)

    def start(self) -> None:
        """Begin to run jobs."""
        self._looking.start()

    def wake(self) -> None:
        """There is a new job."""
        with self._news:
            self._news.notify_all()

    def cancel(self, id: str) -> bool:
        """Stop a job that runs; whether it does. Its row says already that it was asked for, if the disk took that."""
        with self._news:
            place = self._running.get(id)
            if place is not None:
                self._cancelled.add(id)
        if place is not None:
            self._executor.cancel(place, id)
        return place is not None

    def drain(self, patience_s: float) -> None:
        """Begin no more jobs, give running ones some time, and put those that did not end back into the queue."""
        with self._news:
            self._draining = True
            self._news.notify_all()
            until_s = time.monotonic() + patience_s
            while self._running and not self._hurried and time.monotonic() < until_s:
                self._news.wait(LOOK_S / 10)
            self._stopping = True
            self._news.notify_all()
        self._executor.close()
        if self._looking.is_alive():
            self._looking.join(timeout=10)  # after it there are no new threads
        for thread in self._threads.values():
            thread.join(timeout=10)

    def hurry(self) -> None:
        """Give running jobs no more time; safe in a signal handler."""
        self._hurried = True

    def _look(self) -> None:
        """Give every place a thread, also those that come later."""
        while not self._stopping:
            for place in self._executor.places():
                if place.id not in self._threads:
                    name = f"ffrt-run-{place.id}"
                    thread = threading.Thread(target=self._serve, args=(place.id,), name=name, daemon=True)
                    self._threads[place.id] = thread
                    thread.start()
            with self._news:
                if not self._stopping:
                    self._news.wait(LOOK_S)

    def _serve(self, place: str) -> None:
        """The life of one place's thread."""
        last: Hashable = None
        while not self._stopping:
            job = None
            try:
                job = self._next(place, last)
                if job is not None:
                    last = shape(job)
                    self._run(place, job)
            except StoreError as error:  # while it ends: the next start begins the job again
                logger.error("%s", error)
            except Exception as error:
                logger.exception("a fault of the server")
                self._faulted(job, error)
                time.sleep(LOOK_S)
            finally:
                with self._news:
                    if job is not None:
                        self._running.pop(job.id, None)
                    self._news.notify_all()

    def _faulted(self, job: Job | None, error: Exception) -> None:
        """A fault of ours while a job ran: as if its place had been lost."""
        try:
            if job is not None:
                self._lost(job, PlaceLost(f"{type(error).__name__}: {error}"))
                self._ended(job)
        except Exception:  # the row is in_progress, and the next start begins it again
            logger.exception("a fault of the server")

    def _next(self, place: str, last: Hashable) -> Job | None:
        """Begin the next job, or wait a little."""
        with self._news:
            ready = any(one.id == place and one.ready for one in self._executor.places())
            if not self._draining and ready:
                try:
                    running, queued = self._store.wait(Store.running), self._store.wait(Store.queued)
                    self._forget_ended({one.id for one in (*running, *queued)})
                    chosen = choose(queued, running, last, self._passed)
                    job = None if chosen is None else self._store.wait(Store.begin, chosen.seq, self._digest)
                except StoreError as error:
                    logger.error("%s", error)
                    job = None
                if job is not None:
                    self._passed.discard(job.seq)
                    self._running[job.id] = place
                    return job
            self._news.wait(LOOK_S if ready else LOOK_S / 10)
        return None

    def _forget_ended(self, kept: Collection[str]) -> None:
        """What is known of jobs that ended: some were cancelled or deleted in the queue, which nobody here is told."""
        for id in list(self._errors):
            if id not in kept:
                self._errors.pop(id, None)
        self._cancelled.intersection_update(kept)

    def _run(self, place: str, job: Job) -> None:
        self._live.begin(job.id)
        self._observer.began(job, place)
        facts = {"video_id": job.id, "key": job.owner, "place": place, "attempt": job.attempt}
        logger.info("begins", extra=facts)
        request = job.request
        picture = self._data.read(self._data.reference(job.id)) if request["has_picture"] else None
        work = told.Work(job.id, request["fields"], request["output_format"], picture)
        saved = None if job.checkpoint is None else self._data.read(self._data.checkpoint(job.id))
        if request["has_picture"] and picture is None:
            self._settle(Store.fail, job, "internal_error", "the picture of the request is not there any more")
            return self._ended(job)
        stage_s: dict[str, float] = {}
        try:
            for event in traced(job, place, self._executor.run(place, work, saved)):
                self._on(place, job, event, stage_s)
        except PlaceLost as error:
            self._lost(job, error)
        self._ended(job)

    def _on(self, place: str, job: Job, event: told.Event, stage_s: dict[str, float]) -> None:
        match event:
            case told.Started():
                if self._asked_to_stop(job):
                    self._executor.cancel(place, job.id)
            case told.Progress():
                provider = next(str(one.provider) for one in self._executor.places() if one.id == place)
                stage_s[event.stage] = stage_s.get(event.stage, 0.0) + event.step_s
                self._observer.step(event)
                if event.index + 1 == event.total:
                    self._log_stage(place, job, event.stage, stage_s[event.stage])
                read_progress(self._live, self._estimates, job, provider, event)
            case told.Preview():
                self._live.preview(job.id, event.webp)
            case told.Checkpoint():
                self._keep_checkpoint(job, event)
            case told.Warned():
                self._settle(Store.warn, job, event.text)
            case told.Finished():
                self._finish(job, event, stage_s)
            case told.Failed():
                self._failed(job, event)
            case told.Stopped():
                if self._stopping and not self._asked_to_stop(job):
                    self._settle(Store.requeue, job, counted=False)
                else:
                    self._settle(Store.stopped, job)

    def _log_stage(self, place: str, job: Job, stage: str, seconds: float) -> None:
        facts = {"video_id": job.id, "place": place, "attempt": job.attempt}
        logger.info("stage done", extra={**facts, "stage": stage, "seconds": round(seconds, 3)})

    def _keep_checkpoint(self, job: Job, event: told.Checkpoint) -> None:
        """The file, then the row; without them a job would only begin earlier."""
        try:
            self._data.publish({self._data.checkpoint(job.id): event.saved})
            self._store.wait(Store.at_checkpoint, job, event.stage)
        except (OSError, StoreError) as error:
            logger.error("%s: its checkpoint was not kept: %s", job.id, error)

    def _finish(self, job: Job, event: told.Finished, stage_s: dict[str, float]) -> None:
        result = self._outcome.publish(job, event, stage_s, lambda: self._stopping)
        if result is not None:
            self._settle(Store.complete, job, result, self._outcome.keep_s)
        elif not self._stopping:
            self._settle(Store.fail, job, "disk_full", "the disk was full when the video was to be written")

    def _failed(self, job: Job, event: told.Failed) -> None:
        logger.error("%s failed: %s", job.id, event.message)
        self._errors[job.id] = self._errors.get(job.id, 0) + 1
        if not event.retryable or self._errors[job.id] >= MAX_ERRORS or job.attempt >= MAX_BEGUN:
            self._settle(Store.fail, job, event.code, event.message)
        elif self._asked_to_stop(job):
            self._settle(Store.stopped, job)
        else:
            self._observer.requeued("error")
            self._settle(Store.requeue, job)

    def _lost(self, job: Job, why: PlaceLost) -> None:
        logger.warning("attempt lost: %s", why, extra={"video_id": job.id, "attempt": job.attempt})
        if self._asked_to_stop(job):
            self._settle(Store.stopped, job)
        elif self._stopping or not why.began:
            self._settle(Store.requeue, job, counted=False)
        elif job.lost + 1 >= MAX_LOST:
            self._settle(Store.fail, job, "worker_lost", GIVEN_UP)
        else:
            self._observer.requeued("worker_lost")
            self._settle(Store.requeue, job, lost=True)

    def _ended(self, job: Job) -> None:
        """The row is settled: what is left of the attempt goes, and who waits is told."""
        now = self._settle(Store.any_state, job.id)
        if now is None or now.deleted:
            self._settle(Store.remove_deleted, job.id)
            self._data.forget(job.id)
        elif now.state.terminal:
            self._data.forget_work(job.id)
        if now is None or now.state.terminal:
            self._errors.pop(job.id, None)
        facts: dict[str, object] = {"video_id": job.id, "key": job.owner, "attempt": job.attempt}
        if now is not None and now.started_at is not None and now.completed_at is not None:
            facts["seconds"] = round(now.completed_at - now.started_at, 3)
        logger.info("deleted" if now is None else str(now.state), extra=facts)
        if now is not None and now.state.terminal:
            self._observer.ended(now)
        self._live.end(job.id)

    def _asked_to_stop(self, job: Job) -> bool:
        now = self._settle(Store.any_state, job.id)
        return now is None or now.cancel_requested or job.id in self._cancelled

    def _settle(self, method: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Use the store, again and again while the disk is full. Raises StoreError if the server ends first."""
        while True:
            try:
                return self._store.wait(method, *args, **kwargs)
            except StoreError as error:
                logger.error("%s", error)
                if self._stopping:
                    raise
                with self._news:
                    self._news.wait(LOOK_S)
