"""DISTS (Ding et al. 2020): distance of two pictures that forgives texture drawn anew, by VGG16 and learned weights."""

import numpy as np

from bench.harness.record import BenchError
from bench.metrics.base import Frames, check_shapes
from bench.metrics.networks.catalogue import DISTS
from bench.metrics.networks.network import batches, opened

BATCH = 4
SMALLEST_PX = 32
"""Below this the last stage has fewer than two pixels, and structure no meaning."""


def dists(frames: Frames, truth: Frames) -> float:
    """Mean DISTS over frames of uint8 `[N, H, W, 3]`, at their own size; 0 for equal ones, about 1 for unlike ones.

    Raises BenchError when the two differ in shape, for pictures under 32 px, and where the weights cannot be had.
    """
    check_shapes(frames, truth)
    if min(frames.shape[1:3]) < SMALLEST_PX:
        raise BenchError(f"dists: expected at least {SMALLEST_PX} px on each side, got {list(frames.shape[1:3])}")
    network = opened(DISTS)
    found = [network(frames=frames[part], truth=truth[part]) for part in batches(len(frames), BATCH)]
    return float(np.concatenate(found).astype(np.float64).mean())
