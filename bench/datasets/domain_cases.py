"""Prompts of other domains for benches: clips of kept combinations, beyond those that curves of a training show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.datasets.shapes import pixels
from bench.harness.record import BenchError
from bench.metrics.base import Frames

FIRST = {"test": 200, "tune": 2200}
"""Place in the held-out clips of the domain; a training measures the first 200."""
SEEDS = {"test": 7_110_000, "tune": 3_330_000}
SET_SIZE = 2000


@dataclass(frozen=True)
class DomainCase:
    """A prompt, the seed to generate it with, and the clip of the domain that it is of, with its attributes."""

    prompt: str
    seed: int
    clip: Any
    words: dict[str, str | None]


def domain_cases(domain: Any, count: int, split: str = "test") -> list[DomainCase]:
    """The first ``count`` cases of a set of a domain (`export.datasets.domains`); the sets share no clip.

    Raises BenchError for an unknown set and for a count that is not 1 to 2,000.
    """
    if split not in FIRST:
        raise BenchError(f"split: expected one of {sorted(FIRST)}, got {split!r}")
    if not 1 <= count <= SET_SIZE:
        raise BenchError(f"prompts: expected 1 to {SET_SIZE}, got {count}")
    clips = domain.dealt("held_out", FIRST[split] + count)[FIRST[split] :]
    return [
        DomainCase(domain.canonical(clip), SEEDS[split] + place, clip, dict(domain.words(clip)))
        for place, clip in enumerate(clips)
    ]


def domain_truth(domain: Any, clip: Any, fps: int, keyframes: int | None = None) -> Frames:
    """A clip drawn at a rate, as long as so many keyframes (the domain's own): uint8 ``[N, H, W, 3]``."""
    from export.models.configs import PRESETS

    count = domain.keyframes if keyframes is None else keyframes
    times = np.arange((count - 1) * fps // 2 + 1) / fps
    return pixels(domain.render(clip, times, PRESETS[domain.preset].image_size).numpy())
