"""Keyframes -> the frames between: group interpolation, T -> 4T-3 in one batch (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np

from ffrt.bundle import InterpolationConfig, InterpolationPass
from ffrt.graph import Graph
from ffrt.sampler import Array, Denoised, denoise, guide_rows

MIDDLE = 3
"""Frames that one pass puts between two neighbours."""


def groups(latents: Array) -> tuple[Array, Array]:
    """Left and right ends [G, 4, h, w] of the G = T-1 intervals between latents [T, 4, h, w]."""
    return latents[:-1], latents[1:]


def merge(latents: Array, middle: Array) -> Array:
    """Latents [T, 4, h, w] and the three frames of every interval [G, 12, h, w] (frame, channel) -> [4T-3, 4, h, w]."""
    frame = latents.shape[1:]
    inner = middle.reshape(len(latents) - 1, MIDDLE, *frame)
    starts = np.concatenate([latents[:-1, None], inner], axis=1).reshape(-1, *frame)  # [4G, 4, h, w]
    return np.concatenate([starts, latents[-1:]])


def interpolation_steps(
    graph: Graph,
    config: InterpolationConfig,
    one_pass: InterpolationPass,
    latents: Array,
    noise: Iterator[Array],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    sampler: str,
) -> Generator[Denoised, None, Array]:
    """Denoise the frames between latents [T, 4, h, w], all groups in one batch; returns [4T-3, 4, h, w].

    Every yield holds the middle frames [G, 12, h, w]. `noise` yields float32 of that shape. The unconditional row, left
    out with guidance 0, sees zeros in place of its two ends.
    """
    left, right = groups(latents)
    rows = 1 if guidance_scale == 0 else 2
    left_rows = np.concatenate([left, np.zeros_like(left)][:rows])
    right_rows = np.concatenate([right, np.zeros_like(right)][:rows])
    skip_frames = np.full(len(left), one_pass.skip_frames, np.int64)
    perturbation = np.zeros(len(left), np.float32)

    def predict(x: Array, time: float) -> Array:
        feed = {
            "x": np.concatenate([left_rows, np.concatenate([x] * rows), right_rows], axis=1),  # [B*G, 20, h, w]
            "time": np.full(rows, time, np.float32),
            "skip_frames": skip_frames,
            "perturbation": perturbation,
        }
        prediction: Array = graph(feed)["prediction"]  # [B*G, 12, h, w]
        return guide_rows(prediction, guidance_scale)

    middle = yield from denoise(
        predict,
        noise,
        steps=num_inference_steps,
        sampler=sampler,
        prediction=config.prediction,
        threshold=config.threshold,
    )
    return merge(latents, middle)
