"""Text context -> the first frame of a video: the stage that Kandinsky Video 1.1 puts before the keyframes.

The keyframe U-Net makes it with its temporal blocks left out, twice as high and wide as the video; decoded, fitted and
encoded again it is what the keyframes follow (released `generate_key_frame`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from ffrt.bundle import KeyframeConfig
from ffrt.graph import Graph
from ffrt.sampler import Array, Denoised, denoise, guide_rows

ENLARGED = 2
"""Sides of the first frame over those of the video."""


def noise_shape(keyframes: tuple[int, ...]) -> tuple[int, int, int, int]:
    """What is denoised for keyframes of shape [T, 4, h, w]: [1, 4, 2h, 2w]."""
    _, channels, h, w = keyframes
    return 1, channels, ENLARGED * h, ENLARGED * w


def first_frame_steps(
    graph: Graph,
    config: KeyframeConfig,
    context: Array,
    mask: NDArray[np.bool_],
    noise: Iterator[Array],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    sampler: str,
) -> Generator[Denoised, None, Array]:
    """Denoise the latent [1, 4, 2h, 2w] of an image, one yield for each step; returns it.

    `context` float32 [2, L, D] and `mask` bool [2, L] hold the conditional row first; with guidance 0 only that row is
    run. `noise` yields float32 of :func:`noise_shape`.
    """
    rows = 1 if guidance_scale == 0 else 2

    def predict(x: Array, time: float) -> Array:
        nothing_given = np.zeros((1, x.shape[1] + 1, *x.shape[2:]), np.float32)
        feed = {
            "x": np.concatenate([np.concatenate([x, nothing_given], axis=1)] * rows),
            "time": np.full(rows, time, np.float32),
            "context": context[:rows],
            "context_mask": mask[:rows],
        }
        prediction: Array = graph(feed)["prediction"]
        return guide_rows(prediction, guidance_scale)

    return denoise(predict, noise, config, steps=num_inference_steps, sampler=sampler)
