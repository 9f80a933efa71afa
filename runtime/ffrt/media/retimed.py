"""The writer of a video at a new rate: frames are encoded, everything else of its source comes along as it is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ffrt.media.colours import from_rgb, tag, written
from ffrt.media.copies import FORMATS, Copies
from ffrt.media.muxer import Muxer
from ffrt.media.probe import Track, disposition, opened_video
from ffrt.media.source import Source
from ffrt.media.writers import CODECS

SUFFIXES = tuple(FORMATS)
FINE = 10_000
"""Units of time a second, at the least: the first frame is placed to 0.1 ms where it does not begin at 0."""
OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder", "rotate")
COUNTED = ("bps", "duration", "number_of_frames", "number_of_bytes", "_statistics")
"""Entries of metadata that speak of the file that they were in, and beginnings of those that count its packets."""


@dataclass(frozen=True)
class Retimed:
    """What is written: the frames of `source` at `rate`, with these of its tracks and facts about how it was made."""

    source: Source
    rate: Fraction
    tracks: tuple[Track, ...]
    facts: Mapping[str, str]


class RetimedWriter:
    """`add` every frame uint8 [H, W, 3], then `finish`; or `abort`. The n-th frame is shown at start + n / rate."""

    def __init__(self, part: Path, suffix: str, video: Retimed) -> None:
        self.video, self.count = video, 0
        self.stack = contextlib.ExitStack()
        codec, codec_options, options = CODECS[".webm" if suffix == ".webm" else ".mp4"]
        many = -(-FINE // video.rate.numerator)
        self.step = video.rate.denominator * many
        self.time_base = Fraction(1, video.rate.numerator * many)
        # an mp4 rounds the beginning and length of a track to this unit of its own, a millisecond otherwise
        options = {**options, "movie_timescale": str(self.time_base.denominator)}
        self.muxer = Muxer(part, FORMATS[suffix], options if suffix in (".mp4", ".mov") else {})
        try:
            self._set_up(codec, codec_options)
        except BaseException:
            self.abort()
            raise

    def _set_up(self, codec: str, codec_options: Mapping[str, str]) -> None:
        source, rate, container = self.video.source, self.video.rate, self.muxer.container
        read, _ = self.stack.enter_context(opened_video(source.probe.path))
        self.colours = written(source.probe.colours)
        odd = source.height % 2 or source.width % 2
        self.pixels = "yuv444p" if source.probe.full_chroma or (odd and codec == "libx264") else "yuv420p"
        self.first = round(source.start / self.time_base)
        self.stream = cast("Any", container.add_stream(codec, rate=rate, options=dict(codec_options)))
        self.stream.height, self.stream.width, self.stream.pix_fmt = source.height, source.width, self.pixels
        self.stream.codec_context.time_base = self.stream.time_base = self.time_base
        self.stream.codec_context.sample_aspect_ratio = source.pixel_aspect
        tag(self.stream.codec_context, self.colours)
        old = read.streams[source.probe.stream]
        self.stream.metadata.update(_lasting(old.metadata))
        self.stream.disposition = disposition(old)
        self.copies = Copies(read, source.probe.path, self.video.tracks, container)
        metadata = _lasting(read.metadata)
        if not any(key.lower() == "comment" for key in metadata):
            metadata["comment"] = json.dumps(dict(self.video.facts))
        container.metadata.update(metadata)
        container.set_chapters(read.chapters())

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Encode a frame, after everything else of the source up to its moment."""
        self.copies.until(self.video.source.start + self.count / self.video.rate)
        picture = from_rgb(frame, self.colours, self.pixels)
        picture.pts = self.first + self.count * self.step
        picture.time_base, picture.duration = self.time_base, self.step
        self.count += 1
        self.muxer.container.mux(self.stream.encode(picture))

    def finish(self) -> None:
        """End the video. Raises OSError if not every frame reached the disk."""
        self.muxer.container.mux(self.stream.encode(None))
        self.copies.until(None)
        self.stack.close()
        self.muxer.finish(self.count)

    def abort(self) -> None:
        """Give up: the file will be deleted."""
        self.muxer.abort()
        self.stack.close()


def _lasting(metadata: Mapping[str, str]) -> dict[str, str]:
    """The entries that hold for a new file as well."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in OF_THE_FILE and not key.lower().startswith(COUNTED)
    }
