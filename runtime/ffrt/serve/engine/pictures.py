"""Small pictures of a video while its frames pass: a preview, a thumbnail, and a sheet of many frames.

Pillow is imported where a picture is made.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

THUMBNAIL_SIDE = 512
SPRITE_SIDE = 128
MOST_SPRITES = 64
WEBP_METHOD = 1
"""A third of the time of Pillow's own choice, for an eighth more bytes."""


def webp(frame: NDArray[np.uint8], side: int = THUMBNAIL_SIDE) -> bytes:
    """A frame uint8 [H, W, 3] as WebP, its longer side at most `side` pixels."""
    from PIL import Image

    picture = Image.fromarray(frame)
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80, method=WEBP_METHOD)
    return file.getvalue()


class Pictures:
    """Sees every frame of a video of `num_frames` once, and keeps small copies of a few."""

    def __init__(self, num_frames: int) -> None:
        count = min(MOST_SPRITES, num_frames)
        self._wanted = {round(i * (num_frames - 1) / max(1, count - 1)) for i in range(count)}
        self._middle = num_frames // 2
        self._sprites: list[NDArray[np.uint8]] = []
        self._seen = 0
        self.thumbnail = b""

    def watched(self, chunks: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """The same chunks, uint8 [n, H, W, 3]."""
        for chunk in chunks:
            for frame in chunk:
                self._see(frame)
            yield chunk

    @property
    def grid(self) -> tuple[int, int]:
        """Columns and rows of the sheet."""
        columns = math.ceil(math.sqrt(len(self._sprites)))
        return columns, math.ceil(len(self._sprites) / columns)

    def spritesheet(self) -> bytes:
        """The kept frames in a grid, row by row, as WebP."""
        columns, rows = self.grid
        height, width, _ = self._sprites[0].shape
        sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
        for i, sprite in enumerate(self._sprites):
            top, left = i // columns * height, i % columns * width
            sheet[top : top + height, left : left + width] = sprite
        return webp(sheet, side=max(sheet.shape))

    def _see(self, frame: NDArray[np.uint8]) -> None:
        from PIL import Image

        if self._seen == self._middle:
            self.thumbnail = webp(frame)
        if self._seen in self._wanted:
            small = Image.fromarray(frame)
            small.thumbnail((SPRITE_SIDE, SPRITE_SIDE))
            self._sprites.append(np.asarray(small))
        self._seen += 1
