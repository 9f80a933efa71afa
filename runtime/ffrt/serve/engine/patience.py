"""How long a place that runs a job may say nothing before it counts as lost."""

from __future__ import annotations

from ffrt.serve.engine import executor as told

PATIENCE_S = 120.0
USUAL_STEPS = 20
"""A step may take so many times as long as those before it, and at least `PATIENCE_S`."""
FIRST_PATIENCE_S = 1800.0
"""For the first step of a stage, which may open a graph or build an engine."""


def patience_s(event: told.Event | None) -> float:
    """The time for what comes after `event`, None for the first event of a job."""
    if isinstance(event, told.Progress) and event.index + 1 < event.total and event.index > 0:
        return max(PATIENCE_S, USUAL_STEPS * event.step_s)
    return FIRST_PATIENCE_S
