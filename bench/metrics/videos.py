"""Folders of videos: every mp4, webm, mkv, mov and gif in it, and every folder of png frames, one clip each.

Stored frames are taken as they are, one clip in memory at a time. What cannot be read is an error, never left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.harness.record import BenchError
from bench.metrics.base import Frames
from ffrt import FfrtError
from ffrt.files import opened
from ffrt.media.metadata import read_metadata
from ffrt.media.source import open_source

CONTAINERS = (".mp4", ".webm", ".mkv", ".mov")
SUFFIXES = (*CONTAINERS, ".gif")
CAPTIONS = "captions.json"


class VideoFolderError(BenchError):
    """A folder holds no videos, or some that cannot be read or compared."""


@dataclass(frozen=True)
class Videos:
    """The videos of a folder, by name."""

    folder: Path
    places: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def names(self) -> tuple[str, ...]:
        """Names without suffixes."""
        return tuple(one.stem if one.is_file() else one.name for one in self.places)

    def clips(self) -> Iterator[Frames]:
        """Clip after clip, uint8 `[N, H, W, 3]`. Raises VideoFolderError for one that cannot be read."""
        return (read(place) for place in self.places)

    def digest(self) -> str:
        """sha256 of all files and their names."""
        found = hashlib.sha256()
        for place in self.places:
            for file in [place] if place.is_file() else sorted(place.glob("*.png")):
                with file.open("rb") as content:
                    found.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
        return found.hexdigest()


def videos_in(folder: Path) -> Videos:
    """The videos of a folder in the order of their names. Raises VideoFolderError where there are none."""
    if not folder.is_dir():
        raise VideoFolderError(f"expected a folder of videos, got {folder}, which is none")
    places = sorted(one for one in folder.iterdir() if is_video(one))
    if not places:
        loose = any(one.suffix.lower() == ".png" for one in folder.iterdir())
        advice = "; put the png frames of each clip into a folder of their own" if loose else ""
        raise VideoFolderError(
            f"{folder}: expected videos ({', '.join(SUFFIXES)}, or folders of .png frames), got none{advice}"
        )
    return Videos(folder, tuple(places))


def is_video(place: Path) -> bool:
    """Whether a file or folder is one, by its name."""
    if place.is_dir():
        return any(place.glob("*.png"))
    return place.suffix.lower() in SUFFIXES


def read(place: Path) -> Frames:
    """All frames of a video, uint8 `[N, H, W, 3]`. Raises VideoFolderError."""
    try:
        if place.is_dir():
            frames = pictures(sorted(place.glob("*.png")))
        elif place.suffix.lower() == ".gif":
            frames = pictures([place])
        else:
            frames = list(open_source(place).frames())
        return np.stack(frames)
    except (FfrtError, OSError) as error:
        raise VideoFolderError(f"{place}: {error}") from error
    except Exception as error:  # a damaged picture raises nearly anything
        raise VideoFolderError(f"{place}: cannot be read as a video of frames of one size: {error}") from error


def pictures(files: Sequence[Path]) -> list[Frames]:
    """The pictures in png and gif files, uint8 `[H, W, 3]`."""
    from PIL import Image, ImageSequence

    found = []
    for path in files:
        with opened("picture", path) as file, Image.open(file, formats=("PNG", "GIF")) as image:
            found += [np.asarray(one.convert("RGB"), np.uint8) for one in ImageSequence.Iterator(image)]
    return found


def pairs(ours: Videos, theirs: Videos) -> Iterator[tuple[str, Frames, Frames]]:
    """Name and both clips of every pair. Raises VideoFolderError for one that lacks its like or has another shape."""
    if ours.names != theirs.names:
        alone = sorted(set(ours.names) ^ set(theirs.names))
        raise VideoFolderError(
            f"expected the same names in {ours.folder} and {theirs.folder}; in one alone: {', '.join(alone[:5])}"
        )
    for name, one, other in zip(ours.names, ours.clips(), theirs.clips(), strict=True):
        if one.shape != other.shape:
            raise VideoFolderError(
                f"{name}: expected two videos of one shape, got {list(one.shape)} and {list(other.shape)}; nothing is "
                "cut or scaled here"
            )
        yield name, one, other


def captions_of(videos: Videos, file: Path | None = None) -> list[str]:
    """What each video should show: from `captions.json`, `{"name": "caption"}`, or as `Video.save` stored the prompt.

    Raises VideoFolderError for a video without a caption.
    """
    place = videos.folder / CAPTIONS if file is None else file
    told: object = {}
    if file is not None or place.is_file():
        try:
            told = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VideoFolderError(f'{place}: expected {{"name": "caption", ...}}: {error}') from error
    if not isinstance(told, dict):
        raise VideoFolderError(f'{place}: expected {{"name": "caption", ...}}, got a {type(told).__name__}')
    found = []
    for name, video in zip(videos.names, videos.places, strict=True):
        caption = told.get(name, told.get(video.name, stored_prompt(video)))
        if not isinstance(caption, str) or not caption:
            raise VideoFolderError(f"{video}: expected a caption in {place}, or one that Video.save stored; got none")
        found.append(caption)
    return found


def stored_prompt(video: Path) -> str | None:
    """The prompt in the metadata of a video of ours; None without one."""
    file = video if video.is_file() else min(video.glob("*.png"))
    return read_metadata(file).get("prompt")
