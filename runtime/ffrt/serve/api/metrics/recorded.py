"""Numbers for Prometheus, in a registry of their own. Labels are templates of routes and names of places, never ids."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ffrt.errors import FfrtError
from ffrt.serve.api.metrics.gpus import Gpus, Reading
from ffrt.serve.api.metrics.places import Places
from ffrt.serve.engine.executor import Place, Progress
from ffrt.serve.jobs.job import Job, State

LONG = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
SHORT = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 3600)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Any other is counted as "other": a client may make up as many as it likes, and each would be kept for ever."""


ENDS = {
    State.COMPLETED: ("",),
    State.CANCELLED: ("cancelled",),
    State.FAILED: (
        *("worker_lost", "internal_error", "disk_full", "write_failed"),
        *("does_not_fit", "invalid_reference", "invalid_value"),
    ),
}
"""How jobs end. Counters are there from the start, since Prometheus sees no increase in a number that is new."""


class Metrics:
    """Counters and histograms; gauges are read from their sources when they are asked for. For any thread."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("ffrt_http_requests", "answers", ["route", "method", "code"], registry=registry)
        self._request_s = Histogram(
            "ffrt_http_request_seconds", "time to the end of an answer", ["route"], buckets=SHORT, registry=registry
        )
        self._submitted = Counter("ffrt_jobs_submitted", "jobs queued", ["preset"], registry=registry)
        self._finished = Counter("ffrt_jobs_finished", "jobs ended", ["state", "code"], registry=registry)
        self._queue_s = Histogram("ffrt_job_queue_seconds", "wait in the queue", buckets=LONG, registry=registry)
        self._run_s = Histogram(
            "ffrt_job_run_seconds", "begin to end, all attempts", ["fps"], buckets=LONG, registry=registry
        )
        self._stage_s = Histogram("ffrt_stage_seconds", "a whole stage", ["stage"], buckets=LONG, registry=registry)
        self._step_s = Histogram(
            "ffrt_step_seconds", "one step", ["stage"], buckets=(*SHORT[:-1], 120), registry=registry
        )
        self._requeued = Counter("ffrt_jobs_requeued", "attempts that were lost", ["reason"], registry=registry)
        self._cancel_s = Histogram("ffrt_cancel_seconds", "until a job was stopped", buckets=SHORT, registry=registry)
        self._frames = Counter("ffrt_frames", "frames of finished videos", registry=registry)
        for state, codes in ENDS.items():
            for code in codes:
                self._finished.labels(str(state), code)
        for reason in ("worker_lost", "error"):
            self._requeued.labels(reason)

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A number that is read when it is asked for; one that cannot be read is NaN, and the others are told."""

        def read() -> float:
            try:
                return value()
            except (OSError, FfrtError):
                return math.nan

        Gauge(name, help, registry=self.registry).set_function(read)

    def watch_gpus(self, gpus: Mapping[str, str], read: Callable[[str], Reading]) -> None:
        """Tell of the GPUs of places, by the place."""
        self.registry.register(Gpus(gpus, read))

    def text(self, places: Iterable[Place], version: str, bundle: str, digest: str) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry) + Places(places, (version, bundle, digest)).text()

    def answered(self, route: str, method: str, code: int, seconds: float) -> None:
        """An answer was given."""
        self._requests.labels(route, method if method in METHODS else "other", str(code)).inc()
        self._request_s.labels(route).observe(seconds)

    def submitted(self, job: Job) -> None:
        """A job was queued."""
        preset = job.request["fields"]["preset"]
        self._submitted.labels("quality" if preset is None else preset).inc()

    def cancel_s(self, seconds: float) -> None:
        """A running job was asked to stop."""
        self._cancel_s.observe(seconds)

    # what `Observer` wants

    def began(self, job: Job, place: str) -> None:
        """An attempt begins."""
        if job.attempt == 1 and job.started_at is not None:
            self._queue_s.observe(max(0.0, job.started_at - job.created_at))

    def step(self, event: Progress) -> None:
        """A step is finished."""
        self._step_s.labels(event.stage).observe(event.step_s)

    def requeued(self, reason: str) -> None:
        """An attempt was lost."""
        self._requeued.labels(reason).inc()

    def ended(self, job: Job) -> None:
        """A job came to its end."""
        self._finished.labels(str(job.state), job.error_code or "").inc()
        if job.state is not State.COMPLETED or job.result is None:
            return
        self._frames.inc(job.result["frames"])
        for stage, seconds in job.result["stage_s"].items():
            self._stage_s.labels(stage).observe(seconds)
        ended = time.time() if job.completed_at is None else job.completed_at
        began = job.created_at if job.started_at is None else job.started_at
        self._run_s.labels(str(job.request["fields"]["fps"])).observe(max(0.0, ended - began))
