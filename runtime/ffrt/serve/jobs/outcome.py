"""What comes out of a run: its progress in memory, its files on the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ffrt.serve.engine import executor as told
from ffrt.serve.jobs.data import Data, sha256
from ffrt.serve.jobs.estimates import Estimates, stages_of
from ffrt.serve.jobs.job import Job
from ffrt.serve.jobs.live import Live

logger = logging.getLogger("ffrt.serve")


@dataclass(frozen=True)
class Outcome:
    """How the files of a job come to the disk: kept for `keep_s`; for a full disk, `disk_wait_s` of patience."""

    data: Data
    keep_s: float
    disk_wait_s: float

    def publish(
        self, job: Job, event: told.Finished, stage_s: Mapping[str, float], stopping: Callable[[], bool]
    ) -> Mapping[str, Any] | None:
        """Write the files of a finished job; what its row will say, or None if the disk stayed full."""
        suffix = f".{job.request['output_format']}"
        contents = {
            self.data.file(job.id, suffix): event.video,
            self.data.file(job.id, ".webp"): event.thumbnail,
            self.data.file(job.id, ".sprite.webp"): event.spritesheet,
        }
        until_s = time.monotonic() + self.disk_wait_s
        while True:
            try:
                self.data.publish(contents)
                break
            except OSError as error:
                logger.error("%s: its files were not written: %s", job.id, error)
                if time.monotonic() >= until_s or stopping():
                    self.data.forget_files(job.id)
                    return None
                time.sleep(1)
        facts = {"bytes": len(event.video), "sha256": sha256(event.video), "grid": list(event.grid)}
        return {**event.metadata, **facts, "stage_s": {name: round(s, 3) for name, s in stage_s.items()}}


def read_progress(live: Live, estimates: Estimates, job: Job, provider: str, event: told.Progress) -> None:
    """A step as clients see it: a share of the time, and the seconds that are left."""
    stages = stages_of(job.request)
    place = next((i for i, one in enumerate(stages) if (one.stage, one.fps) == (event.stage, event.fps)), None)
    if place is None:
        return
    if event.index > 0:  # the first one also opened graphs
        estimates.learn(job.request, stages[place], provider, event.step_s)
    done = event.index + 1
    share = estimates.share(job.request, provider, place, done)
    left_s = estimates.remaining_s(job.request, provider, place, done)
    live.step(job.id, event.stage, done, event.total, int(100 * share), left_s)
