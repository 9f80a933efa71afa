"""Text context -> keyframe latents (paper section 3.2), and the same stage following a first frame (1.1)."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.session import Session
from ffrt.bundle import KeyframeConfig
from ffrt.sampling import Array, Denoised, Sampling, add_noise, guidance_weights, take
from ffrt.stages.denoising import DeviceNetwork, Network, Prompt, denoise_network, text_rows
from ffrt.stages.model_input import ModelInput, no_channels, with_guidance


@dataclass(frozen=True)
class ImageConditioning:
    """How keyframes follow a first frame: how much moves (0 to 1000), guidance, and the frame's noise level (0-999)."""

    motion_score: int
    guidance_scale: float
    noise_augmentation: int


def temporal_positions(num_frames: int, position_range: int) -> NDArray[np.int64]:
    """Where each keyframe lies in the range that the temporal embedding knows: int64 [T]."""
    return np.arange(num_frames, dtype=np.int64) * (position_range // num_frames)


def keyframe_steps(
    network: Network | DeviceNetwork,
    config: KeyframeConfig,
    prompt: Prompt,
    noise: Iterator[Array],
    sampling: Sampling,
    update: Session | None = None,
    *,
    keep_rows: bool = False,
) -> Generator[Denoised, None, Array]:
    """Denoise keyframes [T, 4, h, w], one yield per step; returns them.

    `prompt` is a context float32 [2, L, D] and its mask bool [2, L]; with guidance 0 only the conditional row runs.
    `noise` yields float32 [T, 4, h, w]. `update` as in `ffrt.stages.denoising.denoise_network`. `keep_rows`: in steps
    without guidance as many rows run as in those with it, for a provider that opens a network for one shape.
    """
    positions = temporal_positions(config.num_frames, config.position_range)
    start = take(noise)

    def look(rows: NDArray[np.intp], weights: NDArray[np.float32]) -> list[ModelInput]:
        def conditioning(time: float) -> dict[str, NDArray[Any]]:
            return {**text_rows(prompt, rows, time), "temporal_positions": positions}

        nothing = no_channels(len(rows) * config.num_frames, start.shape)
        return [ModelInput(weights, nothing, nothing, conditioning)]

    inputs = with_guidance(sampling, guidance_weights(sampling.guidance_scale), look, keep_rows)
    return denoise_network(network, update, inputs, itertools.chain([start], noise), config, sampling)


def image_weights(scale: float, image_scale: float) -> NDArray[np.float32]:
    """The weights of three rows: text and frame, the frame alone, neither; those of weight 0 do not run."""
    return np.array([scale, image_scale - scale, 1 - image_scale], np.float32)


def image_keyframe_steps(
    network: Network | DeviceNetwork,
    config: KeyframeConfig,
    prompt: Prompt,
    frame: Array,
    frame_noise: Array,
    noise: Iterator[Array],
    sampling: Sampling,
    image: ImageConditioning,
    update: Session | None = None,
    *,
    keep_rows: bool = False,
) -> Generator[Denoised, None, Array]:
    """Denoise keyframes [T, 4, h, w] that follow a first frame, one yield per step; returns them.

    `frame` [4, h, w] is the frame's latent, noised with `frame_noise` up to level `image.noise_augmentation`. As
    released, three rows are guided as `w c + (w_image - w) i + (1 - w_image) u`: c sees text and frame, i the frame, u
    neither. w 1 and w_image 1 is no guidance, as outside of the guidance interval, and a row of weight 0 does not run.
    Other arguments as `keyframe_steps`.
    """
    noised = add_noise(frame, frame_noise, image.noise_augmentation)
    given = np.zeros((config.num_frames, len(frame) + 1, *frame.shape[1:]), np.float32)  # the frame, and where it is
    given[0, :-1], given[0, -1] = noised, 1
    positions = temporal_positions(config.num_frames, config.position_range)

    def look(rows: NDArray[np.intp], weights: NDArray[np.float32]) -> list[ModelInput]:
        after = np.concatenate(np.stack([given, given, np.zeros_like(given)])[rows])  # [B*T, 5, h, w]
        text = np.array([0, 1, 1])[rows]

        def conditioning(time: float) -> dict[str, NDArray[Any]]:
            return {
                **text_rows(prompt, text, time),
                "temporal_positions": positions,
                "noise_augmentation": np.full(len(rows), image.noise_augmentation, np.int64),
                "motion_score": np.full(len(rows), image.motion_score, np.int64),
            }

        return [ModelInput(weights, no_channels(len(after), after.shape), after, conditioning)]

    inputs = with_guidance(sampling, image_weights(sampling.guidance_scale, image.guidance_scale), look, keep_rows)
    return denoise_network(network, update, inputs, noise, config, sampling)
