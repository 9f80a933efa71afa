"""One request under way: its steps, its cancellation, what it has come to, and its video."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from ffrt import checks
from ffrt.backend.cancel import Cancellation
from ffrt.checks import Note
from ffrt.errors import RequestError
from ffrt.families import Stage
from ffrt.files import AnyPath
from ffrt.generation.checkpoint import Checkpoint
from ffrt.generation.early_frames import EarlyFrames, can_be_early
from ffrt.generation.making import Making, State
from ffrt.generation.plan import Plan, StageRun
from ffrt.generation.progress import Progress
from ffrt.generation.step import Step
from ffrt.media.live import stream_video
from ffrt.media.video import Video
from ffrt.media.video_file import Frames, check_target
from ffrt.sampling import Array
from ffrt.stages.run import Stages


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
        self._making = Making(plan, self._stages, self._progress, self._cancellation, list(plan.notes))
        self._checkpoint: Checkpoint | None = resume
        self._video: Video | None = None
        self._frame: NDArray[np.uint8] | None = None  # of the last step, where frames are wanted
        self._wants_frames = False
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
        return tuple(self._making.notes)

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
        self._progress.resume()
        video.save(target, on_frame=lambda done, total: on_step(self._decoded(done - 1)))
        return video

    def frames(self, *, on_step: Callable[[Step], None] = lambda step: None) -> Iterator[NDArray[np.uint8]]:
        """Run what is left and give every frame, uint8 [H, W, 3], as soon as it is final: those of `video` to the bit.

        The windows of interpolation and decoding go in order of time, so that the first frames are there while the last
        are still noise. `on_step` is called as by `save`, except that interpolation tells no steps of its own: they
        count as done when it begins. `video` and `checkpoint` are there at the end; leaving before is `close`.

        With `cache_interval` above 1 or memory "low" everything is interpolated before the first frame is decoded:
        features are kept from step to step there, or one network's weights at a time.
        Raises Cancelled, and RequestError if the generation was closed before its end.
        """
        checks.function("on_step", on_step)
        return self._each_frame(on_step)

    def stream(
        self, file: BinaryIO, *, format: str = "mp4", on_step: Callable[[Step], None] = lambda step: None
    ) -> Video:
        """Run what is left and write frames to a binary file as soon as they are final; gives the video.

        `file` needs `write` alone: a pipe, a socket's file, a response. `format` is "mp4" (fragmented) or "webm".
        `on_step` as of `frames`. Frames are encoded, and `file` is written, in a thread that ends before this returns
        or raises; a `write` that blocks is waited for. `file` is flushed and stays open.

        Raises RequestError or VideoWriteError before anything runs, for what is no binary file, another format, or a
        size that it cannot hold; VideoWriteError, caused by the error of `file`, if it cannot be written; Cancelled.
        """
        checks.function("on_step", on_step)
        height, width = self._size
        frames = Frames(self._each_frame(on_step), self.plan.num_frames, height, width, self.plan.fps, self._metadata)
        stream_video(file, frames, format, self._cancellation)
        return self.video

    def _each_frame(self, on_step: Callable[[Step], None]) -> Iterator[NDArray[np.uint8]]:
        if self._video is not None:
            self._progress.resume()
            for index, frame in enumerate(self._video):
                on_step(self._decoded(index))
                yield frame
            return
        with self._alone():
            if self._wants_frames:
                raise RequestError("generation: expected one reader of its frames, got a second one; read its video")
            self._wants_frames = True
        try:
            for step in self:
                on_step(step)
                if self._frame is not None:
                    yield self._frame
            self._cancellation.check("the rest of the frames")
            if self._video is None:
                raise RequestError(
                    "generation: expected one that is under way, got one that was closed; generate again"
                )
        finally:
            self._wants_frames, self._frame = False, None
            self.close()

    def _decoded(self, index: int) -> Step:
        """Frame `index` of the video is decoded."""
        self._cancellation.check("the rest of the frames")
        return self._progress.step(self.plan.stages[-1], index, self._latents, self._stages.decode)

    @property
    def _latents(self) -> Array | None:
        return None if self._checkpoint is None else self._checkpoint.latents

    def _run(self) -> Generator[Step, None, None]:
        making = self._making
        with making.stages.request():
            state, runs = making.begin(self._resume)
            for place, run in enumerate(runs):
                self._cancellation.check(str(run.stage))
                if run.stage is not Stage.TEXT and run.stage is not Stage.DECODING and state.context is None:
                    state = replace(state, context=making.encode())
                if self._wants_frames and can_be_early(making, run):
                    state = yield from self._early(state, runs[place:])
                    break
                if run.stage is Stage.DECODING:
                    break
                state = yield from making.stage(run, state)
                self._checkpoint = making.checkpoint(run, state)
            assert state.latents is not None
            self._video = self._make_video(state.latents)

    def _early(self, state: State, runs: Sequence[StageRun]) -> Generator[Step, None, State]:
        """Interpolate and decode in order of time: a Step per frame, which is `_frame` at that step."""

        def ended(run: StageRun, state: State) -> None:
            self._checkpoint = self._making.checkpoint(run, state)

        early = EarlyFrames(self._making, state, runs, ended)
        for step, frame in early.run():
            self._cancellation.check("the rest of the frames")
            self._frame = frame
            yield step
        return early.state

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of the video in pixels."""
        downscale = self._stages.bundle.video.downscale
        return self.plan.shape[2] * downscale, self.plan.shape[3] * downscale

    @property
    def _metadata(self) -> dict[str, str]:
        return {**self.plan.metadata(), **self._facts}

    def _make_video(self, latents: Array) -> Video:
        height, width = self._size
        return Video(
            lambda: self._stages.decode(latents),
            num_frames=len(latents),
            height=height,
            width=width,
            fps=self.plan.fps,
            metadata=self._metadata,
        )
