"""How good the frames between are, design by design, against rendered truth: 2 to 8 fps, the demo's first pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.contenders.baselines import blend, pictures
from bench.datasets.shapes import INTERPOLATION_SEED, truth
from bench.harness.run import progress
from bench.interp_speed.cost import DESIGNS
from bench.metrics.base import Frames
from bench.metrics.table import scores_between
from ffrt import Pipeline
from ffrt.stages.interpolate import Method

FACTOR, FPS = 4, 8
METRIC_NAMES = ("psnr_db", "ssim", "lpips", "change_db")


def contenders(pipe: Pipeline, exact: Frames, methods: Sequence[Method]) -> dict[str, Frames]:
    """Each design and baseline applied to every fourth of `exact` `[4n+1, H, W, 3]`, all from decoded keyframes."""
    latents = pipe.encode_frames(exact)
    keyframes = latents[::FACTOR]
    filled = {
        DESIGNS[method]: pipe.interpolate(keyframes, fps=FPS, seed=INTERPOLATION_SEED, method=method)
        for method in methods
    }
    filled["latent linear"] = np.asarray(blend(keyframes, FACTOR), np.float32)
    filled["autoencoder"] = latents
    frames = {name: pipe.decode(one, FPS).frames for name, one in filled.items()}
    return {**frames, **pictures(frames["autoencoder"][::FACTOR], FACTOR)}


def quality(pipe: Pipeline, clips: Sequence[Any], methods: Sequence[Method]) -> dict[str, Any]:
    """Means over clips and their standard errors: of the frames between, and of the changes of the whole clip."""
    scores: dict[str, list[dict[str, float]]] = {}
    for index in progress("quality", len(clips)):
        exact = truth(clips[index], FPS)
        for name, frames in contenders(pipe, exact, methods).items():
            scores.setdefault(name, []).append(scores_between(METRIC_NAMES, frames, exact, FACTOR))
    means: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for name, rows in scores.items():
        values = {metric: np.array([row[metric] for row in rows]) for metric in METRIC_NAMES}
        means[name] = {metric: float(found.mean()) for metric, found in values.items()}
        if len(rows) > 1:
            errors[name] = {metric: float(found.std(ddof=1) / np.sqrt(len(rows))) for metric, found in values.items()}
    return {"clips": len(clips), "fps": FPS, "methods": means, "standard_errors": errors}
