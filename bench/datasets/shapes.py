"""Held-out clips of the demo's domain, and their exact pictures at any frame rate.

Sizes, places and angles of the grammar are continuous, so that no clip comes twice.
"""

from typing import Any

import numpy as np

from bench.metrics.base import Frames

CLIP_SEED = {"test": 90_210_771, "tune": 31_415_927}
INTERPOLATION_SEED = 5
"""Seed of the noise of every interpolation that is judged on these clips."""
STANDING = "standing still"


def held_out(count: int, split: str = "test") -> list[Any]:
    """Clips drawn apart from training, actions in turn; the sets are as in `bench.datasets.prompts`."""
    from export.datasets.shapes import ACTIONS, sample_clip

    rng = np.random.default_rng(CLIP_SEED[split])
    clips = []
    for index in range(count):
        clip = sample_clip(rng)
        while clip.action != ACTIONS[index % len(ACTIONS)]:
            clip = sample_clip(rng)
        clips.append(clip)
    return clips


def truth(clip: Any, fps: int) -> Frames:
    """The 7.5 s between 16 keyframes, rendered at `fps`: uint8 `[7.5 * fps + 1, 128, 128, 3]`."""
    from export.datasets.shapes import render

    image = render(clip, np.arange(15 * fps // 2 + 1) / fps).numpy()
    return np.rint((image.transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)
