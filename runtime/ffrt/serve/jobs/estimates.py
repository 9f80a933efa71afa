"""How long steps take, from those before: shares of progress, and the time that is left."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NEWEST = 0.3
"""The weight of the newest step in the average."""
Key = tuple[str, int | None, int, int, str]


@dataclass(frozen=True)
class StageSteps:
    """A stage of a job: its steps, and the rough cost of one against the other stages'."""

    stage: str
    fps: int | None
    steps: int
    cost: float


def stages_of(request: Mapping[str, Any]) -> list[StageSteps]:
    """The stages of a stored request."""
    return [StageSteps(*one) for one in request["stages"]]


class Estimates:
    """Moving averages of the seconds of a step, by stage, rate, size and provider; for any thread."""

    def __init__(self) -> None:
        self._seconds: dict[Key, float] = {}
        self._per_cost: float | None = None
        self._lock = threading.Lock()

    def learn(self, request: Mapping[str, Any], stage: StageSteps, provider: str, step_s: float) -> None:
        """A step of a stage took so long."""
        key = _key(request, stage, provider)
        with self._lock:
            before = self._seconds.get(key, step_s)
            self._seconds[key] = average = before + NEWEST * (step_s - before)
            if stage.cost > 0:
                self._per_cost = average / stage.cost

    def weights(self, request: Mapping[str, Any], provider: str) -> list[float]:
        """What a step of each stage takes: seconds, or rough costs where nothing is known yet."""
        with self._lock:
            per_cost = 1.0 if self._per_cost is None else self._per_cost
            return [
                self._seconds.get(_key(request, stage, provider), stage.cost * per_cost) for stage in stages_of(request)
            ]

    def remaining_s(self, request: Mapping[str, Any], provider: str, stage: int = 0, steps: int = 0) -> float | None:
        """Seconds from the point where `steps` of stage number `stage` are done; None before any step was timed."""
        with self._lock:
            if self._per_cost is None:
                return None
        return _left(stages_of(request), self.weights(request, provider), stage, steps)

    def share(self, request: Mapping[str, Any], provider: str, stage: int, steps: int) -> float:
        """How much of a job's time is over, from 0 to 1."""
        stages, weights = stages_of(request), self.weights(request, provider)
        whole = _left(stages, weights, 0, 0)
        return 0.0 if whole <= 0 else 1 - _left(stages, weights, stage, steps) / whole


def _left(stages: Sequence[StageSteps], weights: Sequence[float], stage: int, steps: int) -> float:
    costs = [one.steps * weight for one, weight in zip(stages, weights, strict=True)]
    return sum(costs[stage:]) - (steps * weights[stage] if stage < len(weights) else 0)


def _key(request: Mapping[str, Any], stage: StageSteps, provider: str) -> Key:
    fields = request["fields"]
    return stage.stage, stage.fps, fields["height"], fields["width"], provider
