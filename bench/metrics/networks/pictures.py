"""Pictures of the size that a network wants, by Pillow."""

from typing import Literal

import numpy as np
from PIL import Image

from bench.metrics.base import Frames

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resized(frames: Frames, height: int, width: int, how: Literal["bicubic", "bilinear"]) -> Frames:
    """Whole frames uint8 `[N, H, W, 3]` at another size, antialiased where they shrink."""
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([np.asarray(Image.fromarray(one).resize((width, height), FILTERS[how])) for one in frames])


def middle_square(frames: Frames, side: int) -> Frames:
    """The middle square of frames uint8 `[N, H, W, 3]` whose shorter side becomes `side`, bicubic, as CLIP wants it."""
    height, width = frames.shape[1:3]
    factor = side / min(height, width)
    tall, wide = (max(side, int(one * factor)) for one in (height, width))
    whole = resized(frames, tall, wide, "bicubic")
    top, left = (tall - side) // 2, (wide - side) // 2
    return whole[:, top : top + side, left : left + side]
