"""How a video becomes a file: formats, metadata, and a target that is the old file or the whole new one.

The suffix decides the format:

| suffix | what is written |
|---|---|
| .mp4 | H.264, yuv420p, BT.709, index first: plays everywhere; height and width must be even |
| .webm | VP9, yuv420p, BT.709; any size |
| .gif | 256 colours chosen for each frame, endless loop, at most 50 frames per second |
| .png | lossless; one frame is `out.png`, more are a folder: `out/out-00000.png`, `out/out-00001.png`, ... |

Metadata is stored as one JSON object: in the container's `comment` in mp4, webm and gif, in the `Comment` text chunk
of every png. `ffrt.media.metadata` gives it back. PyAV is imported on first use, so that importing ffrt stays fast.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ffrt.checks import describe
from ffrt.errors import RequestError, VideoWriteError
from ffrt.files import AnyPath
from ffrt.media.target import (
    SUFFIXES,
    check_format,
    check_target,
    file_object,
    frame_files,
    output_of,
    why_no_series,
    write_errors,
)
from ffrt.media.writers import AvWriter, PngWriter, Writer
from ffrt.output.whole_file import whole_file
from ffrt.output.whole_folder import whole_folder
from ffrt.output.work import work_folder

__all__ = ["SUFFIXES", "Frames", "check_target", "write_video"]
GIF_MAX_FPS = 50  # delays are whole centiseconds, and players slow a delay of one down to ten frames per second


@dataclass(frozen=True)
class Frames:
    """What is written: uint8 frames [H, W, 3] one by one, what they are, and whom to tell after each."""

    frames: Iterator[NDArray[np.uint8]]
    num_frames: int
    height: int
    width: int
    fps: int
    metadata: Mapping[str, str]
    on_frame: Callable[[int, int], None] | None = None


def write_video(path: AnyPath | BinaryIO, video: Frames, format: str | None = None) -> None:
    """Write frames to `path` one by one; see `Video.save`. Raises `VideoWriteError`."""
    file = file_object(path)
    if file is not None:
        _write_object(file, video, check_format(format))
        return
    target = check_target(path, num_frames=video.num_frames)
    suffix = target.suffix.lower()
    if format is not None and check_format(format) != suffix:
        raise RequestError(f"format: expected that of the suffix {suffix!r} or none, got {describe(format)}")
    check_holds(target.name, suffix, video.height, video.width, video.fps)
    output = output_of(target, video.num_frames)
    names = [file.name for file in frame_files(target, video.num_frames)]
    with contextlib.ExitStack() as stack:
        with write_errors(target):
            whole = whole_file(target) if output == target else whole_folder(output, why_no_series)
            part = stack.enter_context(whole)
        files = [part] if output == target else [part / name for name in names]
        _encode(files, suffix, video, target)
        with write_errors(target):
            stack.close()


def _write_object(file: BinaryIO, video: Frames, suffix: str) -> None:
    """Make the file on disk, then copy it: nothing is written to `file` before the video is whole."""
    name = f"video{suffix}"
    if video.num_frames == 0:
        raise VideoWriteError("the video has no frames, so there is nothing to write")
    if suffix == ".png" and video.num_frames > 1:
        raise VideoWriteError(
            f"one file object cannot hold {video.num_frames} png pictures; give a path, or another format"
        )
    check_holds(name, suffix, video.height, video.width, video.fps)
    place = Path(tempfile.gettempdir(), name)
    with contextlib.ExitStack() as stack:
        with write_errors(place):
            folder = stack.enter_context(work_folder(place.parent))
        _encode([folder / name], suffix, video, place)
        with write_errors(place), open(folder / name, "rb") as whole:
            _copy(whole, file)


def _copy(whole: BinaryIO, file: BinaryIO) -> None:
    """Copy to a file of the caller, whose write may be anything."""
    try:
        shutil.copyfileobj(whole, file)
    except OSError:
        raise
    except Exception as error:
        raise VideoWriteError(f"path: expected a file that is open for writing, got {error!r:.200} from it") from error


def check_holds(name: str, suffix: str, height: int, width: int, fps: int) -> None:
    """Raise VideoWriteError if the format cannot hold frames of that size in pixels, or so many a second."""
    if suffix == ".mp4" and (height % 2 or width % 2):
        raise VideoWriteError(
            f"{name!r}: H.264 that plays everywhere keeps one colour sample per 2x2 pixels, so height and width "
            f"must be even, got {height}x{width}; save it as .webm, .gif or .png, which take any size"
        )
    if suffix == ".gif" and fps > GIF_MAX_FPS:
        raise VideoWriteError(
            f"{name!r}: a gif shows at most {GIF_MAX_FPS} frames per second, got {fps}; save it as .mp4 or .webm"
        )


def _encode(files: list[Path], suffix: str, video: Frames, target: Path) -> None:
    """Write all frames to one file, or each to a png of its own. Errors of the frames' source pass as they are."""
    with write_errors(target):
        writer: Writer = (
            PngWriter(files, video.metadata)
            if suffix == ".png"
            else AvWriter.at(files[0], suffix, video.height, video.width, video.fps, video.metadata)
        )
    try:
        for done, frame in enumerate(video.frames, start=1):
            with write_errors(target):
                writer.add(frame)
            if video.on_frame is not None:
                video.on_frame(done, video.num_frames)
        with write_errors(target):
            writer.finish()
    except BaseException:
        writer.abort()
        raise
