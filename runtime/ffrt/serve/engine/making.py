"""One job made with an open pipeline: events as it goes on, and files as bytes at its end."""

from __future__ import annotations

import dataclasses
import io
import logging
import time
from collections.abc import Callable
from pathlib import Path

from ffrt.errors import Cancelled, RequestError
from ffrt.generation import Checkpoint, Generation, Step
from ffrt.generation.request import Request
from ffrt.media.image import open_image
from ffrt.media.video import Video
from ffrt.pipeline import Pipeline
from ffrt.serve.engine import executor as told
from ffrt.serve.engine.pictures import Pictures, webp

logger = logging.getLogger("ffrt.serve")

PREVIEW_EVERY_S = 1.0
PREVIEW_SHARE = 0.015
"""Of the time that a job has taken, with the preview that is to come."""
MAX_PICTURE_PIXELS = 50_000_000


class Making:
    """A job under way. `generation` can be cancelled from any thread; one thread calls `run`."""

    def __init__(
        self, pipe: Pipeline, work: told.Work, saved: bytes | None, scratch: Path, *, previews: bool = True
    ) -> None:
        """Check the request as every caller's is. A checkpoint of another bundle or request is left aside.

        Raises RequestError or OutOfMemoryError.
        """
        self._work, self._scratch, self._previews = work, scratch, previews
        self.generation = self._begun(pipe, _request(work), saved)
        self._began_s = self._last_s = self._previewed_s = time.monotonic()
        self._preview_s = self._one_preview_s = 0.0

    def run(self, tell: Callable[[told.Event], None]) -> None:
        """Run to the end and tell every event but `Started`. Raises what a generation raises."""
        generation, notes, reached = self.generation, 0, self.generation.checkpoint
        ended = False
        while not ended:
            step = next(generation, None)
            ended = step is None
            for note in generation.notes[notes:]:
                tell(told.Warned(note.text))
            notes = len(generation.notes)
            if generation.checkpoint is not None and generation.checkpoint is not reached:
                reached = generation.checkpoint
                self._save(reached, tell)
            if step is not None:
                tell(self._progress(step))
                self._preview(step, tell)
        tell(self._files(generation.video, tell))

    def _begun(self, pipe: Pipeline, request: Request, saved: bytes | None) -> Generation:
        if saved is not None:
            path = self._scratch / "resume.npz"
            try:
                path.write_bytes(saved)
                return pipe.generate(request, resume=Checkpoint.load(path))
            except (RequestError, OSError) as error:
                logger.warning("%s begins anew: %s", self._work.id, error)
            finally:
                path.unlink(missing_ok=True)
        return pipe.generate(request)

    def _progress(self, step: Step) -> told.Progress:
        now_s = time.monotonic()
        took_s, self._last_s = now_s - self._last_s, now_s
        return told.Progress(str(step.stage), step.fps, step.index, step.total, step.done, step.of, took_s)

    def _save(self, checkpoint: Checkpoint, tell: Callable[[told.Event], None]) -> None:
        """Tell the end of a stage. A disk that is full costs the checkpoint and not the job."""
        path = self._scratch / "checkpoint.npz"
        try:
            checkpoint.save(path)
            saved = path.read_bytes()
            path.unlink()
        except (RequestError, OSError) as error:
            logger.error("%s: no checkpoint: %s", self._work.id, error)
            return
        tell(told.Checkpoint(str(checkpoint.after), saved))

    def _preview(self, step: Step, tell: Callable[[told.Event], None]) -> None:
        """A picture at most every second, and for a small share of the time."""
        now_s = time.monotonic()
        soon = now_s - self._previewed_s < PREVIEW_EVERY_S
        if not self._previews or step.latents is None or soon:
            return
        if self._preview_s + self._one_preview_s > PREVIEW_SHARE * (now_s - self._began_s):
            return
        picture = webp(step.preview(slice(0, 1))[0])
        self._previewed_s = self._last_s = time.monotonic()
        self._one_preview_s = self._previewed_s - now_s
        self._preview_s += self._one_preview_s
        tell(told.Preview(picture))

    def _files(self, video: Video, tell: Callable[[told.Event], None]) -> told.Finished:
        """Decode, write and look at every frame once; a step for each."""
        run, total = self.generation.plan.stages[-1], self.generation.plan.total_steps
        pictures = Pictures(len(video))
        path = self._scratch / f"video.{self._work.output_format}"

        def written(done: int, of: int) -> None:
            self._check_cancelled()
            now_s = time.monotonic()
            took_s, self._last_s = now_s - self._last_s, now_s
            tell(told.Progress(str(run.stage), run.fps, done - 1, of, total - of + done, total, took_s))

        watched = Video(
            lambda: pictures.watched(video.chunks()),
            num_frames=video.num_frames,
            height=video.height,
            width=video.width,
            fps=video.fps,
            metadata=video.metadata,
        )
        try:
            watched.save(path, on_frame=written)
            content = path.read_bytes()
        finally:
            path.unlink(missing_ok=True)
        self._check_cancelled()
        facts = {"frames": len(video), "fps": video.fps, "height": video.height, "width": video.width}
        return told.Finished(content, pictures.thumbnail, pictures.spritesheet(), pictures.grid, facts)

    def _check_cancelled(self) -> None:
        if self.generation.cancelled:
            raise Cancelled("the request was cancelled while its file was written")


def warm_up(pipe: Pipeline) -> None:
    """One step of every stage at the bundle's own size, so that no client waits for graphs that are opened."""
    rates = pipe.bundle.rates
    request = Request("warm-up", fps=rates[min(1, len(rates) - 1)], num_inference_steps=1)
    video = pipe.generate(request).video
    next(iter(video.chunks()))


def probe(pipe: Pipeline) -> None:
    """The first step of a video: whether the device still computes. Raises what a generation raises."""
    with pipe.generate(Request("probe", num_inference_steps=1)) as generation:
        next(generation)


def _request(work: told.Work) -> Request:
    """The request of a job. Raises RequestError for a picture that cannot be read."""
    picture = None if work.picture is None else open_image(io.BytesIO(work.picture))
    if picture is not None and picture.shape[0] * picture.shape[1] > MAX_PICTURE_PIXELS:
        raise RequestError(
            f"image: expected at most {MAX_PICTURE_PIXELS} pixels, got {picture.shape[1]}x{picture.shape[0]}"
        )
    request = Request(**work.request)
    return request if picture is None else dataclasses.replace(request, image=picture)
