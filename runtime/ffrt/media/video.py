"""Video: uint8 frames that travel with their rate. How one becomes a file is in `video_file`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ffrt import checks
from ffrt.errors import RequestError, VideoWriteError
from ffrt.files import AnyPath
from ffrt.media.video_file import Frames, write_video

MAX_SIZE = 2**31 - 1


class Video:
    """Frames that travel with their rate. Lazy: nothing is decoded before it is asked for; iterable again and again.

    `chunks()` starts a fresh iterator over uint8 arrays [n, H, W, 3] of any n >= 1, `num_frames` frames in all.
    Iterating the video gives frames [H, W, 3], holding one chunk at a time.

    Raises `RequestError` for sizes or rates below one, `VideoWriteError` when `chunks` does not keep its promise.
    """

    def __init__(
        self,
        chunks: Callable[[], Iterator[NDArray[np.uint8]]],
        *,
        num_frames: int,
        height: int,
        width: int,
        fps: int,
        metadata: Mapping[str, str],
    ) -> None:
        for name, value, least in (
            ("num_frames", num_frames, 0),
            ("height", height, 1),
            ("width", width, 1),
            ("fps", fps, 1),
        ):
            checks.whole(name, value, least, MAX_SIZE)
        checks.function("chunks", chunks)
        self._chunks = chunks
        self.num_frames = num_frames
        self.height = height
        self.width = width
        self.fps = fps
        self.metadata: Mapping[str, str] = MappingProxyType(checks.texts("metadata", metadata))

    @classmethod
    def from_frames(
        cls, frames: NDArray[np.uint8], fps: int, metadata: Mapping[str, str] = MappingProxyType({})
    ) -> Video:
        """A video over frames in memory: uint8 [N, H, W, 3] in RGB order, not copied."""
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise RequestError(f"frames must be a uint8 array [N, H, W, 3], got {checks.describe(frames)}")
        n, height, width, _ = frames.shape
        return cls(
            lambda: iter((frames,) if n else ()), num_frames=n, height=height, width=width, fps=fps, metadata=metadata
        )

    def __reduce__(self) -> tuple[Callable[..., Video], tuple[object, ...]]:
        """A copy or a pickle holds the decoded frames."""
        return Video.from_frames, (self.frames, self.fps, dict(self.metadata))

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for chunk in self.chunks():
            yield from chunk

    def __repr__(self) -> str:
        return f"Video({self.num_frames} frames, {self.height}x{self.width}, {self.fps} fps)"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """`frames`, for `np.asarray(video)`: as they are, or of another dtype, or a copy."""
        return np.array(self.frames, dtype=dtype, copy=copy)

    @property
    def duration_s(self) -> float:
        """Length in seconds: every frame is shown for 1 / fps."""
        return self.num_frames / self.fps

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """All frames, uint8 [N, H, W, 3], read-only. Decoded once and kept: N * H * W * 3 bytes."""
        frames = np.empty((self.num_frames, self.height, self.width, 3), np.uint8)
        start = 0
        for chunk in self.chunks():
            frames[start : start + len(chunk)] = chunk
            start += len(chunk)
        frames.flags.writeable = False
        return frames

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 [n, H, W, 3] chunks, `num_frames` frames in all."""
        if "frames" in self.__dict__:
            if self.num_frames:
                yield self.frames
            return
        count = 0
        wanted = f"uint8 [n, {self.height}, {self.width}, 3]"
        made = self._chunks()
        if not isinstance(made, Iterable):
            raise VideoWriteError(f"chunks: expected a function that gives {wanted}, got {checks.describe(made)}")
        for chunk in made:
            shape = np.shape(chunk)[1:] if isinstance(chunk, np.ndarray) and chunk.dtype == np.uint8 else None
            if shape != (self.height, self.width, 3):
                raise VideoWriteError(f"chunks: expected {wanted}, got {checks.describe(chunk)}")
            count += len(chunk)
            if count > self.num_frames:
                break
            yield chunk
        if count != self.num_frames:
            many = "more" if count > self.num_frames else f"only {count}"
            raise VideoWriteError(f"the video was announced with {self.num_frames} frames, its chunks hold {many}")

    def save(
        self,
        path: AnyPath | BinaryIO,
        *,
        format: str | None = None,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write the video; the suffix decides the format: .mp4 (H.264), .webm (VP9), .gif, .png (numbered frames).

        One chunk is alive at a time, so memory does not grow with the length. The file is written in a hidden folder
        beside `path`, synced, and renamed: whatever happens, `path` is the old file or the whole new one. `~` is the
        home folder, a link is followed, and a file that is replaced leaves its permissions. Several frames as `out.png`
        are the folder `out` with `out-00000.png` and on, which is swapped as a whole, and replaces no folder that holds
        anything else. `path` may be a file opened for bytes, and `format` then says what is written, "mp4" for example.
        `metadata` goes into the file; `on_frame(done, total)` is called after each frame.

        Raises `VideoWriteError` for a target that cannot be written or is read-only, a size or rate that the format
        cannot hold, no frames, or a disk that fills up; `RequestError` for an unknown `format`, or an `on_frame` that
        is no function.
        """
        if on_frame is not None:
            checks.function("on_frame", on_frame)
        frames = Frames(iter(self), self.num_frames, self.height, self.width, self.fps, self.metadata, on_frame)
        write_video(path, frames, format)
