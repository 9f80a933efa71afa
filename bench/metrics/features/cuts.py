"""Whether a clip falls apart: the probability of a cut inside it, by a network that finds the cuts of films."""

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError
from bench.metrics.base import Frames
from bench.metrics.networks.catalogue import TRANSNET
from bench.metrics.networks.network import opened
from bench.metrics.networks.pictures import resized

HEIGHT_PX, WIDTH_PX = 27, 48
WINDOW, MARGIN, STEP = 100, 25, 50


def cut_probabilities(frames: Frames) -> NDArray[np.float64]:
    """How likely a cut follows each frame of a clip uint8 `[N, H, W, 3]`, `[N]`, as TransNetV2's own program asks.

    Windows of 100 frames, of which the middle 50 count; the first and last frame are repeated at the ends. Raises
    NetworkError where its weights cannot be had.
    """
    network = opened(TRANSNET)
    small = resized(frames, HEIGHT_PX, WIDTH_PX, "bilinear")
    behind = MARGIN + -len(small) % STEP
    padded = np.concatenate([small[:1].repeat(MARGIN, axis=0), small, small[-1:].repeat(behind, axis=0)])
    windows = [padded[at : at + WINDOW] for at in range(0, len(padded) - WINDOW + 1, STEP)]
    found = [network(frames=window[None])[0][MARGIN : MARGIN + STEP] for window in windows]
    probabilities: NDArray[np.float64] = np.concatenate(found)[: len(small)].astype(np.float64)
    return probabilities


def cut_inside(frames: Frames) -> float:
    """The largest probability of a cut between two frames of a clip, 0..1. Raises BenchError for a single frame."""
    if len(frames) < 2:
        raise BenchError(f"cuts: expected at least 2 frames, got {len(frames)}")
    return float(cut_probabilities(frames)[:-1].max())
