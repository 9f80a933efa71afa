"""What a metric is: a number per clip, or one for a whole set of clips."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError

Frames = NDArray[np.uint8]
"""A clip, uint8 `[N, H, W, 3]`."""


@dataclass(frozen=True)
class Metric:
    """A number per clip. Its row in `bench.metrics.table.METRICS` is all that a new metric needs."""

    name: str
    unit: str
    higher_is_better: bool
    needs_reference: bool
    """Whether `compute` takes the true clip of the same shape as a second argument."""
    compute: Callable[..., float]
    temporal: bool = False
    """Whether it needs consecutive frames, so that a selection of frames would not do."""
    digits: int = 2
    """Digits after the point in a table."""
    label: str | None = None
    """What a table calls it, if not its name."""

    @property
    def title(self) -> str:
        """What a table calls it."""
        return self.name if self.label is None else self.label

    def shown(self, value: float) -> str:
        """A value with the digits of the metric."""
        return f"{value:.{self.digits}f}"

    def __call__(self, frames: Frames, reference: Frames | None = None) -> float:
        """Measure a clip. Raises BenchError without the reference it needs, and for one of another shape."""
        if not self.needs_reference:
            return self.compute(frames)
        if reference is None:
            raise BenchError(f"{self.name}: expected a reference clip, got none")
        check_shapes(frames, reference)
        return self.compute(frames, reference)


class SetMetric(ABC):
    """A number for a set of clips, for example a Fréchet distance: `add` every clip, then ask for `value`."""

    name: str
    unit: str
    higher_is_better: bool

    @abstractmethod
    def add(self, frames: Frames, reference: Frames | None = None) -> None:
        """Take one more clip, and the true one where the metric needs it."""

    @abstractmethod
    def value(self) -> float:
        """The number for all clips so far. Raises BenchError for too few of them."""


class Mean(SetMetric):
    """The mean of a metric over clips."""

    def __init__(self, metric: Metric) -> None:
        self.name, self.unit, self.higher_is_better = metric.name, metric.unit, metric.higher_is_better
        self.values: list[float] = []
        self._metric = metric

    def add(self, frames: Frames, reference: Frames | None = None) -> None:
        """Measure one more clip."""
        self.values.append(self._metric(frames, reference))

    def value(self) -> float:
        """The mean over all clips so far. Raises BenchError without one."""
        if not self.values:
            raise BenchError(f"mean of {self.name}: expected at least one clip, got none")
        return float(np.mean(self.values))


def check_shapes(frames: Frames, reference: Frames) -> None:
    """Raise BenchError for two clips of different shapes."""
    if frames.shape != reference.shape:
        raise BenchError(
            f"reference: expected the shape of the clip, {list(frames.shape)}, got {list(reference.shape)}"
        )
