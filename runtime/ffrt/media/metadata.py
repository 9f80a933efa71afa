"""What `Video.save` stored in a file, read back. The file comes from outside: anybody may have written it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ffrt.errors import RequestError
from ffrt.files import limit_of, opened, path_of, shown

if TYPE_CHECKING:
    from av.container import InputContainer

CONTAINERS = {".mp4": "mp4", ".webm": "webm", ".gif": "gif", ".mov": "mov", ".mkv": "matroska"}
"""Suffix -> FFmpeg's name of the format. Left to guess, FFmpeg takes playlists too, which open other files."""

MOST_BOXES = 1000


def read_metadata(path: object) -> dict[str, str]:
    """The metadata that `Video.save` stored in a file, empty if there is none.

    Raises RequestError for what is no such file, or cannot be read.
    """
    place = path_of("video", path)
    suffix = place.suffix.lower()
    if suffix != ".png" and suffix not in CONTAINERS:
        raise RequestError(f"video: expected a file ending in .png, {', '.join(CONTAINERS)}, got {str(place)!r}")
    with opened("video", place) as file:
        try:
            comment = _png_comment(file) if suffix == ".png" else _container_comment(file, suffix)
        except Exception as error:  # a damaged file raises nearly anything
            limit = limit_of(error)
            said = error if limit is None else limit
            raise RequestError(f"{shown(place)!r} cannot be read as a video: {said}") from error
    try:
        value = json.loads(comment)
    except (ValueError, RecursionError):
        return {}
    return {_text(key): _text(item) for key, item in value.items()} if isinstance(value, dict) else {}


def carries_metadata(png: Path) -> bool:
    """Whether a file is a PNG that `Video.save` wrote: one with metadata, be they empty."""
    try:
        with opened("picture", png) as file:
            return isinstance(json.loads(_png_comment(file)), dict)
    except Exception:  # as above; then it is none of ours
        return False


def _text(value: object) -> str:
    """Text that can be printed: JSON may hold halves of characters, which UTF-8 cannot."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _png_comment(file: BinaryIO) -> str:
    from PIL import Image

    with Image.open(file, formats=("PNG",)) as image:
        comment = image.info.get("Comment", "")
        return comment if isinstance(comment, str) else ""


def open_container(file: BinaryIO, format: str) -> InputContainer:
    """Open a container whose texts may be of any encoding: PyAV reads them from version 19 on, before if it is told."""
    import av

    if int(av.__version__.split(".")[0]) >= 19:
        return av.open(file, "r", format=format)
    return av.open(file, "r", format=format, metadata_errors="replace")


def _container_comment(file: BinaryIO, suffix: str) -> str:
    with open_container(file, CONTAINERS[suffix]) as container:
        if suffix in (".mp4", ".mov"):
            _check_index(file)
        if suffix == ".gif":  # its comment comes after the last frame
            for _ in container.demux():
                pass
            file.seek(-1, os.SEEK_END)
            if file.read() != b";":
                raise ValueError("it has no end: cut short")
        return {key.lower(): value for key, value in container.metadata.items()}.get("comment", "")


def _check_index(file: BinaryIO) -> None:
    """Raise ValueError where the box of an mp4 that holds metadata is cut short, which FFmpeg lets pass."""
    end, at = file.seek(0, os.SEEK_END), 0
    for _ in range(MOST_BOXES):
        file.seek(at)
        size, kind = int.from_bytes(file.read(4)), file.read(4)
        at += int.from_bytes(file.read(8)) if size == 1 else size
        if kind == b"moov" or size == 0 or at > end:
            break
    if kind != b"moov" or at > end:
        raise ValueError("it has no whole index: cut short, or no video")
