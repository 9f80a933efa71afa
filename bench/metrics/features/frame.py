"""What frames show: features of an ImageNet classifier, mean over a clip. Blind to the order of frames."""

import numpy as np
from numpy.typing import NDArray

from bench.metrics.base import Frames
from bench.metrics.networks.catalogue import EFFICIENTNET
from bench.metrics.networks.network import batches, opened
from bench.metrics.networks.pictures import resized

SIDE_PX = 224
BATCH = 8


def frame_features(frames: Frames) -> NDArray[np.float64]:
    """The mean over frames uint8 `[N, H, W, 3]` of EfficientNet-Lite0's pooled features, `[1280]`.

    Raises NetworkError where its weights cannot be had.
    """
    network = opened(EFFICIENTNET)
    found = [network(frames=resized(frames[part], SIDE_PX, SIDE_PX, "bicubic")) for part in batches(len(frames), BATCH)]
    mean: NDArray[np.float64] = np.concatenate(found).astype(np.float64).mean(axis=0)
    return mean
