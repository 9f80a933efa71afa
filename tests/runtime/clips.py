"""Clips for the tests of video files, and what came of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

METADATA = {"prompt": 'a "red" circle, Größe 1 \\ красный 圆', "seed": "0", "ffrt": "0.1.0", "empty": ""}


def circle(n: int, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """A red disc that moves right over near-black: uint8 [n, height, width, 3]."""
    frames = np.empty((n, height, width, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    for i in range(n):
        disc = (y - height // 2) ** 2 + (x - 12 - 3 * i) ** 2 < 100
        frames[i] = np.where(disc[..., None], (220, 40, 40), (15, 15, 20))
    return frames


def decode(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def saved_files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def environment() -> dict[str, str]:
    runtime = Path(__file__).parents[2] / "runtime"
    return {**os.environ, "PYTHONPATH": str(runtime)}


def run_python(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment(), timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
