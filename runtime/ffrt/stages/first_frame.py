"""Text context -> the first frame of a video: the stage that Kandinsky Video 1.1 puts before the keyframes.

The keyframe U-Net makes it with its temporal blocks left out, twice as high and wide as the video; decoded, fitted and
encoded again it is what the keyframes follow (released `generate_key_frame`).
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.session import Session
from ffrt.bundle import KeyframeConfig
from ffrt.sampling import Array, Denoised, guidance_weights, take
from ffrt.stages.denoising import Seen, denoise_network, no_channels
from ffrt.stages.step_cache import Network

ENLARGED = 2
"""Sides of the first frame over those of the video."""


def noise_shape(keyframes: tuple[int, ...]) -> tuple[int, int, int, int]:
    """What is denoised for keyframes of shape [T, 4, h, w]: [1, 4, 2h, 2w]."""
    _, channels, h, w = keyframes
    return 1, channels, ENLARGED * h, ENLARGED * w


def first_frame_steps(
    graph: Network,
    config: KeyframeConfig,
    context: Array,
    mask: NDArray[np.bool_],
    noise: Iterator[Array],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    sampler: str,
    update: Session | None = None,
) -> Generator[Denoised, None, Array]:
    """Denoise the latent [1, 4, 2h, 2w] of an image, one yield for each step; returns it.

    `context` float32 [2, L, D] and `mask` bool [2, L] hold the conditional row first; with guidance 0 only that row is
    run. `noise` yields float32 of :func:`noise_shape`. `update` as in :func:`ffrt.stages.denoising.denoise_network`.
    """
    weights = guidance_weights(guidance_scale)
    rows = len(weights)

    def told(time: float) -> dict[str, NDArray[Any]]:
        return {
            "time": np.full(rows, time, np.float32),
            "context": context[:rows],
            "context_mask": mask[:rows],
        }

    start = take(noise)
    not_given = np.zeros((rows, start.shape[1] + 1, *start.shape[2:]), np.float32)
    seen = Seen(weights, no_channels(rows, start.shape), not_given, told)
    draws = itertools.chain([start], noise)
    return denoise_network(graph, update, [seen], draws, config, steps=num_inference_steps, sampler=sampler)
