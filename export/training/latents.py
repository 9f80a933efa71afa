"""The latents that the U-Nets train on, encoded once and kept: ``python -m export.training.latents``.

``keyframes.npy`` holds clips as ``[clips, 16, 4, 16, 16]`` at 2 fps; ``interpolation_SS.npy`` holds runs of
``4G + 1`` neighbours that are SS / 24 seconds apart, ``[runs, 4G+1, 4, 16, 16]``, all float16. The clips they show are
a function of the file's seed alone (:func:`keyframe_clips`), so captions are made anew for every training step.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.checkpoints.weights import WEIGHTS, load_half
from export.datasets.shapes import MOTION_SECONDS, Clip, combinations, render, sample_clip, sample_parameters
from export.models.configs import PRESETS
from export.models.movq import MoVQEncoder
from export.training.precision import half_precision

KEYFRAME_SEED = 11
INTERPOLATION_SEED = 12
BASE_FPS = 24  # the paper's clips; s counts its frames
SKIPS = range(1, 13)
GROUPS = 4


def keyframe_clips(count: int) -> list[Clip]:
    """The clips of ``keyframes.npy``: every cell of the grammar in turn, in a shuffled order."""
    rng = np.random.default_rng(KEYFRAME_SEED)
    cells = combinations()
    order = np.concatenate([rng.permutation(len(cells)) for _ in range(-(-count // len(cells)))])[:count]
    return [sample_parameters(cells[index], rng) for index in order]


def groups_of(skip: int) -> int:
    """Groups in a run: 4, or fewer where the clip would end first."""
    return min(GROUPS, int(MOTION_SECONDS * BASE_FPS // (4 * skip)))


def keyframe_times() -> NDArray[np.float64]:
    return np.arange(16) / 2.0


def run_times(skip: int, rng: np.random.Generator) -> NDArray[np.float64]:
    span = 4 * groups_of(skip) * skip / BASE_FPS
    start: float = rng.uniform(0.0, MOTION_SECONDS - span)
    return start + np.arange(4 * groups_of(skip) + 1) * skip / BASE_FPS


def write(path: Path, clips: list[Clip], times: list[NDArray[np.float64]], encoder: MoVQEncoder) -> None:
    """Encode and write beside, then rename: an interrupted file is made again."""
    started, rows = time.perf_counter(), []
    for index, (clip, moments) in enumerate(zip(clips, times, strict=True)):
        with torch.no_grad(), half_precision("cpu"):
            frames = render(clip, moments).contiguous(memory_format=torch.channels_last)
            rows.append(encoder(frames).float().half().numpy())
        if (index + 1) % 50 == 0:
            eta = (time.perf_counter() - started) / (index + 1) * (len(clips) - index - 1)
            print(f"{path.name}: {index + 1}/{len(clips)}  ETA {eta:.0f} s", file=sys.stderr, flush=True)
    beside = path.with_suffix(".writing.npy")
    np.save(beside, np.stack(rows))
    os.replace(beside, path)


def plans(keyframes: int, runs: int) -> Iterator[tuple[str, list[Clip], list[NDArray[np.float64]]]]:
    yield "keyframes.npy", keyframe_clips(keyframes), [keyframe_times()] * keyframes
    for skip in SKIPS:
        count = {3: 4 * runs, 1: 2 * runs}.get(skip, runs // 2)  # what sampling asks for is seen most
        rng = np.random.default_rng([INTERPOLATION_SEED, skip])
        yield (
            f"interpolation_{skip:02}.npy",
            [sample_clip(rng) for _ in range(count)],
            [run_times(skip, rng) for _ in range(count)],
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export.training.latents", description=__doc__.splitlines()[0])
    parser.add_argument("--keyframes", type=int, default=1656, help="clips")
    parser.add_argument("--runs", type=int, default=100, help="runs a skip value, four times as many for s = 3")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--run", type=Path, default=Path("runs"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    encoder = MoVQEncoder(PRESETS["demo"].movq)
    load_half(encoder, args.weights / "movq_encoder.safetensors")
    encoder.to(memory_format=torch.channels_last)
    args.run.mkdir(parents=True, exist_ok=True)
    for name, clips, times in plans(args.keyframes, args.runs):
        if not (args.run / name).exists():
            write(args.run / name, clips, times, encoder)


if __name__ == "__main__":
    main()
