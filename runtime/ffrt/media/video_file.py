"""How a video becomes a file: formats, metadata, and a target that is the old file or the whole new one.

The suffix decides the format:

| suffix | what is written |
|---|---|
| .mp4 | H.264, yuv420p, BT.709, index first: plays everywhere; height and width must be even |
| .webm | VP9, yuv420p, BT.709; any size |
| .gif | 256 colours chosen for each frame, endless loop, at most 50 frames per second |
| .png | lossless; one frame is `out.png`, more are `out-00000.png`, `out-00001.png`, ... |

Metadata is stored as one JSON object: in the container's `comment` in mp4, webm and gif, in the `Comment` text chunk
of every png. `ffrt.media.metadata` gives it back. PyAV is imported on first use, so that importing ffrt stays fast.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import VideoWriteError
from ffrt.media.writers import AvWriter, PngWriter, Writer

SUFFIXES = (".mp4", ".webm", ".gif", ".png")
GIF_MAX_FPS = 50  # delays are whole centiseconds, and players slow a delay of one down to ten frames per second


def write_video(
    path: str | os.PathLike[str],
    frames: Iterator[NDArray[np.uint8]],
    *,
    num_frames: int,
    height: int,
    width: int,
    fps: int,
    metadata: Mapping[str, str],
    on_frame: Callable[[int, int], None] | None = None,
) -> None:
    """Write uint8 frames [H, W, 3] to `path` one by one; see `Video.save`. Raises `VideoWriteError`."""
    target = check_target(path, num_frames=num_frames)
    suffix = target.suffix.lower()
    if suffix == ".mp4" and (height % 2 or width % 2):
        raise VideoWriteError(
            f"{target.name!r}: H.264 that plays everywhere keeps one colour sample per 2x2 pixels, so height and width "
            f"must be even, got {height}x{width}; save it as .webm, .gif or .png, which take any size"
        )
    if suffix == ".gif" and fps > GIF_MAX_FPS:
        raise VideoWriteError(
            f"{target.name!r}: a gif shows at most {GIF_MAX_FPS} frames per second, got {fps}; save it as .mp4 or .webm"
        )
    with _temporary_folder(target) as folder:
        with _write_errors(target):
            writer: Writer = (
                PngWriter(folder, metadata)
                if suffix == ".png"
                else AvWriter(folder / f"video{suffix}", height, width, fps, metadata)
            )
        try:
            for done, frame in enumerate(frames, start=1):
                with _write_errors(target):
                    writer.add(frame)
                if on_frame is not None:
                    on_frame(done, num_frames)
            with _write_errors(target):
                parts = writer.finish()
        except BaseException:
            writer.abort()
            raise
        with _write_errors(target):
            for part in parts:
                _sync(part)
            for part, final in zip(parts, frame_files(target, num_frames), strict=True):
                os.replace(part, final)


def check_target(path: str | os.PathLike[str], *, num_frames: int | None = None) -> Path:
    """Say before any work whether a video can be written to `path`; return the path with links followed.

    The folder is tried by really writing to it. With `num_frames`, frames of an earlier and longer png video that would
    be taken for part of this one are refused too. Raises `VideoWriteError`.
    """
    try:
        with _write_errors(Path(path)):
            return _checked(path, num_frames)
    except ValueError as error:  # a NUL in the name
        raise VideoWriteError(f"{os.fspath(path)!r} is no file name: {error}") from None


def frame_files(target: Path, num_frames: int) -> list[Path]:
    """The files that a video of `num_frames` saved as `target` consists of: one, or one for each frame of a png."""
    if target.suffix.lower() != ".png" or num_frames == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{i:05d}{target.suffix}") for i in range(num_frames)]


def _checked(path: str | os.PathLike[str], num_frames: int | None) -> Path:
    shown, target = repr(os.fspath(path)), Path(os.path.realpath(path))
    if target.is_dir():
        raise VideoWriteError(f"{shown} is a folder; name a file in it, such as {os.path.join(path, 'video.mp4')!r}")
    if target.suffix.lower() not in SUFFIXES:
        raise VideoWriteError(
            f"{shown}: the suffix decides the format; known are {', '.join(SUFFIXES)}, got {target.suffix!r}"
        )
    if num_frames == 0:
        raise VideoWriteError(f"{shown}: the video has no frames, so there is nothing to write")
    if not target.parent.is_dir():
        raise VideoWriteError(f"{shown}: there is no folder {str(target.parent)!r}; create it with mkdir -p")
    finals = [target] if num_frames is None else frame_files(target, num_frames)
    for final in finals:
        if final.exists() and not final.is_file():
            raise VideoWriteError(f"{shown}: {str(final)!r} is there and not a plain file; choose another name")
    if num_frames is not None and target.suffix.lower() == ".png":
        numbered = re.compile(re.escape(target.stem) + r"-\d{5,}" + re.escape(target.suffix))
        there = {name for name in os.listdir(target.parent) if numbered.fullmatch(name)}
        if stale := sorted(there - {final.name for final in finals}):
            raise VideoWriteError(
                f"{shown}: {len(stale)} frames of another video ({stale[0]}, ...) would be taken for frames of this "
                f"one; delete them or choose another name"
            )
    with _temporary_folder(target):
        return target


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, so that a rename into place stays on one disk; gone afterwards."""
    with _write_errors(target):
        folder = tempfile.TemporaryDirectory(prefix=".ffrt-", suffix=".part", dir=target.parent)
    with folder as name:
        yield Path(name)


@contextmanager
def _write_errors(target: Path) -> Iterator[None]:
    import av

    try:
        yield
    except (OSError, av.FFmpegError) as error:
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT):
            what = f"the disk of {str(target.parent)!r} is full; free some space or choose another folder"
        elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"no permission to write in {str(target.parent)!r}; choose another folder"
        else:
            what = f"{type(error).__name__}: {error}"
        raise VideoWriteError(f"{str(target)!r} was not written: {what}") from error


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
