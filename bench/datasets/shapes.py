"""Held-out clips of the demo's domain, and their exact pictures at any frame rate.

No training draws a clip of their combinations of words (`export.datasets.grammar`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.datasets.prompts import Case
from bench.harness.record import BenchError
from bench.metrics.base import Frames

CLIP_SEED = {"test": 90_210_771, "tune": 31_415_927}
INTERPOLATION_SEED = 5
"""Seed of the noise of every interpolation that is judged on these clips."""
STANDING = "standing still"
HELD_OUT_SCENES = 200


def held_out(count: int, split: str = "test") -> list[Any]:
    """Clips of combinations that no training saw, actions in turn; the sets are as in `bench.datasets.prompts`."""
    from export.datasets.grammar import ACTIONS
    from export.datasets.shapes import sample_held_out

    rng = np.random.default_rng(CLIP_SEED[split])
    clips = []
    for index in range(count):
        clip = sample_held_out(rng)
        while clip.action != ACTIONS[index % len(ACTIONS)]:
            clip = sample_held_out(rng)
        clips.append(clip)
    return clips


def clip_of(case: Case) -> Any:
    """A clip of a prompt's words, its place and size drawn from the prompt's seed."""
    from export.datasets.grammar import Combination
    from export.datasets.shapes import sample_parameters

    cell = Combination(case.colour, case.shape, case.action, case.background, case.size)
    return sample_parameters(cell, np.random.default_rng(case.seed))


def scenes(count: int) -> list[Any]:
    """The last held-out scenes (`export.datasets.scenes`), kinds in turn; training looks at the first ones.

    Raises BenchError for more than 200.
    """
    from export.datasets.scenes import held_out_scenes

    if not 1 <= count <= HELD_OUT_SCENES:
        raise BenchError(f"scenes: expected 1 to {HELD_OUT_SCENES}, got {count}")
    return held_out_scenes(HELD_OUT_SCENES)[-count:]


def truth(clip: Any, fps: int) -> Frames:
    """The 7.5 s between 16 keyframes, rendered at `fps`: uint8 `[7.5 * fps + 1, 128, 128, 3]`."""
    from export.datasets.shapes import render

    return pixels(render(clip, _times_s(fps)).numpy())


def scene_truth(scene: Any, fps: int) -> Frames:
    """As :func:`truth`, of a scene."""
    from export.datasets.scenes import render_scene

    return pixels(render_scene(scene, _times_s(fps)).numpy())


def _times_s(fps: int) -> NDArray[np.float64]:
    return np.arange(15 * fps // 2 + 1) / fps


def pixels(image: NDArray[np.float32]) -> Frames:
    """Rendered frames `[N, 3, H, W]` in -1..1 as uint8 `[N, H, W, 3]`."""
    frames: Frames = np.rint((image.transpose(0, 2, 3, 1) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    return frames
