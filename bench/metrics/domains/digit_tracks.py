"""Where two white digits on black are in every frame of a clip, how each moves, and where it turns round. numpy only.

Blobs are followed by how they look and how far they went; a frame in which they touch is left out and bridged. Which
digits they are is for a classifier: a :data:`Reader` is given the crops of a track.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError
from bench.metrics.base import Frames
from bench.metrics.detector import components, grown

Floats = NDArray[np.float64]
Reader = Callable[[NDArray[np.uint8]], int]
"""Which digit a crop ``[28, 28]`` shows, its glyph in the middle, white on black as in MNIST."""
CROP, SIDE = 28, 64
BRIGHT = 80
LEAST_PX = 10
PIECE = 0.4
"""A blob smaller than this share of the second largest is a piece of the nearest one."""
STRAIGHT, MOVES_PX = 3.0, 8.0
"""How much longer a way is than it is broad, and its least length, to be called a motion."""
FULL_SPEED = 0.85
"""Of the usual speed, that a digit has before and after the step within which it turns round."""
LOOKS_WEIGHT, FARTHEST_PX = 4.0, 12.0
"""Of the looks of a blob against its way, and the way that a digit goes in half a second at most."""


@dataclass(frozen=True)
class Blob:
    """One digit in one frame: middle and half sizes of its box in px, and its crop."""

    x: float
    y: float
    half_width: float
    half_height: float
    crop: NDArray[np.uint8]


@dataclass(frozen=True)
class Track:
    """One digit through a clip: the frames where it stands apart, and its blob in each."""

    frames: tuple[int, ...]
    blobs: tuple[Blob, ...]

    @property
    def motion(self) -> str:
        """Either "moving up and down", "moving left and right" or "none"."""
        ways = [float(np.ptp([getattr(blob, axis) for blob in self.blobs])) for axis in ("x", "y")]
        if max(ways) < MOVES_PX or max(ways) < STRAIGHT * min(ways):
            return "none"
        return "moving left and right" if ways[0] > ways[1] else "moving up and down"

    def turns_px(self) -> list[float]:
        """How far from the edge of the frame its glyph was, in px, each time it turned round.

        The moment lies between two frames; at constant speed the place follows from both. Only turns whose frames all
        show it apart count.
        """
        if self.motion == "none":
            return []
        name, half = ("x", "half_width") if self.motion == "moving left and right" else ("y", "half_height")
        place = np.array([getattr(blob, name) for blob in self.blobs])
        reach = float(np.median([getattr(blob, half) for blob in self.blobs]))
        at = np.array(self.frames)
        step = np.diff(place) / np.diff(at)
        usual = FULL_SPEED * float(np.quantile(np.abs(step), 0.75))
        found = []
        for before in range(1, len(place) - 2):
            there, back = step[before - 1], step[before + 1]
            apart = at[before + 2] - at[before - 1] == 3
            if apart and there * back < 0 and min(abs(there), abs(back)) >= usual:
                way, speed = np.sign(there), (abs(there) + abs(back)) / 2
                turned = (place[before] + place[before + 1] + way * speed) / 2
                found.append(float(SIDE - turned - reach if way > 0 else turned - reach))
        return found

    def digit(self, read: Reader) -> int:
        """The digit that most of its crops are read as."""
        return Counter(read(blob.crop) for blob in self.blobs).most_common(1)[0][0]


@dataclass(frozen=True)
class Tracks:
    """What a clip shows: both tracks, or none, and what is wrong with it."""

    tracks: tuple[Track, ...]
    faults: tuple[str, ...]


def follow(frames: Frames) -> Tracks:
    """Follow two digits through a clip ``[N, 64, 64, 3]``. Raises BenchError for another size."""
    if frames.ndim != 4 or frames.shape[1:] != (SIDE, SIDE, 3):
        raise BenchError(f"expected frames [N, {SIDE}, {SIDE}, 3], got {list(frames.shape)}")
    seen = [blobs_of(frame) for frame in frames]
    faults = []
    if sum(len(some) > 2 for some in seen) > len(seen) / 4:
        faults.append("more than two digits")
    if sum(not some for some in seen) > len(seen) / 4:
        faults.append("no digit")
    apart = [(at, (some[0], some[1])) for at, some in enumerate(seen) if len(some) == 2]
    if len(apart) < 4:
        return Tracks((), (*faults, "digits never apart"))
    swaps = paired([at for at, _ in apart], [pair for _, pair in apart])
    at = tuple(place for place, _ in apart)
    tracks = tuple(
        Track(at, tuple(pair[which ^ swap] for (_, pair), swap in zip(apart, swaps, strict=True))) for which in (0, 1)
    )
    return Tracks(tracks, tuple(faults))


def blobs_of(frame: NDArray[np.uint8]) -> list[Blob]:
    """The digits of a frame, largest first; strokes that nearly touch are one digit."""
    light = frame.astype(np.float64).mean(2)
    parts = [part & (light > BRIGHT) for part in components(grown(light > BRIGHT, 1))]
    parts = sorted((part for part in parts if part.sum() >= LEAST_PX), key=lambda part: -int(part.sum()))
    whole, pieces = parts[:2], parts[2:]
    for piece in pieces:
        if piece.sum() >= PIECE * whole[1].sum():
            whole.append(piece)
            continue
        nearest = int(np.argmin([np.hypot(*np.subtract(middle(piece), middle(one))) for one in whole[:2]]))
        whole[nearest] = whole[nearest] | piece
    return [blob_of(light, part) for part in whole]


def middle(part: NDArray[np.bool_]) -> tuple[float, float]:
    """The middle of the box of a mask: row and column."""
    rows, columns = np.nonzero(part)
    return float(rows.min() + rows.max() + 1) / 2, float(columns.min() + columns.max() + 1) / 2


def blob_of(light: Floats, part: NDArray[np.bool_]) -> Blob:
    """A blob and its crop, the middle of its box in the middle."""
    y, x = middle(part)
    rows, columns = np.nonzero(part)
    alone = np.pad(np.where(grown(part, 1), light, 0.0), CROP)
    top, left = (int(np.floor(place)) + CROP // 2 for place in (y, x))
    crop = np.rint(alone[top : top + CROP, left : left + CROP]).astype(np.uint8)
    return Blob(x, y, float(np.ptp(columns) + 1) / 2, float(np.ptp(rows) + 1) / 2, crop)


def paired(at: Sequence[int], pairs: Sequence[tuple[Blob, Blob]]) -> list[int]:
    """Of every frame whether its blobs are swapped, so that each track looks alike and goes the shortest way (Viterbi).

    ``at`` numbers the frames in which both are apart.
    """
    cost, came = np.zeros(2), []
    for before in range(len(pairs) - 1):
        gap = at[before + 1] - at[before]
        straight, crossed = (
            sum(change(pairs[before][which], pairs[before + 1][which ^ swap], gap) for which in (0, 1))
            for swap in (0, 1)
        )
        ways = cost[:, None] + np.array([[straight, crossed], [crossed, straight]])
        came.append(ways.argmin(0))
        cost = ways.min(0)
    swaps = [int(cost.argmin())]
    for back in reversed(came):
        swaps.append(int(back[swaps[-1]]))
    return swaps[::-1]


def change(first: Blob, later: Blob, gap: int) -> float:
    """How unlikely it is that one blob becomes another within so many frames."""
    way = np.hypot(first.x - later.x, first.y - later.y) / (FARTHEST_PX * gap)
    a, b = first.crop.astype(np.float64), later.crop.astype(np.float64)
    looks = np.abs(a - b).sum() / max(a.sum() + b.sum(), 1.0)
    return float(way**2 + LOOKS_WEIGHT * looks)
