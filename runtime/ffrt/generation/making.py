"""How a plan is carried out: its stages one after the other, a `Step` per denoising step, a checkpoint at each end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.cancel import Cancellation
from ffrt.checks import Note
from ffrt.families import Stage
from ffrt.generation.checkpoint import Checkpoint
from ffrt.generation.plan import FRAME_NOISE_STREAM, Plan, StageRun
from ffrt.generation.progress import Progress
from ffrt.generation.request import Request
from ffrt.generation.step import Decode, Step
from ffrt.sampling import Array, Denoised, normal_noise, uniform_noise
from ffrt.stages import first_frame, interpolate
from ffrt.stages.run import Stages
from ffrt.stages.text import Context

logger = logging.getLogger("ffrt")


@dataclass(frozen=True)
class State:
    """What the stages so far have given: text context, first frame uint8 [H, W, 3], latents [n, 4, h, w]."""

    context: Context | None = None
    frame: NDArray[np.uint8] | None = None
    latents: Array | None = None


@dataclass(frozen=True)
class Making:
    """A plan and all that it is carried out with. `notes` are the facts for the caller so far."""

    plan: Plan
    stages: Stages
    progress: Progress
    cancellation: Cancellation
    notes: list[Note] = field(default_factory=list)

    def begin(self, resume: Checkpoint | None) -> tuple[State, tuple[StageRun, ...]]:
        """Where to begin: the state that a checkpoint holds, and the stages after it."""
        log(self.plan.notes)
        runs = self.plan.stages
        if resume is None:
            return State(frame=self.plan.picture), runs
        ends = [(run.stage, run.fps) for run in runs]
        place = ends.index((resume.after, resume.fps)) + 1
        self.progress.skip(runs[:place])
        frame = self.plan.picture if resume.frame is None else resume.frame
        return State(frame=frame, latents=resume.latents), runs[place:]

    def encode(self) -> Context:
        """The text of the request."""
        request = self.plan.request
        context = self.stages.text(request.prompt, request.negative_prompt)
        self.notes.extend(context.notes)
        log(context.notes)
        return context

    def checkpoint(self, run: StageRun, state: State) -> Checkpoint:
        """The end of `run`, which gave `state`."""
        digest, provider = self.plan.bundle_digest, self.stages.graphs.provider
        return Checkpoint(self._request, digest, provider, run.stage, run.fps, state.frame, state.latents)

    @property
    def _request(self) -> Request:
        """The request with its picture as it was when the plan was made, wherever its file is by now."""
        picture = self.plan.picture
        return self.plan.request if picture is None else replace(self.plan.request, image=picture)

    def stage(self, run: StageRun, state: State) -> Generator[Step, None, State]:
        """Run one stage, a Step per denoising step; returns the state after it."""
        plan, stages, seed = self.plan, self.stages, int(self.plan.request.seed)
        if run.stage is Stage.TEXT:
            state = replace(state, context=self.encode())
            yield self.progress.step(run, 0)
            return state
        context, sampling = state.context, run.sampling
        assert context is not None and sampling is not None
        if run.stage is Stage.FIRST_FRAME:
            noise = normal_noise(seed, run.stream, first_frame.noise_shape(plan.shape))
            steps = stages.first_frame(context.rows(), sampling, noise)
            decode = partial(stages.decode, graph="image_decoder")
            latent = yield from self._report(run, steps, _unchanged, decode)
            return replace(state, frame=stages.picture(latent))
        if run.stage is Stage.KEYFRAMES:
            noise = normal_noise(seed, run.stream, plan.shape)
            if plan.image is None or state.frame is None:
                steps = stages.keyframes(context.rows(), sampling, noise)
            else:
                frame = stages.encode_picture(state.frame, plan.shape)
                frame_noise = uniform_noise(seed, FRAME_NOISE_STREAM, frame.shape)
                steps = stages.image_keyframes(context.rows(), sampling, plan.image, frame, frame_noise, noise)
            return replace(state, latents=(yield from self._report(run, steps, _unchanged, stages.decode)))
        ends = state.latents
        assert ends is not None and run.one_pass is not None
        noise = self.interpolation_noise(run, ends.shape)
        steps = stages.interpolation(context.interpolation_rows(), ends, run.one_pass, sampling, noise)
        merge = partial(interpolate.merge, "group", ends)
        return replace(state, latents=(yield from self._report(run, steps, merge, stages.decode)))

    def interpolation_noise(self, run: StageRun, ends: tuple[int, ...]) -> Iterator[Array]:
        """The noise of a pass over latents of the shape `ends` [T, 4, h, w]."""
        return normal_noise(int(self.plan.request.seed), run.stream, interpolate.noise_shape("group", ends))

    def _report(
        self,
        run: StageRun,
        steps: Generator[Denoised, None, Array],
        estimate: Callable[[Array], Array],
        decode: Decode,
    ) -> Generator[Step, None, Array]:
        """The steps of a stage as `Step`s; `estimate` turns what is denoised into latents [n, 4, h, w]."""
        while True:
            try:
                at = next(steps)
            except StopIteration as end:
                latents: Array = end.value
                return latents
            yield self.progress.step(run, at.index, estimate(at.x0), decode)
            self.cancellation.check(f"the rest of the {run.stage}")


def log(notes: Iterable[Note]) -> None:
    """Tell the facts as warnings of the logger "ffrt"."""
    for note in notes:
        logger.warning(note.text)


def _unchanged(x0: Array) -> Array:
    return x0
