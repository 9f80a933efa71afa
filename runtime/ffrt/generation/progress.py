"""Counting the steps of a generation and estimating the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ffrt.generation.plan import StageRun
from ffrt.generation.step import Decode, Step
from ffrt.sampling import Array


class Progress:
    """Counts steps and the time worked on them; a loop that pauses between steps is not counted."""

    def __init__(self, runs: Sequence[StageRun], clock: Callable[[], float]) -> None:
        self._runs, self._clock = runs, clock
        self._done = 0
        self._worked_s, self._resumed_s = 0.0, clock()
        self._stage: StageRun | None = None
        self._first_s = 0.0
        self._s_per_cost: float | None = None

    def resume(self) -> None:
        """Work goes on."""
        self._resumed_s = self._clock()

    def pause(self) -> None:
        """Work waits for the caller."""
        self._worked_s += self._clock() - self._resumed_s

    def skip(self, runs: Sequence[StageRun]) -> None:
        """Steps that a checkpoint holds already."""
        self._done += sum(run.steps for run in runs)

    def step(self, run: StageRun, index: int, latents: Array | None = None, decode: Decode | None = None) -> Step:
        """One more step is finished: `index` of `run`."""
        elapsed_s = self._elapsed_s()
        if run is not self._stage:
            self._stage, self._first_s = run, elapsed_s
        elif run.cost > 0 and index > 0:  # the first step of a stage also opened its graph
            self._s_per_cost = (elapsed_s - self._first_s) / index / run.cost
        left = run.cost * (run.steps - index - 1)
        left += sum(later.cost * later.steps for later in self._runs[self._runs.index(run) + 1 :])
        remaining_s = None if self._s_per_cost is None else left * self._s_per_cost
        return self._step(run, index, remaining_s, latents, decode)

    def begin_early(self, runs: Sequence[StageRun]) -> None:
        """From here on the steps of `runs` take turns. Those of the last are told; the others count as done."""
        self.skip(runs[:-1])
        self._first_s = self._elapsed_s()

    def early_frame(self, runs: Sequence[StageRun], index: int, shares: Sequence[float]) -> Step:
        """Step `index` of the last of `runs` is finished, and of each other one the share of it that has run."""
        *passes, run = runs
        done = run.cost * (index + 1)
        done += sum(one.cost * one.steps * share for one, share in zip(passes, shares, strict=True))
        left = sum(one.cost * one.steps for one in runs) - done
        remaining_s = max(0.0, left) * (self._elapsed_s() - self._first_s) / done if done > 0 else None
        return self._step(run, index, remaining_s, None, None)

    def _elapsed_s(self) -> float:
        return self._worked_s + self._clock() - self._resumed_s

    def _step(
        self, run: StageRun, index: int, remaining_s: float | None, latents: Array | None, decode: Decode | None
    ) -> Step:
        self._done += 1
        return Step(
            run.stage,
            run.fps,
            index,
            run.steps,
            self._done,
            sum(one.steps for one in self._runs),
            self._elapsed_s(),
            remaining_s,
            latents,
            decode,
        )
