"""Who is told what happens to jobs, to count it."""

from __future__ import annotations

from typing import Protocol

from ffrt.serve.engine.executor import Progress
from ffrt.serve.jobs.job import Job


class Observer(Protocol):
    """Called by the threads that run jobs; must not raise and not wait."""

    def began(self, job: Job, place: str) -> None:
        """An attempt begins."""

    def step(self, event: Progress) -> None:
        """A step is finished."""

    def requeued(self, reason: str) -> None:
        """An attempt was lost, and the job waits for another one."""

    def ended(self, job: Job) -> None:
        """A job is in a state that does not change."""
