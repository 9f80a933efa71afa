"""Text context -> the first frame of a video: the stage that Kandinsky Video 1.1 puts before the keyframes.

The keyframe U-Net makes it with its temporal blocks left out, twice as high and wide as the video. Decoded, fitted and
encoded again, it is what the keyframes follow (released `generate_key_frame`).
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.session import Session
from ffrt.bundle import KeyframeConfig
from ffrt.sampling import Array, Denoised, Sampling, guidance_weights, take
from ffrt.stages.denoising import DeviceNetwork, Network, Prompt, denoise_network, text_rows
from ffrt.stages.model_input import ModelInput, no_channels, with_guidance

ENLARGED = 2
"""Sides of the first frame over those of the video."""


def noise_shape(keyframes: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The shape of the noise for keyframes of shape [T, 4, h, w]: [1, 4, 2h, 2w]."""
    _, channels, h, w = keyframes
    return 1, channels, ENLARGED * h, ENLARGED * w


def first_frame_steps(
    network: Network | DeviceNetwork,
    config: KeyframeConfig,
    prompt: Prompt,
    noise: Iterator[Array],
    sampling: Sampling,
    update: Session | None = None,
    *,
    keep_rows: bool = False,
) -> Generator[Denoised, None, Array]:
    """Denoise the latent [1, 4, 2h, 2w] of an image, one yield per step; returns it.

    `prompt` is a context float32 [2, L, D] and its mask bool [2, L]; with guidance 0 only the conditional row runs.
    `noise` yields float32 of `noise_shape`. `update` as in `ffrt.stages.denoising.denoise_network`, and `keep_rows` as
    in `ffrt.stages.model_input.with_guidance`.
    """
    start = take(noise)

    def look(rows: NDArray[np.intp], weights: NDArray[np.float32]) -> list[ModelInput]:
        no_picture = np.zeros((len(rows), start.shape[1] + 1, *start.shape[2:]), np.float32)
        return [ModelInput(weights, no_channels(len(rows), start.shape), no_picture, partial(text_rows, prompt, rows))]

    inputs = with_guidance(sampling, guidance_weights(sampling.guidance_scale), look, keep_rows)
    return denoise_network(network, update, inputs, itertools.chain([start], noise), config, sampling)
