"""Frames in, `times` as many out, in a stream: however long a video is, a bounded number of frames is alive.

Each shot is worked on by itself, so that nothing is drawn across a cut. Of a shot of n frames come `times` n: every
given frame, those drawn after it, and the last given one held for as long as it was shown.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffrt.media.cuts import Marked
from ffrt.sampling import Array
from ffrt.stages.decode import CHUNK_FRAMES
from ffrt.stages.interpolate import HALO_GROUPS, MIDDLE, WINDOW_GROUPS

Frame = NDArray[np.uint8]
"""uint8 [H, W, 3]."""
Pass = Callable[[Array, int], Array]
"""One pass over a window: latents [T, 4, h, w], and the number of its first group among all of the video -> latents
[4T-3, 4, h, w]."""
Lost = NDArray[np.int16]
"""What the autoencoder takes from a frame: itself less its decoded latent, [H, W, 3]."""


@dataclass(frozen=True)
class Networks:
    """What frames pass through, for frames padded to a size that the networks take.

    `encode` uint8 [n, H, W, 3] -> latents [n, 4, h, w]; `passes` one after the other; `decode` the way back.
    """

    encode: Callable[[NDArray[np.uint8]], Array]
    passes: tuple[Pass, ...]
    decode: Callable[[Array], NDArray[np.uint8]]
    multiple: int

    @property
    def times(self) -> int:
        """Frames made of each given one."""
        return int((MIDDLE + 1) ** len(self.passes))


def retimed(frames: Iterable[Marked], networks: Networks, keep_originals: bool) -> Iterator[Frame]:
    """Marked frames of a video -> `times` as many, in order.

    With `keep_originals` given frames come out as they went in, and drawn ones get back what the autoencoder took from
    the two around them: without that a video pulses from sharp to soft and back. Without `keep_originals` all frames
    have passed through the autoencoder.
    """
    source = iter(frames)
    index = 0
    begun = next(source, None)
    while begun is not None:
        shot = _Shot(begun[0], source)
        yield from _shot(shot, index, networks, keep_originals)
        index += shot.count
        begun = shot.next


class _Shot(Iterator[Frame]):
    """The frames from one that begins a shot up to the next such one, which is `next` then, None at the end."""

    def __init__(self, first: Frame, source: Iterator[Marked]) -> None:
        self.count = 0
        self.next: Marked | None = (first, True)
        self._source = source

    def __next__(self) -> Frame:
        if self.next is None or (self.count > 0 and self.next[1]):
            raise StopIteration
        frame, self.next = self.next[0], next(self._source, None)
        self.count += 1
        return frame


def _shot(frames: Iterator[Frame], index: int, networks: Networks, keep_originals: bool) -> Iterator[Frame]:
    """One shot, whose first frame is number `index` of the video."""
    originals: deque[Frame] = deque()
    latents = _encoded(frames, originals, networks)
    for number, one_pass in enumerate(networks.passes):
        latents = in_windows(latents, one_pass, index * (MIDDLE + 1) ** number)
    times = networks.times
    held: tuple[NDArray[np.uint8], Lost] | None = None
    while chunk := list(itertools.islice(latents, times)):
        original = originals.popleft()
        height, width = original.shape[:2]
        decoded = networks.decode(np.stack(chunk))[:, :height, :width]
        if keep_originals:
            lost = original.astype(np.int16) - decoded[0]
            if held is not None:
                yield from _between(*held, lost)
            yield original
            held = decoded[1:], lost
        else:
            yield from decoded
        if len(chunk) == 1:  # the last frame of the shot
            yield from itertools.repeat(original if keep_originals else decoded[0], times - 1)


def _encoded(frames: Iterator[Frame], originals: deque[Frame], networks: Networks) -> Iterator[Array]:
    """Latents [4, h, w] of frames, which wait in `originals` until they are drawn."""
    while chunk := list(itertools.islice(frames, CHUNK_FRAMES)):
        originals.extend(chunk)
        yield from networks.encode(np.stack([padded(frame, networks.multiple) for frame in chunk]))


def in_windows(
    latents: Iterator[Array], run: Pass, first: int, window: int = WINDOW_GROUPS, halo: int = HALO_GROUPS
) -> Iterator[Array]:
    """One pass over a stream: T latents [4, h, w] in, 4T-3 out, `first` being the number of the first group.

    The network sees `window` groups at a time, and the `halo` at either edge of a window serve as context only. They
    are denoised once more by the neighbouring window, from the same noise: windows do not depend on each other.
    """
    seen: list[Array] = []
    begin, done, more = 0, 0, True  # the number of the first latent seen, and of groups that have been given
    while more:
        wanted = window + 2 - len(seen)  # one latent beyond the window says whether another one follows
        taken = list(itertools.islice(latents, wanted))
        seen += taken
        more = len(taken) == wanted
        groups = window if more else len(seen) - 1
        core = slice(done - begin, groups - halo if more else groups)
        if groups > 0:
            made = run(np.stack(seen[: groups + 1]), first + begin)
            yield from made[core.start * (MIDDLE + 1) : core.stop * (MIDDLE + 1)]
        done = begin + core.stop
        if not more:
            yield seen[-1]
        seen = seen[core.stop - halo :]
        begin = done - halo


def padded(frame: Frame, multiple: int) -> Frame:
    """A frame [H, W, 3] with its edges repeated at the bottom and on the right, up to multiples of `multiple`."""
    bottom, right = (-side % multiple for side in frame.shape[:2])
    return np.pad(frame, ((0, bottom), (0, right), (0, 0)), mode="edge") if bottom or right else frame


def _between(drawn: NDArray[np.uint8], before: Lost, after: Lost) -> Iterator[Frame]:
    """Drawn frames [n, H, W, 3] with what the given frames before and after them lost, the nearer one counting more."""
    for number, frame in enumerate(drawn, start=1):
        share = np.float32(number / (len(drawn) + 1))
        detail = (1 - share) * before + share * after
        yield np.rint(np.clip(frame + detail, 0, 255)).astype(np.uint8)
