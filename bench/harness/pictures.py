"""Pictures of measurements: contact sheets with one row per prompt and time to the right, and plots, as PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench.harness.record import BenchError
from ffrt.output.whole_file import whole_file

Pixels = NDArray[np.uint8]
GAP_PX = 2
PAPER = 250


@dataclass(frozen=True)
class Row:
    """A label, the frames of a clip uint8 `[N, H, W, 3]`, and whether it is right (None: not judged)."""

    label: str
    frames: Pixels
    right: bool | None = None


def thumbnail(frame: Pixels, size_px: int) -> Pixels:
    """Average `[H, W, 3]` over square blocks to about `size_px` in width; a smaller picture stays as it is."""
    block = max(1, frame.shape[1] // size_px)
    height, width = (side // block for side in frame.shape[:2])
    blocks = frame[: height * block, : width * block].reshape(height, block, width, block, 3)
    small: Pixels = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    return small


def label_picture(text: str, width: int, height: int, right: bool | None) -> Pixels:
    """The area of a label `[height, width, 3]`: its words, and a green or red bar for right or wrong."""
    image = Image.new("RGB", (width, height), (PAPER, PAPER, PAPER))
    draw = ImageDraw.Draw(image)
    lines = [""]
    for word in text.split():
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

    Raises BenchError without rows, and for clips of different sizes.
    """
    if not rows:
        raise BenchError("contact sheet: expected at least one row, got none")
    if len(sizes := {row.frames.shape[1:] for row in rows}) > 1:
        raise BenchError(f"contact sheet: expected clips of one picture size, got {sorted(sizes)}")
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
    """Write a picture uint8 `[H, W, 3]` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        Image.fromarray(pixels).save(part, format="PNG", optimize=True)
