"""A video file of the caller, looked over from its first packet to its last before any work.

Only MP4, QuickTime and Matroska are taken, told by their first bytes: left to guess, FFmpeg takes texts and playlists
too, which open other files. What cannot be worked on is a VideoReadError that says what to type.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffrt.errors import FfrtError, VideoReadError
from ffrt.files import limit_of, opened, shown
from ffrt.media.metadata import open_container
from ffrt.media.rates import Ticks
from ffrt.media.turns import Turn, turn_of

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
EBML = b"\x1a\x45\xdf\xa3"
ATTACHED_PICTURE = 0x400
"""The disposition of a stream that is a cover."""
MISSING_S = 1.0
"""Seconds by which a container may be longer than what is in it: some writers are that careless."""


@dataclass(frozen=True)
class Track:
    """A stream besides the video: its index in the file, "audio" or "subtitle", and its codec."""

    index: int
    kind: str
    codec: str


@dataclass(frozen=True)
class Colours:
    """Numbers of ITU-T H.273 as a stream carries them (2 is "not said"), and whether levels are full (2) or limited."""

    primaries: int
    transfer: int
    matrix: int
    range: int


@dataclass(frozen=True)
class Probe:
    """What a file holds. `ticks` are the times of its frames in display order, in units of `time_base` seconds.

    `height` and `width` are those of stored frames, which `turn` shows upright. `last` is how long the last frame is
    shown, in ticks, 0 if nobody says.
    """

    path: Path
    format: str
    stream: int
    ticks: Ticks = field(repr=False, compare=False)
    time_base: Fraction
    told: tuple[Fraction | None, ...]
    last: int
    height: int
    width: int
    turn: Turn
    pixel_aspect: Fraction
    colours: Colours
    full_chroma: bool
    bits: int
    tracks: tuple[Track, ...]
    left_out: tuple[str, ...]


@contextlib.contextmanager
def opened_video(path: Path) -> Iterator[tuple[InputContainer, str]]:
    """A container, open for reading, and FFmpeg's name of its format. Raises VideoReadError."""
    with opened("video", path, VideoReadError) as file:
        format = _format_of(file.read(12))
        if format is None:
            raise VideoReadError(
                f"video: expected an MP4, QuickTime or Matroska file (WebM too), got {shown(path)!r}; other containers "
                "are rewritten without loss by 'ffmpeg -i FILE -c copy FILE.mkv'"
            )
        file.seek(0)
        with reading(path):
            container = open_container(file, format)
        try:
            yield container, format
        finally:
            container.close()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a damaged file raises in the block becomes a VideoReadError."""
    try:
        yield
    except FfrtError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        limit = limit_of(error)
        said = f"{error}; it may be damaged or cut short" if limit is None else limit
        raise VideoReadError(f"video: {shown(path)!r} cannot be read as a video: {said}") from error


def disposition(stream: Any) -> int:
    """What a stream is for, as FFmpeg's bits: a flag of PyAV, which was no number before version 17."""
    bits = stream.disposition
    return int(getattr(bits, "value", bits))


def probe(path: Path) -> Probe:
    """Look a file over: all packets are read, one frame is decoded. Raises VideoReadError."""
    with opened_video(path) as (container, _), reading(path):
        first = _first_frame(container, _video_of(container, path), path)
    with opened_video(path) as (container, format), reading(path):
        stream = _video_of(container, path)
        ticks, last = _times(container, stream, path)
        context: Any = stream.codec_context
        kinds = {"audio", "subtitle"}
        others = [one for one in container.streams if one.index != stream.index]
        aspect = stream.sample_aspect_ratio
        return Probe(
            path,
            format,
            stream.index,
            ticks,
            _known(stream.time_base),
            tuple(_positive(rate) for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate)),
            last,
            first.height,
            first.width,
            turn_of(first, path),
            Fraction(1) if not aspect else Fraction(aspect),
            Colours(context.color_primaries, context.color_trc, context.colorspace, int(first.color_range)),
            _full_chroma(first),
            max(component.bits for component in first.format.components),
            tuple(Track(one.index, one.type, _codec(one)) for one in others if one.type in kinds),
            tuple(f"{one.type} (stream {one.index})" for one in others if one.type not in kinds),
        )


def _format_of(head: bytes) -> str | None:
    if head.startswith(EBML):
        return "matroska"
    return "mp4" if head[4:8] in BOXES else None


def _video_of(container: InputContainer, path: Path) -> VideoStream:
    """The first stream of moving pictures."""
    for stream in container.streams.video:
        if not disposition(stream) & ATTACHED_PICTURE:
            if stream.codec_context is None:
                raise VideoReadError(f"video: {shown(path)!r} has a codec that this PyAV cannot decode; re-encode it")
            return stream
    raise VideoReadError(f"video: expected a file with moving pictures, got none in {shown(path)!r}")


def _first_frame(container: InputContainer, stream: VideoStream, path: Path) -> VideoFrame:
    """The first frame that is shown, if its kind can be worked on."""
    frame = next(iter(container.decode(stream)), None)
    if frame is None:
        raise VideoReadError(f"video: expected at least two frames, got none in {shown(path)!r}")
    alpha = any(part.is_alpha for part in frame.format.components)
    if alpha or stream.metadata.get("alpha_mode") == "1":
        raise VideoReadError(
            f"video: {shown(path)!r} is transparent ({frame.format.name}), and H.264 and VP9 as they are written here "
            "hold no transparency; lay it on a colour first, with ffmpeg's overlay"
        )
    if frame.interlaced_frame:
        raise VideoReadError(
            f"video: {shown(path)!r} is interlaced, so that a frame shows two moments; "
            "make it progressive first: 'ffmpeg -i FILE -vf bwdif -c:a copy FILE.mkv'"
        )
    return frame


def _times(container: InputContainer, stream: VideoStream, path: Path) -> tuple[Ticks, int]:
    """The times of all frames that are shown, and how long the last one is. Eight bytes a frame are kept."""
    found: list[np.ndarray[Any, np.dtype[np.int64]]] = []
    some: list[int] = []
    count, newest, last = 0, None, 0
    ends: Fraction = Fraction(0)
    for packet in container.demux():
        if packet.size == 0:
            continue
        ends = max(ends, _end(packet))
        if packet.stream.index != stream.index:
            continue
        count += 1
        if packet.is_corrupt:
            raise VideoReadError(f"video: {shown(path)!r} is damaged or cut short at its frame {count}")
        if packet.is_discard:
            continue
        if packet.pts is None:
            raise VideoReadError(f"video: the frames of {shown(path)!r} carry no times; re-encode it")
        some.append(packet.pts)
        if newest is None or packet.pts > newest:
            newest, last = packet.pts, 0 if packet.duration is None else packet.duration
        if len(some) == 1 << 16:
            found.append(np.array(some, np.int64))
            some = []
    if stream.frames > count:
        raise VideoReadError(
            f"video: {shown(path)!r} is cut short: its index lists {stream.frames} frames, {count} are there"
        )
    length = 0.0 if container.duration is None else container.duration / 1e6
    begins = 0.0 if container.start_time is None else container.start_time / 1e6
    if begins + length - float(ends) > MISSING_S:
        raise VideoReadError(
            f"video: {shown(path)!r} is cut short: it should last {length:.1f} s, and ends after "
            f"{float(ends) - begins:.1f} s"
        )
    ticks = np.sort(np.concatenate([*found, np.array(some, np.int64)]))
    if len(ticks) < 2:
        raise VideoReadError(f"video: expected at least two frames, got {len(ticks)} in {shown(path)!r}")
    if np.any(np.diff(ticks) <= 0):
        raise VideoReadError(f"video: {shown(path)!r} has two frames at the same moment; re-encode it")
    return ticks, last


def _end(packet: Packet[Any]) -> Fraction:
    """When a packet ends, in seconds."""
    at = packet.dts if packet.pts is None else packet.pts
    if at is None or packet.time_base is None:
        return Fraction(0)
    return (at + (0 if packet.duration is None else packet.duration)) * Fraction(packet.time_base)


def _full_chroma(frame: VideoFrame) -> bool:
    """Whether there is a colour for each pixel."""
    parts = frame.format.components
    return len(parts) >= 3 and all(part.width == frame.width and part.height == frame.height for part in parts)


def _codec(stream: Any) -> str:
    context = stream.codec_context
    return "unknown" if context is None else str(context.name)


def _known(time_base: Fraction | None) -> Fraction:
    """A time base that FFmpeg has read a packet with."""
    if time_base is None:
        raise ValueError("a stream without a unit of time")
    return Fraction(time_base)


def _positive(rate: object) -> Fraction | None:
    return Fraction(rate) if isinstance(rate, (Fraction, int)) and rate > 0 else None
