"""A video of the caller, read, interpolated and written in one stream."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from ffrt.checks import Note
from ffrt.errors import VideoWriteError
from ffrt.files import AnyPath, lasting, shown
from ffrt.generation.own_video.options import OwnVideoRequest
from ffrt.generation.own_video.plan import OwnVideoPlan
from ffrt.generation.own_video.step import VideoStep
from ffrt.generation.own_video.stream import Frame, Networks, retimed
from ffrt.media.copies import check_holds
from ffrt.media.cuts import Marked, marked
from ffrt.media.retimed import SUFFIXES, Retimed, RetimedWriter
from ffrt.media.source import open_source
from ffrt.media.target import check_target, write_errors
from ffrt.memory.room import Room
from ffrt.output.whole_file import whole_file
from ffrt.sampling import Array, Denoised, drain, group_noise
from ffrt.stages.denoising import Prompt
from ffrt.stages.interpolate import noise_shape
from ffrt.stages.run import Stages

logger = logging.getLogger("ffrt")


@dataclass(frozen=True)
class OwnVideo:
    """What was written: `num_frames` frames of `height` x `width` pixels at `rate`, in the file `path`.

    `cuts` are the numbers of the frames, of those that were read, with which a shot begins, but for the first.
    """

    path: Path
    num_frames: int
    height: int
    width: int
    rate: Fraction
    cuts: tuple[int, ...]
    notes: tuple[Note, ...] = ()

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return float(self.num_frames / self.rate)


OnStep = Callable[[VideoStep], None]


def interpolate_video(
    stages: Stages,
    room: Room,
    facts: Mapping[str, str],
    video: AnyPath,
    path: AnyPath,
    request: OwnVideoRequest,
    on_step: OnStep,
) -> OwnVideo:
    """Interpolate the file `video` and write the file `path`; arguments and errors as `Pipeline.interpolate_video`."""
    with stages.request():
        target = check_target(path, suffixes=SUFFIXES)
        read = lasting("video", video)
        source = open_source(read, constant_rate_wanted=bool(request.constant_rate))
        if target.exists() and os.path.samefile(target, read):
            raise VideoWriteError(f"path: {shown(target)!r} is the video itself; choose another name")
        plan = OwnVideoPlan.of(request, source, stages.bundle, room)
        check_holds(read, plan.tracks, target.suffix.lower())
        for note in plan.notes:
            logger.warning(note.text)
        return _Run(stages, plan, on_step).write(target, {**plan.metadata(), **facts})


class _Run:
    """One plan under way: counts, tells how far it is, and stops where its request is cancelled."""

    def __init__(self, stages: Stages, plan: OwnVideoPlan, on_step: OnStep) -> None:
        self.stages, self.plan, self.on_step = stages, plan, on_step
        self.began_s = time.monotonic()
        self.written = 0
        self.reached = 0.0  # groups of the last pass
        self.cuts: list[int] = []

    def write(self, target: Path, facts: Mapping[str, str]) -> OwnVideo:
        """Read, interpolate and write; the file is whole or not there."""
        plan, source = self.plan, self.plan.source
        with contextlib.ExitStack() as stack:
            with write_errors(target):
                part = stack.enter_context(whole_file(target))
                writer = RetimedWriter(part, target.suffix.lower(), Retimed(source, plan.rate, plan.tracks, facts))
            try:
                for frame in self._frames():
                    self._check()
                    with write_errors(target):
                        writer.add(frame)
                    self.written += 1
                    self._tell()
                assert self.written == plan.num_frames
                with write_errors(target):
                    writer.finish()
                self._check()
            except BaseException:
                writer.abort()
                raise
            with write_errors(target):
                stack.close()
        return OwnVideo(target, self.written, source.height, source.width, plan.rate, tuple(self.cuts), plan.notes)

    def _frames(self) -> Iterator[Frame]:
        plan, stages = self.plan, self.stages
        text: Prompt | None = None
        if plan.prompt is not None:
            text = stages.text(plan.prompt, None).interpolation_rows()
        networks = Networks(
            encode=stages.encode_frames,
            passes=tuple(partial(self._between, number, text) for number in range(len(plan.passes))),
            decode=lambda latents: np.concatenate(list(stages.decode(latents))),
            multiple=stages.bundle.video.size_multiple,
        )
        frames = marked(plan.source.frames(), plan.request.given_cuts)
        return retimed(self._counted(frames), networks, bool(plan.request.keep_originals))

    def _counted(self, frames: Iterable[Marked]) -> Iterator[Marked]:
        for index, (frame, begins) in enumerate(frames):
            self._check()
            if begins and index > 0:
                self.cuts.append(index)
            yield frame, begins

    def _between(self, number: int, text: Prompt | None, latents: Array, first: int) -> Array:
        """Pass `number` over a window whose first group is the `first` of the video."""
        plan = self.plan
        shape = noise_shape("group", latents.shape)
        noise = group_noise(int(plan.request.seed), 1 + number, first, shape)
        steps = self.stages.interpolation(text, latents, plan.passes[number], plan.sampling, noise)

        def on_step(at: Denoised) -> None:
            self._check()
            if number == len(plan.passes) - 1:
                self.reached = max(self.reached, first + shape[0] * (at.index + 1) / at.total)
                self._tell()

        return drain(steps, on_step)

    def _check(self) -> None:
        self.stages.cancellation.check("the rest of the video")

    def _tell(self) -> None:
        plan = self.plan
        elapsed_s = time.monotonic() - self.began_s
        groups = (plan.source.num_frames - 1) * (plan.num_frames // plan.source.num_frames // 4)
        share = (max(self.reached / groups, self.written / plan.num_frames) + self.written / plan.num_frames) / 2
        remaining_s = elapsed_s * (1 / share - 1) if share > 0 else None
        self.on_step(VideoStep(self.written, plan.num_frames, elapsed_s, remaining_s))
