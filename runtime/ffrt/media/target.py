"""Where a video goes: a file, or a folder of numbered pictures. Everything about it is checked before any work."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from ffrt.checks import describe
from ffrt.errors import OutputError, RequestError, VideoWriteError
from ffrt.files import AnyPath, lasting, path_of, shown
from ffrt.media.metadata import carries_metadata
from ffrt.output.faults import why_not_written
from ffrt.output.interrupts import held_interrupts
from ffrt.output.place import why_not_file, why_not_folder
from ffrt.output.work import work_folder

SUFFIXES = (".mp4", ".webm", ".gif", ".png")


def check_target(
    path: AnyPath | BinaryIO, *, num_frames: int | None = None, suffixes: Collection[str] = SUFFIXES
) -> Path:
    """Say before any work whether a video can be written to `path`; return the absolute path with links followed.

    The folder is tried by really writing to it. With `num_frames`, the folder of a png series is checked too. Raises
    `VideoWriteError`, for a suffix that is none of `suffixes` as well.
    """
    name = shown(path_of("path", path, VideoWriteError))
    target = Path(os.path.realpath(lasting("path", path, VideoWriteError)))
    with write_errors(target):
        reason = _why_not(target, num_frames, suffixes)
        if reason is not None:
            raise VideoWriteError(f"{name!r}{reason}")
        with held_interrupts(), work_folder(target.parent):
            return target


def check_format(format: object) -> str:
    """The suffix of a format that is named without a file: "mp4" -> ".mp4". Raises RequestError."""
    suffix = f".{format.removeprefix('.').lower()}" if isinstance(format, str) else None
    if suffix not in SUFFIXES:
        known = [each.removeprefix(".") for each in SUFFIXES]
        raise RequestError(
            f"format: expected one of {known}, since a file object has no suffix, got {describe(format)}"
        )
    return suffix


def file_object(path: AnyPath | BinaryIO) -> BinaryIO | None:
    """A file that a caller opened for bytes and gave in place of a path. Raises RequestError for one of text."""
    if isinstance(path, (str, bytes, os.PathLike)) or not hasattr(path, "write"):
        return None
    if isinstance(path, io.TextIOBase):
        raise RequestError(f"path: expected a file opened in binary mode, got {type(path).__name__} of text")
    return path


def output_of(target: Path, num_frames: int) -> Path:
    """What a video of `num_frames` saved as `target` becomes: that file, or the folder of a png series."""
    return target if target.suffix.lower() != ".png" or num_frames == 1 else target.with_name(target.stem)


def frame_files(target: Path, num_frames: int) -> list[Path]:
    """The files of a video of `num_frames` saved as `target`: one, or `NAME/NAME-00000.png` and on."""
    output = output_of(target, num_frames)
    if output == target:
        return [target]
    return [output / f"{target.stem}-{i:05d}{target.suffix}" for i in range(num_frames)]


def why_no_series(folder: Path) -> str | None:
    """Why a folder may not be replaced by a png series: it holds something that is no frame of ours."""
    frame = re.compile(re.escape(folder.name) + r"-\d{5,}\.png", re.IGNORECASE)
    for entry in sorted(folder.iterdir()):
        if frame.fullmatch(entry.name) is None or not carries_metadata(entry):
            return f"is there and holds {entry.name!r}, which is no frame of ffrt; move it away or choose another name"
    return None


@contextlib.contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Faults of the disk and of PyAV become a VideoWriteError."""
    import av

    try:
        yield
    except OutputError as error:
        if isinstance(error, VideoWriteError):
            raise
        raise VideoWriteError(str(error)) from error
    except (OSError, av.FFmpegError) as error:
        what = why_not_written(error, target.parent) if isinstance(error, OSError) else None
        if what is None and isinstance(error, PermissionError):
            what = f"no permission to write in {shown(target.parent)!r}; choose another folder"
        if what is None:
            what = f"{type(error).__name__}: {error}"
        raise VideoWriteError(f"{shown(target)!r} was not written: {what}") from error


def _why_not(target: Path, num_frames: int | None, suffixes: Collection[str]) -> str | None:
    """What is wrong with a target, as the rest of a sentence that begins with it."""
    if target.is_dir():
        return f" is a folder; name a file in it, such as {shown(target / 'video.mp4')!r}"
    if target.suffix.lower() not in suffixes:
        return f": the suffix decides the format; known are {', '.join(suffixes)}, got {shown(target.suffix)!r}"
    if num_frames == 0:
        return ": the video has no frames, so there is nothing to write"
    reason = why_not_file(target)
    if reason is not None:
        return f" {reason}"
    if num_frames is None or output_of(target, num_frames) == target:
        return None
    with contextlib.suppress(FileNotFoundError):
        target.with_name(frame_files(target, num_frames)[-1].name).lstat()  # an OSError if the name is too long
    folder = output_of(target, num_frames)
    reason = why_not_folder(folder, why_no_series)
    return None if reason is None else f": its frames go to the folder {shown(folder)!r}, which {reason}"
