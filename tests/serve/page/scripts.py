"""What a fake worker makes for a browser: a real video with a thumbnail and a sprite sheet, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ffrt import Video
from ffrt.serve.engine import executor as told
from ffrt.serve.engine.pictures import Pictures, webp
from tests.serve.fakes import FakeExecutor, steps

SIDE, FRAMES, FPS = 64, 9, 8


def frames() -> np.ndarray:
    """uint8 [N, H, W, 3]; each frame has its own grey, so that moments can be told from each other."""
    greys = np.linspace(20, 240, FRAMES).astype(np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (FRAMES, SIDE, SIDE, 3)).copy()


@cache
def finished(suffix: str) -> told.Finished:
    """A video of the tiny bundle's length at 8 fps."""
    pictures = Pictures(FRAMES)
    list(pictures.watched(iter([frames()])))
    with TemporaryDirectory() as folder:
        path = Path(folder, f"video.{suffix}")
        Video.from_frames(frames(), FPS).save(path)
        facts = {"frames": FRAMES, "fps": FPS}
        return told.Finished(path.read_bytes(), pictures.thumbnail, pictures.spritesheet(), pictures.grid, facts)


def makes(fake: FakeExecutor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
    """A job that goes well."""
    yield from steps(work)
    yield finished(work.output_format)


def pauses(fake: FakeExecutor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
    """A job that stops in the middle until it is cancelled, or told to go on."""
    early = list(steps(work))
    yield from early[:3]
    yield told.Preview(webp(frames()[0]))
    while not fake.go_on.wait(0.01):
        if work.id in fake.cancelled:
            yield told.Stopped()
            return
    yield from early[3:]
    yield finished(work.output_format)
