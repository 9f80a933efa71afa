"""A video on its way: frames become bytes of a stream while later frames are still made.

Fragmented MP4 (ISO/IEC 14496-12, section 8.8) and live WebM need no way back in the file, so a pipe will do. Encoders
look ahead at no frame: what goes in comes out, and a fragment is short.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.cancel import WAIT_S, Cancellation
from ffrt.checks import describe
from ffrt.errors import FfrtError, RequestError, VideoWriteError
from ffrt.media.muxer import LiveMuxer
from ffrt.media.target import file_object
from ffrt.media.video_file import Frames, check_holds
from ffrt.media.writers import LIVE, AvWriter, Writer

AHEAD_FRAMES = 8
"""Frames that wait for the encoder at most."""


class Check(Protocol):
    """Raises if the work must not go on; as `Cancellation.check`."""

    def __call__(self, what: str) -> None:
        """Raise if `what` must not start any more."""


def check_live_format(format: object) -> str:
    """The suffix of a format that can be streamed: "mp4" -> ".mp4". Raises RequestError."""
    suffix = f".{format.removeprefix('.').lower()}" if isinstance(format, str) else ""
    if suffix not in LIVE:
        known = [each.removeprefix(".") for each in LIVE]
        raise RequestError(
            f"format: expected one of {known}, which can be streamed, got {describe(format)}; "
            "save other formats to a file"
        )
    return suffix


def check_live(file: object, format: object, height: int, width: int, fps: int) -> str:
    """The suffix of a stream of that format. Raises RequestError or VideoWriteError if there can be none."""
    suffix = check_live_format(format)
    if file_object(file) is None:  # type: ignore[arg-type]
        raise RequestError(
            f"file: expected one that is open for writing bytes, got {describe(file)}; save() takes paths"
        )
    check_holds(f"a stream of {suffix[1:]}", suffix, height, width, fps)
    return suffix


def stream_video(file: BinaryIO, video: Frames, format: str, cancellation: Cancellation) -> None:
    """Encode frames as they come, and write them to `file`; see `Generation.stream`."""
    suffix = check_live(file, format, video.height, video.width, video.fps)

    def writer() -> Writer:
        codec, codec_options, container_options = LIVE[suffix]
        keyframes = {"g": str(video.fps)}  # whoever comes later waits for a second at most
        muxer = LiveMuxer(file, suffix[1:], container_options)
        return AvWriter(
            muxer, codec, {**codec_options, **keyframes}, video.height, video.width, video.fps, video.metadata
        )

    with contextlib.ExitStack() as stack:
        close = getattr(video.frames, "close", None)
        if close is not None:
            stack.callback(close)
        encoding = _Encoding(writer, cancellation.check)
        try:
            for frame in video.frames:
                encoding.add(frame)
            encoding.finish()
        except BaseException:
            encoding.abort()
            raise


class _Encoding:
    """A writer in a thread of its own, a few frames behind; its errors are raised by the next call."""

    def __init__(self, writer: Callable[[], Writer], check: Check) -> None:
        self._make, self._check = writer, check
        self._frames: queue.Queue[NDArray[np.uint8] | None] = queue.Queue(AHEAD_FRAMES)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ffrt-encoding", daemon=True)
        self._thread.start()

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Hand a frame [H, W, 3] over, once there is room for it."""
        self._put(frame)

    def finish(self) -> None:
        """Wait until everything is written."""
        self._put(None)
        while self._thread.is_alive():
            self._check("the rest of the stream")
            self._thread.join(WAIT_S)
        self._raise()

    def abort(self) -> None:
        """Give up: frames that wait are dropped, and the thread ends."""
        self._stop.set()
        self._thread.join()

    def _put(self, frame: NDArray[np.uint8] | None) -> None:
        while True:
            self._raise()
            self._check("the rest of the stream")
            with contextlib.suppress(queue.Full):
                self._frames.put(frame, timeout=WAIT_S)
                return

    def _raise(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, FfrtError):
            raise self._error
        told = f"{type(self._error).__name__}: {self._error}"
        raise VideoWriteError(
            f"the stream ended early: its file took no more bytes ({told:.200}); stream anew, or save to a path"
        ) from self._error

    def _run(self) -> None:
        try:
            writer = self._make()
            try:
                while (frame := self._next()) is not None:
                    writer.add(frame)
                if self._stop.is_set():
                    writer.abort()
                else:
                    writer.finish()
            except BaseException:
                writer.abort()
                raise
        except BaseException as error:  # raised in the thread of the caller
            self._error = error

    def _next(self) -> NDArray[np.uint8] | None:
        """The next frame, None after the last one."""
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                return self._frames.get(timeout=WAIT_S)
        return None
