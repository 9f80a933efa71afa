"""Runs of held-out clips at every skip value, what each method makes between their keyframes, and how good it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.contenders.baselines import blend, linear, methods_of, minterpolate
from bench.datasets.shapes import INTERPOLATION_SEED, STANDING, held_out, scene_truth, scenes, truth
from bench.harness.run import progress
from bench.metrics.base import Frames
from bench.metrics.table import scores_between
from ffrt import Pipeline
from ffrt.bundle import InterpolationPass
from ffrt.sampling import Array, Sampling, drain, normal_noise
from ffrt.stages.interpolate import GRAPHS, Method, interpolation_steps, noise_shape

FACTOR = 4  # a pass makes three frames between two
GROUPS = 4  # groups of a run; this and what follows are as in export.training.between
BASE_FPS = 24  # s counts frames of this rate
RUN_SEED = 6_021
METRIC_NAMES = ("psnr_db", "ssim", "lpips")
SKIPS = tuple(range(1, 13))
HELD_OUT = 200  # clips of the demo
SPINNING, SCENES, MORE = "spinning", "scenes", "more that spin"

Scores = dict[str, dict[str, list[float]]]
"""Method -> metric -> a value per clip."""


@dataclass(frozen=True)
class Film:
    """A held-out clip at 24 fps: what moves in it, and its frames uint8 `[181, H, W, 3]` when they are wanted."""

    kind: str
    frames: Callable[[], Frames]


def films(clips: int, scene_count: int, spinning: int) -> list[Film]:
    """The first `clips` held-out clips of the demo that move, so many held-out scenes, and more that spin, by shape."""
    from export.datasets.demo import kind_of

    moving = [clip for clip in held_out(clips) if clip.action != STANDING]
    others = [clip for clip in held_out(HELD_OUT) if kind_of(clip) == SPINNING and clip not in moving]
    return [
        *(Film(kind_of(clip), partial(truth, clip, BASE_FPS)) for clip in moving),
        *(Film(f"{SCENES}, {one.kind}", partial(scene_truth, one, BASE_FPS)) for one in scenes(scene_count)),
        *(Film(f"{MORE}, {clip.shape}", partial(truth, clip, BASE_FPS)) for clip in others[:spinning]),
    ]


def run_of(frames: Frames, skip: int, rng: np.random.Generator) -> Frames:
    """A run of a clip `[N, H, W, 3]` of 24 fps as training has them: `[4G+1, H, W, 3]`, neighbours `skip` frames apart.

    G is 4, or fewer where the clip would end first; `rng` draws the start.
    """
    span = min(GROUPS, (len(frames) - 1) // (FACTOR * skip)) * FACTOR * skip
    start = int(rng.integers(len(frames) - span))
    return frames[start : start + span + 1 : skip]


def interpolated(pipe: Pipeline, keyframes: Array, method: Method, skip: int) -> Array:
    """Latents `[T, 4, h, w]` -> `[4T-3, 4, h, w]` by a network that is given `skip`, at the bundle's own sampling.

    The noise depends on the shapes alone: two values of `skip` start from the same.
    """
    config = pipe.bundle.interpolation
    steps = interpolation_steps(
        pipe.graph(GRAPHS[method]),
        config,
        InterpolationPass(fps=8, skip_frames=skip),
        keyframes,
        normal_noise(INTERPOLATION_SEED, 1, noise_shape(method, keyframes.shape)),
        Sampling(config.num_inference_steps, config.guidance_scale, config.sampler),
        method=method,
    )
    return drain(steps)


def contenders(pipe: Pipeline, exact: Frames, skip: int, fixed: Sequence[int]) -> dict[str, Frames]:
    """Each method applied to every fourth of the frames `exact` `[4G+1, H, W, 3]`: name -> frames of that shape."""
    latents = pipe.encode_frames(exact)
    keyframes = latents[::FACTOR]
    filled: dict[str, Array] = {}
    for method in methods_of(pipe.bundle.graphs)[0]:
        filled[method] = interpolated(pipe, keyframes, method, skip)
    for value in fixed:
        filled[with_skip(value)] = filled["group"] if value == skip else interpolated(pipe, keyframes, "group", value)
    filled["latent linear"] = np.asarray(blend(keyframes, FACTOR), np.float32)
    filled["autoencoder"] = latents
    frames = {name: pipe.decode(one, 8).frames for name, one in filled.items()}
    shown = frames["autoencoder"][::FACTOR]
    return {**frames, "linear": linear(shown, FACTOR), "minterpolate": minterpolate(shown, FACTOR)}


def with_skip(skip: int) -> str:
    """The name of the group network that is always given `skip`."""
    return f"group, s {skip}"


def measure_films(
    pipe: Pipeline, shown: Sequence[Film], skips: Sequence[int], fixed: Sequence[int]
) -> dict[int, Scores]:
    """The scores of the frames between, for each s of `skips`, of one run of every film."""
    scores: dict[int, Scores] = {skip: {} for skip in skips}
    for index in progress("skip values", len(shown)):
        frames = shown[index].frames()
        for skip in skips:
            exact = run_of(frames, skip, np.random.default_rng([RUN_SEED, index, skip]))
            add_scores(scores[skip], contenders(pipe, exact, skip, fixed), exact)
    return scores


def add_scores(scores: Scores, filled: Mapping[str, Frames], exact: Frames) -> None:
    """Add to `scores` those of one more clip `exact`, by what each method made of it."""
    for name, frames in filled.items():
        own = scores.setdefault(name, {metric: [] for metric in METRIC_NAMES})
        for metric, value in scores_between(METRIC_NAMES, frames, exact, FACTOR).items():
            own[metric].append(value)
