"""Folders of small videos, lossless, and networks that stand in for the downloaded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.metrics.base import Frames
from bench.metrics.networks.network import Network, Opened


def clip(seed: int, count: int = 16, side: int = 32) -> Frames:
    """Two soft spots, one of each of two colours, that drift over a ramp."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:side, :side]
    starts, steps = rng.uniform(0, side, (2, 2)), rng.uniform(-1.5, 1.5, (2, 2))
    frames = np.empty((count, side, side, 3))
    for index in range(count):
        frames[index] = (60 + 2 * xs)[..., None]
        for spot, colour in enumerate(((150, 40, 0), (0, 60, 140))):
            x, y = (starts[spot] + index * steps[spot]) % side
            away = np.minimum(abs(xs - x), side - abs(xs - x)) ** 2 + np.minimum(abs(ys - y), side - abs(ys - y)) ** 2
            frames[index] += np.exp(-away / 18)[..., None] * colour
    return np.clip(frames, 0, 255).astype(np.uint8)


def written(folder: Path, clips: dict[str, Frames]) -> Path:
    """Every clip as a folder of png frames."""
    for name, frames in clips.items():
        (folder / name).mkdir(parents=True)
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / name / f"{index:03d}.png")
    return folder


class Session:
    """In the place of a session of ONNX Runtime."""

    def __init__(self, compute: Any) -> None:
        self.compute = compute

    def run(self, names: None, feed: dict[str, Any]) -> list[Any]:
        return [self.compute(**feed)]


def standing_in(network: Network, title: str, **graphs: Any) -> Opened:
    """A network whose graphs are functions."""
    sessions: Any = {name: Session(compute) for name, compute in graphs.items()}
    return Opened(network, sessions, title, {"network": network.name, "sha256": {"file": "0" * 64}})
