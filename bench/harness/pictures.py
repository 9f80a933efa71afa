"""A contact sheet: one row per prompt, time to the right, written as PNG.

The picture is made with the standard library; labels are drawn when Pillow is there (extra `dev`).
"""

import importlib.util
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
GAP_PX = 2
PAPER = 250


@dataclass(frozen=True)
class Row:
    """A label, the clip's frames uint8 `[N, H, W, 3]`, and whether it is right (None: not judged)."""

    label: str
    frames: Pixels
    right: bool | None = None


def png(pixels: Pixels) -> bytes:
    """Encode uint8 `[H, W, 3]` as an 8-bit RGB PNG (ISO/IEC 15948), rows filtered by difference to the row above."""
    height, width, _ = pixels.shape
    flat = pixels.reshape(height, width * 3)
    above = np.vstack([np.zeros((1, width * 3), np.uint8), flat[:-1]])
    lines = np.hstack([np.full((height, 1), 2, np.uint8), flat - above])

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(lines.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def thumbnail(frame: Pixels, size_px: int) -> Pixels:
    """Mean over square blocks, so that `[H, W, 3]` gets about `size_px` wide; a smaller picture stays as it is."""
    block = max(1, frame.shape[1] // size_px)
    height, width = (side // block for side in frame.shape[:2])
    blocks = frame[: height * block, : width * block].reshape(height, block, width, block, 3)
    small: Pixels = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    return small


def label_picture(text: str, width: int, height: int, right: bool | None) -> Pixels:
    """The label's area `[height, width, 3]`: a green or red bar for right or wrong, words where Pillow is installed."""
    area = np.full((height, width, 3), PAPER, np.uint8)
    if importlib.util.find_spec("PIL") is not None:
        from PIL import Image, ImageDraw

        image = Image.fromarray(area)
        words, lines = text.split(), [""]
        draw = ImageDraw.Draw(image)
        for word in words:
            longer = f"{lines[-1]} {word}".strip()
            if draw.textlength(longer) <= width - 14:
                lines[-1] = longer
            else:
                lines.append(word)
        draw.multiline_text((10, 3), "\n".join(lines), fill=(20, 20, 20), spacing=2)
        area = np.array(image)
    if right is not None:
        area[:, :5] = (40, 160, 70) if right else (210, 50, 40)
    return area


def contact_sheet(rows: Sequence[Row], moments: int = 8, size_px: int = 64, columns: int = 2) -> Pixels:
    """Compose rows into `[H, W, 3]`: each shows `moments` frames evenly spaced from its first to its last.

    Raises `ValueError` without rows, and for clips of different sizes.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    if len({row.frames.shape[1:] for row in rows}) > 1:
        raise ValueError("the clips of a contact sheet must have one picture size")
    strips = []
    for row in rows:
        chosen = np.linspace(0, len(row.frames) - 1, moments).round().astype(int)
        pictures = [thumbnail(row.frames[index], size_px) for index in chosen]
        cells = [label_picture(row.label, 3 * size_px, pictures[0].shape[0], row.right), *pictures]
        strips.append(
            np.hstack([np.pad(cell, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=PAPER) for cell in cells])
        )
    strips += [np.full_like(strips[0], PAPER)] * (-len(strips) % columns)
    per_column = len(strips) // columns
    return np.hstack([np.vstack(strips[i * per_column : (i + 1) * per_column]) for i in range(columns)])


def figure_pixels(figure: Any) -> Pixels:
    """A matplotlib figure as a picture `[H, W, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), np.uint8)[:, :, :3].copy()


def write_png(path: Path, pixels: Pixels) -> None:
    """Write a picture beside its place, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(png(pixels))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
