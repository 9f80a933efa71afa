"""A video of the caller as frames at a constant rate: what is read, how fast, and every frame once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import VideoReadError
from ffrt.files import shown
from ffrt.media.colours import to_rgb
from ffrt.media.probe import Probe, opened_video, probe, reading
from ffrt.media.rates import constant_rate, rate_to_make, repeated, repeats
from ffrt.media.turns import lies_on_its_side, upright

if TYPE_CHECKING:
    from av import VideoFrame


@dataclass(frozen=True)
class Source:
    """A video that can be worked on: `num_frames` frames [height, width, 3] at `rate`, upright, the first at `start`.

    `counts` says how often each stored frame is shown where the rate was made constant, else None. `start` is in
    seconds on the clock of the file, which its sound shares.
    """

    probe: Probe
    rate: Fraction
    counts: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)

    @property
    def num_frames(self) -> int:
        """How many frames `frames` gives."""
        return len(self.probe.ticks) if self.counts is None else int(self.counts.sum())

    @property
    def height(self) -> int:
        """Height of an upright frame in pixels."""
        return self.probe.width if lies_on_its_side(self.probe.turn) else self.probe.height

    @property
    def width(self) -> int:
        """Width of an upright frame in pixels."""
        return self.probe.height if lies_on_its_side(self.probe.turn) else self.probe.width

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel over its height, upright."""
        aspect = self.probe.pixel_aspect
        return 1 / aspect if lies_on_its_side(self.probe.turn) else aspect

    @property
    def start(self) -> Fraction:
        """When the first frame is shown, in seconds."""
        return int(self.probe.ticks[0]) * self.probe.time_base

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Upright frames uint8 [height, width, 3] in RGB order, one at a time.

        Raises VideoReadError where the file does not give the frames that it listed.
        """
        stored = (upright(to_rgb(frame, self.probe.colours), self.probe.turn) for frame in self._decoded())
        return stored if self.counts is None else repeated(stored, self.counts)

    def _decoded(self) -> Iterator[VideoFrame]:
        """Every frame that is shown, at the time at which it was listed."""
        path, ticks = self.probe.path, self.probe.ticks
        with opened_video(path) as (container, _):
            with reading(path):
                decoded: Iterator[Any] = iter(container.decode(container.streams[self.probe.stream]))
            for index, tick in enumerate(ticks.tolist()):
                with reading(path):
                    frame: VideoFrame | None = next(decoded, None)
                if frame is None or frame.pts != tick or frame.is_corrupt:
                    at = float(tick * self.probe.time_base)
                    raise VideoReadError(
                        f"video: frame {index} of {shown(path)!r}, at {at:.3f} s, cannot be decoded; the file is "
                        "damaged or cut between two of its key pictures; re-encode it"
                    )
                if (frame.height, frame.width) != (self.probe.height, self.probe.width):
                    raise VideoReadError(
                        f"video: expected frames of one size, got {self.probe.height}x{self.probe.width} and, from "
                        f"frame {index} on, {frame.height}x{frame.width}; re-encode it"
                    )
                yield frame


def open_source(path: Path, *, constant_rate_wanted: bool = False) -> Source:
    """A file as a source of frames. Raises VideoReadError, for a varying rate too unless a constant one is wanted."""
    found = probe(path)
    rate = constant_rate(found.ticks, found.time_base, found.told)
    if rate is not None:
        return Source(found, rate)
    rate = rate_to_make(found.ticks, found.time_base)
    if not constant_rate_wanted:
        steps = np.diff(found.ticks) * float(found.time_base)
        raise VideoReadError(
            f"video: expected a constant frame rate, got frames that are {1000 * steps.min():.1f} to "
            f"{1000 * steps.max():.1f} ms apart in {shown(path)!r}; make it {told_rate(rate)} with "
            "constant_rate=True (--constant-rate)"
        )
    last = found.last if found.last > 0 else round(1 / (rate * found.time_base))
    return Source(found, rate, repeats(found.ticks, found.time_base, rate, last))


def told_rate(rate: Fraction) -> str:
    """A rate for a reader: "25 fps", or "24000/1001 fps"."""
    return f"{rate} fps"
