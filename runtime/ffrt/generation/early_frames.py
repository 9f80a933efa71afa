"""What is left of a plan after the keyframes, in order of time: a frame is given as soon as it is final."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ffrt.families import Stage
from ffrt.generation.making import Making, State
from ffrt.generation.plan import StageRun
from ffrt.generation.step import Step
from ffrt.sampling import Array


def can_be_early(making: Making, run: StageRun) -> bool:
    """Whether `run` and all after it can go in order of time.

    Not so while passes are left whose steps keep features of the step before, or if memory "low" would read the weights
    of two networks anew whenever they take turns.
    """
    if run.stage is Stage.INTERPOLATION:
        return making.stages.in_time_order and run.sampling is not None and run.sampling.cache_interval == 1
    return run.stage is Stage.DECODING


class EarlyFrames:
    """The passes of interpolation that are left, and decoding. Every part asks the one before for what it needs.

    `on_end` is told of each pass whose last latents are there, with the state after it. `state` is the one so far.
    """

    def __init__(
        self, making: Making, state: State, runs: Sequence[StageRun], on_end: Callable[[StageRun, State], None]
    ) -> None:
        self.state = state
        self._making, self._runs, self._on_end = making, runs, on_end
        self._shares = [0.0] * (len(runs) - 1)

    def run(self) -> Iterator[tuple[Step, NDArray[np.uint8]]]:
        """Every frame uint8 [H, W, 3] with its Step, in order."""
        making, latents = self._making, self.state.latents
        assert latents is not None
        making.progress.begin_early(self._runs)
        count, pieces = len(latents), iter([latents])
        for number, run in enumerate(self._runs[:-1]):
            pieces = self._interpolated(number, run, count, pieces)
            count = 4 * count - 3
        frames = (frame for chunk in making.stages.decode_pieces(pieces, count) for frame in chunk)
        for index, frame in enumerate(frames):
            yield making.progress.early_frame(self._runs, index, self._shares), frame

    def _interpolated(self, number: int, run: StageRun, count: int, pieces: Iterator[Array]) -> Iterator[Array]:
        """Pieces of `count` latents -> pieces of those after a pass, which are also kept for `state`."""
        making, context = self._making, self.state.context
        assert context is not None and run.one_pass is not None and run.sampling is not None
        noise = making.interpolation_noise(run, (count, *making.plan.shape[1:]))
        order = making.stages.interpolation_in_time_order(
            context.interpolation_rows(), count, run.one_pass, run.sampling, noise
        )
        made: list[Array] = []
        for piece in order.run(pieces, partial(self._shares.__setitem__, number)):
            made.append(piece)
            if sum(map(len, made)) == 4 * count - 3:
                self.state = replace(self.state, latents=np.concatenate(made))
                self._on_end(run, self.state)
            yield piece
