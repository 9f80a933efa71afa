"""Optical flow by OpenCV's DIS (Kroeger et al. 2016), which needs no network: how a clip moves, and what moving leaves.

Clips whose shorter side is over 128 px are scaled down first. Lengths are shares of the height.
"""

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError
from bench.metrics.base import Frames
from bench.metrics.networks.pictures import resized

Floats = NDArray[np.float64]
LARGEST_PX = 128
SMALLEST_PX = 16
CELLS, ANGLES = 3, 8
LEAST_FRAMES = 3
"""Acceleration is a difference of two velocities."""


@functools.cache
def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise BenchError("optical flow needs OpenCV: pip install opencv-python-headless") from error
    cv2.setNumThreads(1)  # sums in one order, so that a clip has one number
    return cv2


def motion_features(frames: Frames) -> Floats:
    """Histograms of directions of velocity and of acceleration in 3 x 3 cells, `[144]`, each pixel by its length.

    Raises BenchError for fewer than three frames `[N, H, W, 3]`, for small ones, and without OpenCV.
    """
    check(frames, LEAST_FRAMES)
    small = shrunk(frames)
    velocities = np.stack([flow(one, other) for one, other in itertools.pairwise(small)])
    velocities /= small.shape[1]
    return np.concatenate([directions(velocities), directions(np.diff(velocities, axis=0))])


def directions(vectors: Floats) -> Floats:
    """Mean length of vectors `[T, h, w, 2]` by cell and direction, `[72]`; one between two counts to both."""
    length = np.hypot(vectors[..., 0], vectors[..., 1])
    turn = np.arctan2(vectors[..., 1], vectors[..., 0]) % (2 * np.pi) * (ANGLES / (2 * np.pi))
    lower = np.floor(turn)
    rows, columns = (np.arange(size) * CELLS // size for size in vectors.shape[1:3])
    cell = np.broadcast_to(rows[:, None] * CELLS + columns, length.shape)
    found = np.zeros(CELLS * CELLS * ANGLES)
    for angle, share in ((lower, 1 - (turn - lower)), (lower + 1, turn - lower)):
        index = cell * ANGLES + angle.astype(np.int64) % ANGLES
        found += np.bincount(index.ravel(), (length * share).ravel(), len(found))
    pixels = np.bincount(cell[0].ravel(), minlength=CELLS * CELLS) * len(vectors)
    per_pixel: Floats = found / np.repeat(pixels, ANGLES)
    return per_pixel


def warp_difference(frames: Frames) -> float:
    """Mean squared difference of each frame to the next one, moved back along the flow; levels are 0..1, times 1000.

    Pixels that the flow there and back does not return to, and those that leave the picture, are left out (Lai et al.
    2018, with the test of Sundaram et al. 2010). A clip that stands still has 0: read it beside the real clips'.
    Raises BenchError for a single frame, small ones, and without OpenCV.
    """
    check(frames, 2)
    small = shrunk(frames)
    found = [between(one, other) for one, other in itertools.pairwise(small)]
    return 1000 * float(np.mean(found))


def between(frame: Frames, following: Frames) -> float:
    """The difference of one frame `[H, W, 3]` to the next; 0 where no pixel can be followed."""
    there, back = flow(frame, following), flow(following, frame)
    height, width = frame.shape[:2]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    places = (grid + there).astype(np.float32)
    returned = there + sampled(back.astype(np.float32), places)
    lengths = np.sum(there**2, axis=-1) + np.sum(sampled(back.astype(np.float32), places) ** 2, axis=-1)
    inside = np.all((places >= 0) & (places <= [width - 1, height - 1]), axis=-1)
    followed = inside & (np.sum(returned**2, axis=-1) < 0.01 * lengths + 0.5)
    if not followed.any():
        return 0.0
    moved = sampled(following.astype(np.float32), places)
    return float(np.mean(((moved - frame)[followed] / 255) ** 2))


def sampled(picture: NDArray[np.float32], places: NDArray[np.float32]) -> Floats:
    """A picture `[H, W, C]` at places `[H, W, 2]` (x, y), bilinear."""
    cv2 = _opencv()
    found: Floats = cv2.remap(picture, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.astype(np.float64)


def flow(frame: Frames, following: Frames) -> Floats:
    """Where the pixels of a frame `[H, W, 3]` go, in px, `[H, W, 2]` (x, y)."""
    cv2 = _opencv()
    grey = [cv2.cvtColor(np.ascontiguousarray(one), cv2.COLOR_RGB2GRAY) for one in (frame, following)]
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found: Floats = method.calc(grey[0], grey[1], None).astype(np.float64)
    return found


def shrunk(frames: Frames) -> Frames:
    """Clips of at most 128 px on the shorter side, the others as they are."""
    height, width = frames.shape[1:3]
    factor = LARGEST_PX / min(height, width)
    return frames if factor >= 1 else resized(frames, round(height * factor), round(width * factor), "bicubic")


def check(frames: Frames, least: int) -> None:
    """Raise BenchError for a clip that is too short or too small for flow."""
    if len(frames) < least:
        raise BenchError(f"optical flow: expected at least {least} frames, got {len(frames)}")
    if min(frames.shape[1:3]) < SMALLEST_PX:
        raise BenchError(
            f"optical flow: expected at least {SMALLEST_PX} px on each side, got {list(frames.shape[1:3])}"
        )
