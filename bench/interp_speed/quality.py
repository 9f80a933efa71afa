"""How good the frames between are, design by design, against rendered truth: 2 to 8 fps, the demo's first pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.contenders.baselines import Frames, blend, peak_ratio_db, pictures, psnr_db, ssim
from bench.datasets.shapes import INTERPOLATION_SEED, truth
from bench.harness.run import progress
from bench.interp_speed.cost import DESIGNS
from ffrt import Pipeline
from ffrt.stages.interpolate import Method

FACTOR, FPS = 4, 8


def change_db(frames: Frames, exact: Frames) -> float:
    """Temporal consistency of uint8 `[N, H, W, 3]`: PSNR in dB of the changes from frame to frame, at most 60.

    Flicker and stutter are errors of the change that a frame by itself does not show. Without a bound, a method that
    repeats its keyframe would win by any number of dB in a clip that stands still.
    """
    changes = [np.diff(clip.astype(np.float64), axis=0) for clip in (frames, exact)]
    return peak_ratio_db(float(np.mean((changes[0] - changes[1]) ** 2)))


def contenders(pipe: Pipeline, exact: Frames, methods: Sequence[Method]) -> dict[str, Frames]:
    """What each design and baseline makes of every fourth of `exact` `[4n+1, H, W, 3]`, all from decoded keyframes."""
    latents = pipe.encode_frames(exact)
    keyframes = latents[::FACTOR]
    made = {
        DESIGNS[method]: pipe.interpolate(keyframes, fps=FPS, seed=INTERPOLATION_SEED, method=method)
        for method in methods
    }
    made["latent linear"] = np.asarray(blend(keyframes, FACTOR), np.float32)
    made["autoencoder"] = latents
    frames = {name: pipe.decode(found, FPS).frames for name, found in made.items()}
    return {**frames, **pictures(frames["autoencoder"][::FACTOR], FACTOR)}


def quality(pipe: Pipeline, clips: Sequence[Any], methods: Sequence[Method]) -> dict[str, Any]:
    """Means over clips: PSNR and SSIM of the frames between, and PSNR of the changes of the whole clip."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for index in progress("quality", len(clips)):
        exact = truth(clips[index], FPS)
        between = np.arange(len(exact)) % FACTOR != 0
        for name, frames in contenders(pipe, exact, methods).items():
            scores = (psnr_db(frames[between], exact[between]), ssim(frames[between], exact[between]))
            found.setdefault(name, []).append((*scores, change_db(frames, exact)))
    names = ("psnr_db", "ssim", "change_db")
    means = {
        name: dict(zip(names, (float(v) for v in np.mean(rows, axis=0)), strict=True)) for name, rows in found.items()
    }
    return {"clips": len(clips), "fps": FPS, "methods": means}
