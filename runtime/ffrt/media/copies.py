"""Sound and subtitles of a file, copied into another one packet by packet: nothing is decoded."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffrt.errors import RequestError
from ffrt.media.probe import Track, disposition, opened_video, reading

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffix of an output -> FFmpeg's name of its container."""
EMPTY_TEXT = 2
"""Bytes of a subtitle of mp4 that shows nothing."""
KINDS = {"audio": "sound", "subtitle": "subtitles"}


def check_holds(path: Path, tracks: Collection[Track], suffix: str) -> None:
    """Raise RequestError, which names what would do, unless a file of `suffix` holds these tracks of a file."""
    refused = [track for track in tracks if track.index in refused_tracks(path, tracks, suffix)]
    if not refused:
        return
    able = [other for other in FORMATS if other != suffix and not refused_tracks(path, tracks, other)]
    told = ", ".join(f"{KINDS[track.kind]} in {track.codec}" for track in refused)
    dropped = " ".join(f"--drop {kind}" for kind in dict.fromkeys(track.kind for track in refused))
    write = f"write {' or '.join(able)}, which holds it, or leave" if able else "leave"
    raise RequestError(
        f"path: a {suffix} file cannot hold all that the video has besides its pictures: {told}; {write} it out with "
        f"{dropped}"
    )


def refused_tracks(path: Path, tracks: Collection[Track], suffix: str) -> set[int]:
    """Those of the tracks, by index, that a file of `suffix` cannot hold: its header is tried with each."""
    import av

    refused = set()
    with opened_video(path) as (source, _), reading(path):
        for track in tracks:
            with av.open(io.BytesIO(), "w", format=FORMATS[suffix]) as scratch:
                try:
                    _add(scratch, source.streams[track.index])
                    scratch.start_encoding()
                except (ValueError, av.FFmpegError):
                    refused.add(track.index)
    return refused


class Copies:
    """The tracks of a file on their way into a container that is being written."""

    def __init__(self, source: InputContainer, path: Path, tracks: Collection[Track], into: OutputContainer) -> None:
        self.path, self.into = path, into
        self.streams: dict[int, Stream] = {track.index: _add(into, source.streams[track.index]) for track in tracks}
        self.packets = self._packets(source)
        self.held: Packet[Any] | None = None

    def until(self, time_s: Fraction | None) -> None:
        """Copy the packets up to a moment of the file's clock, all that are left for None."""
        while True:
            if self.held is None:
                with reading(self.path):
                    self.held = next(self.packets, None)
            if self.held is None or (time_s is not None and _moment(self.held) > time_s):
                return
            packet, self.held = self.held, None
            packet.stream = self.streams[packet.stream.index]
            self.into.mux(packet)

    def _packets(self, source: InputContainer) -> Iterator[Packet[Any]]:
        wanted = [source.streams[index] for index in self.streams]
        if not wanted:
            return
        for packet in source.demux(wanted):
            nothing = packet.size <= EMPTY_TEXT and packet.stream.name == "mov_text"  # its muxer writes pauses itself
            if packet.size > 0 and not nothing:
                yield packet


def _add(container: OutputContainer, template: Stream) -> Any:
    """A stream of a container that takes the packets of another one."""
    if template.codec_context is None:
        raise ValueError("a codec that PyAV does not know")
    added: Any = container.add_stream_from_template(template, opaque=True)
    added.metadata.update(template.metadata)
    added.disposition = disposition(template)
    return added


def _moment(packet: Packet[Any]) -> Fraction:
    at = packet.pts if packet.dts is None else packet.dts
    return Fraction(0) if at is None or packet.time_base is None else at * Fraction(packet.time_base)
