"""Which queued job is next: pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from ffrt.serve.jobs.job import Job

LOOKS_AT = 4


def shape(job: Job) -> Hashable:
    """What makes a GPU open its networks anew: size, rate, and whether there is guidance."""
    fields = job.request["fields"]
    return fields["height"], fields["width"], fields["fps"], fields["guidance_scale"] == 0


def choose(queued: Sequence[Job], running: Sequence[Job], last: Hashable, passed: set[int]) -> Job | None:
    """The job to begin: by priority, then of the key that has the fewest running, then by arrival.

    Among the first few of one priority a job of the place's `last` shape may go first; `passed` holds the numbers of
    jobs that had to let one go first, once each; those of jobs that wait no more are taken out.
    """
    passed.intersection_update(job.seq for job in queued)
    busy = Counter(job.owner for job in running)
    order = sorted(queued, key=lambda job: (-job.priority, busy[job.owner], job.seq))
    if not order:
        return None
    first = order[0]
    alike = [one for one in order[:LOOKS_AT] if (one.priority, busy[one.owner]) == (first.priority, busy[first.owner])]
    for i, job in enumerate(alike):
        if shape(job) == last and not any(before.seq in passed for before in alike[:i]):
            passed.update(before.seq for before in alike[:i])
            return job
    return first
