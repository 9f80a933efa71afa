"""A pass of interpolation in order of time: its first frames are final while its last ones are still noise.

`ffrt.stages.interpolate` runs all windows of a step before the next step. A window needs only itself and the windows
that it sees in the step before, so the same calls of the network can run as a wavefront: the first window goes ahead as
far as its neighbours allow. The latents are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.session import Session
from ffrt.bundle import InterpolationConfig, InterpolationPass
from ffrt.sampling import Array, Sampling, Update, advance, drain, guidance_weights, take, updates
from ffrt.stages.denoising import DeviceNetwork, Network, Prompt, guided_prediction
from ffrt.stages.interpolate import (
    HALO_GROUPS,
    WINDOW_GROUPS,
    interpolation_steps,
    merge,
    window_input,
    windows,
)
from ffrt.stages.model_input import ModelInput, ModelInputs, with_guidance

OnShare = Callable[[float], None]
"""Told how much of a pass has run, from 0 to 1."""


@dataclass(frozen=True)
class TimeOrder:
    """One pass of group interpolation over `count` latents; arguments as of `interpolation_steps`.

    With StepCache as `network` it would give other latents, since that one counts on the windows of a step coming one
    after the other.
    """

    network: Network | DeviceNetwork
    config: InterpolationConfig
    one_pass: InterpolationPass
    count: int
    noise: Iterator[Array]
    sampling: Sampling
    prompt: Prompt | None = None
    window: int | None = WINDOW_GROUPS
    halo: int = HALO_GROUPS
    update: Session | None = None
    keep_rows: bool = False

    def run(self, latents: Iterator[Array], on_share: OnShare = lambda share: None) -> Iterator[Array]:
        """Pieces [n, 4, h, w] of `count` latents in order -> pieces of the `4 * count - 3` after the pass, in order.

        As few of the given latents are asked for as the next piece needs. A single window is one piece, made by
        `interpolation_steps`.
        """
        given = _Given(latents)
        cut = windows(self.count - 1, self.window, self.halo)
        if len(cut) == 1:
            yield self._at_once(given.part(0, self.count), on_share)
            return
        wave = _Wave(self, cut, given, on_share)
        for number, (_, core) in enumerate(cut):
            ends = given.part(core.start, core.stop + 1)
            merged = merge("group", ends, wave.final(number))
            yield merged if core.stop == self.count - 1 else merged[:-1]

    def _at_once(self, latents: Array, on_share: OnShare) -> Array:
        steps = interpolation_steps(
            self.network,
            self.config,
            self.one_pass,
            latents,
            self.noise,
            self.sampling,
            prompt=self.prompt,
            window=None,
            update=self.update,
            keep_rows=self.keep_rows,
        )
        return drain(steps, lambda at: on_share((at.index + 1) / at.total))


class _Given:
    """Latents that come in pieces, asked for as they are needed."""

    def __init__(self, pieces: Iterator[Array]) -> None:
        self._pieces = pieces
        self._held: list[Array] = []
        self._count = 0

    def part(self, start: int, stop: int) -> Array:
        """The latents from `start` up to `stop`."""
        while self._count < stop:
            piece = next(self._pieces)
            self._held.append(piece)
            self._count += len(piece)
        if len(self._held) > 1:
            self._held = [np.concatenate(self._held)]
        return self._held[0][start:stop]


class _Wave:
    """The windows of one pass, each as many steps ahead as the windows that it sees allow.

    A window keeps its latents [n, 12, h, w] after those steps that a window which sees it has yet to read: two of them
    where windows see their next neighbours alone.
    """

    def __init__(self, order: TimeOrder, cut: list[tuple[slice, slice]], given: _Given, on_share: OnShare) -> None:
        self._order, self._given, self._on_share = order, given, on_share
        self._plan = updates(order.config, order.sampling.num_inference_steps, order.sampling.sampler)
        self._cut = cut
        cores = [core for _, core in cut]
        self._sees = [
            [number for number, core in enumerate(cores) if core.start < seen.stop and seen.start < core.stop]
            for seen, _ in cut
        ]
        self._seen_by = [[i for i, sees in enumerate(self._sees) if number in sees] for number in range(len(cut))]
        start = take(order.noise)
        self._done = [0] * len(cut)
        self._after: list[dict[int, Array]] = [{0: start[core]} for core in cores]
        self._estimates: list[Array | None] = [None] * len(cut)
        self._draws: dict[int, Array] = {}
        self._inputs: dict[int, ModelInputs] = {}

    def final(self, number: int) -> Array:
        """What window `number` comes to, [n, 12, h, w]; its neighbours go as far as it needs them."""
        self._bring(number, len(self._plan))
        return self._after[number][len(self._plan)]

    def _bring(self, number: int, steps: int) -> None:
        """Run window `number` until `steps` are done, and before each step the windows that it sees."""
        while self._done[number] < steps:
            index = self._done[number]
            for other in self._sees[number]:
                self._bring(other, index)
            self._step(number, index)

    def _step(self, number: int, index: int) -> None:
        update, (seen, core) = self._plan[index], self._cut[number]
        inner = slice(core.start - seen.start, core.stop - seen.start)
        (one,) = self._inputs_of(number).at(update.time)
        prediction = guided_prediction(self._order.network, one, self._x(number, index), update.time)
        x, estimate = advance(
            update,
            self._order.config,
            self._after[number][index],
            prediction[inner],
            self._estimates[number],
            self._draw(index, update, core),
        )
        self._after[number][index + 1] = x
        self._done[number] += 1
        last = self._done[number] == len(self._plan)
        self._estimates[number] = None if last else estimate
        self._forget(number, index)
        self._on_share(sum(self._done) / (len(self._plan) * len(self._cut)))

    def _x(self, number: int, index: int) -> Array:
        """The latents after `index` steps that window `number` sees."""
        seen, parts = self._cut[number][0], []
        for other in self._sees[number]:
            core = self._cut[other][1]
            start, stop = max(seen.start, core.start), min(seen.stop, core.stop)
            parts.append(self._after[other][index][start - core.start : stop - core.start])
        return np.concatenate(parts)

    def _draw(self, index: int, update: Update, core: slice) -> Array | None:
        """The noise of step `index` for the groups of `core`. Steps are reached in their order, and so drawn."""
        if not update.add_noise:
            return None
        if index not in self._draws:
            self._draws[index] = take(self._order.noise)
        return self._draws[index][core]

    def _forget(self, number: int, index: int) -> None:
        """Let go of what no window will read again, now that `number` has done step `index`."""
        for other in self._sees[number]:
            read = min(self._done[reader] for reader in self._seen_by[other])
            for step in [step for step in self._after[other] if step < read]:
                del self._after[other][step]
        if min(self._done) > index:
            self._draws.pop(index, None)
        if self._done[number] == len(self._plan):
            del self._inputs[number]

    def _inputs_of(self, number: int) -> ModelInputs:
        """How the network sees window `number`, worked out when the latents around it are there."""
        if number not in self._inputs:
            order, (seen, _) = self._order, self._cut[number]
            latents = self._given.part(seen.start, seen.stop + 1)

            def look(rows: NDArray[np.intp], weights: NDArray[np.float32]) -> list[ModelInput]:
                return [window_input("group", latents, order.one_pass.skip_frames, order.prompt, rows, weights)]

            scale = order.sampling.guidance_scale
            inputs = with_guidance(order.sampling, guidance_weights(scale), look, order.keep_rows)
            if isinstance(order.network, DeviceNetwork) and not self._inputs:  # all windows have one size
                times = [step.time for step in self._plan]
                order.network.precompute(one.conditioning(time) for time in times for one in inputs.at(time))
            self._inputs[number] = inputs
        return self._inputs[number]
