"""One request under way: its steps, its cancellation, what it has come to, and its video."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ffrt import checks
from ffrt.backend.cancel import Cancellation
from ffrt.checks import Note
from ffrt.errors import RequestError
from ffrt.families import Stage
from ffrt.files import AnyPath
from ffrt.generation.checkpoint import Checkpoint
from ffrt.generation.plan import FRAME_NOISE_STREAM, Plan, StageRun
from ffrt.generation.progress import Progress
from ffrt.generation.request import Request
from ffrt.generation.step import Decode, Step
from ffrt.media.video import Video
from ffrt.media.video_file import check_target
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


class Generation(Iterator[Step]):
    """One request under way. Nothing runs before the first step is asked for.

    Iterate for a `Step` per denoising step, leave the loop to stop, and take `video` or `save`, which run what is
    left. One thread iterates; `cancel` may be called from any. With `yield from`, the value is the Video.
    """

    def __init__(
        self,
        plan: Plan,
        stages: Stages,
        facts: Mapping[str, str],
        *,
        resume: Checkpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`facts` are added to the video's metadata. `resume` has been checked against the plan's request."""
        self.plan = plan
        self._cancellation = Cancellation()
        self._stages = stages.of(self._cancellation)
        self._facts = facts
        self._resume = resume
        self._progress = Progress(plan.stages, clock)
        self._notes: list[Note] = list(plan.notes)
        self._checkpoint: Checkpoint | None = resume
        self._video: Video | None = None
        self._steps = self._run()
        self._running = threading.Lock()
        self._process = os.getpid()

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Step:
        if self._video is None and self._process != os.getpid():
            raise RequestError(
                "generation: expected one that this process began, got one of the process that it was forked from; "
                "generate again, or resume its checkpoint"
            )
        with self._alone():
            self._progress.resume()
            try:
                return next(self._steps)
            except StopIteration:
                raise StopIteration(self._video) from None
            finally:
                self._progress.pause()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The right to run a step, which one thread has at a time."""
        if not self._running.acquire(blocking=False):
            raise RequestError(
                "generation: expected one thread at a time, got a second one while a step runs; cancel() works from any"
            )
        try:
            yield
        finally:
            self._running.release()

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise RequestError("a Generation cannot be pickled or copied; save its checkpoint and resume that")

    def cancel(self) -> None:
        """End this request, in the middle of an operator, and no other one: what runs raises Cancelled.

        For any thread, a signal handler, or the loop over the steps; before the first step, while a graph is opened,
        between two steps, while frames are decoded and while they are written. It stays cancelled.
        """
        self._cancellation.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancellation.cancelled

    def close(self) -> None:
        """Give up the steps that are left. What is finished stays. Raises RequestError while a step runs: cancel it."""
        with self._alone():
            self._steps.close()

    @property
    def notes(self) -> tuple[Note, ...]:
        """Facts for the caller so far: a prompt that was cut, a picture that is smaller than the video."""
        return tuple(self._notes)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The end of the last finished stage, for `Pipeline.generate(request, resume=checkpoint)`; None before."""
        return self._checkpoint

    @property
    def video(self) -> Video:
        """The video; runs the steps that are left. Frames are decoded when they are used.

        Raises Cancelled, and RequestError if the generation was closed before its end.
        """
        for _ in self:
            pass
        if self._video is None:
            self._cancellation.check("the video")
            raise RequestError("generation: expected one that ran to its end, got one that was closed; generate again")
        return self._video

    def save(self, path: AnyPath, *, on_step: Callable[[Step], None] = lambda step: None) -> Video:
        """Run what is left, decode, and write the video to `path` as `Video.save` does; gives the video.

        `on_step` is called after every denoising step and after every frame that was written. Raises VideoWriteError
        before anything runs if `path` cannot be written, and Cancelled; no partial file is left.
        """
        checks.function("on_step", on_step)
        target = check_target(path, num_frames=self.plan.num_frames)
        for step in self:
            on_step(step)
        video = self.video
        run = self.plan.stages[-1]

        def written(done: int, total: int) -> None:
            self._cancellation.check("the rest of the file")
            on_step(self._progress.step(run, done - 1, self._latents, self._stages.decode))

        self._progress.resume()
        video.save(target, on_frame=written)
        return video

    @property
    def _request(self) -> Request:
        """The request with its picture as it was when the plan was made, wherever its file is by now."""
        picture = self.plan.picture
        return self.plan.request if picture is None else replace(self.plan.request, image=picture)

    @property
    def _latents(self) -> Array | None:
        return None if self._checkpoint is None else self._checkpoint.latents

    def _run(self) -> Generator[Step, None, None]:
        with self._stages.request():
            _log(self.plan.notes)
            state, runs = self._resumed()
            for run in runs:
                self._cancellation.check(str(run.stage))
                if run.stage is Stage.DECODING:
                    break
                if state.context is None and run.stage is not Stage.TEXT:
                    state = replace(state, context=self._encode())
                state = yield from self._stage(run, state)
                self._checkpoint = Checkpoint(
                    self._request,
                    self.plan.bundle_digest,
                    self._stages.graphs.provider,
                    run.stage,
                    run.fps,
                    state.frame,
                    state.latents,
                )
            assert state.latents is not None
            self._video = self._make_video(state.latents)

    def _resumed(self) -> tuple[State, tuple[StageRun, ...]]:
        """Where to begin: the state that the checkpoint holds, and the stages after it."""
        runs, start = self.plan.stages, self._resume
        if start is None:
            return State(frame=self.plan.picture), runs
        ends = [(run.stage, run.fps) for run in runs]
        place = ends.index((start.after, start.fps)) + 1
        self._progress.skip(runs[:place])
        frame = self.plan.picture if start.frame is None else start.frame
        return State(frame=frame, latents=start.latents), runs[place:]

    def _encode(self) -> Context:
        request = self.plan.request
        context = self._stages.text(request.prompt, request.negative_prompt)
        self._notes += context.notes
        _log(context.notes)
        return context

    def _stage(self, run: StageRun, state: State) -> Generator[Step, None, State]:
        """Run one stage, a Step per denoising step; returns the state after it."""
        plan, stages, seed = self.plan, self._stages, int(self.plan.request.seed)
        if run.stage is Stage.TEXT:
            state = replace(state, context=self._encode())
            yield self._progress.step(run, 0)
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
        noise = normal_noise(seed, run.stream, interpolate.noise_shape("group", ends.shape))
        steps = stages.interpolation(context.interpolation_rows(), ends, run.one_pass, sampling, noise)
        merge = partial(interpolate.merge, "group", ends)
        return replace(state, latents=(yield from self._report(run, steps, merge, stages.decode)))

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
            yield self._progress.step(run, at.index, estimate(at.x0), decode)
            self._cancellation.check(f"the rest of the {run.stage}")

    def _make_video(self, latents: Array) -> Video:
        downscale = self._stages.bundle.video.downscale
        return Video(
            lambda: self._stages.decode(latents),
            num_frames=len(latents),
            height=latents.shape[2] * downscale,
            width=latents.shape[3] * downscale,
            fps=self.plan.fps,
            metadata={**self.plan.metadata(), **self._facts},
        )


def _log(notes: Iterable[Note]) -> None:
    for note in notes:
        logger.warning(note.text)


def _unchanged(x0: Array) -> Array:
    return x0
