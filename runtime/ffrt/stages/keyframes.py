"""Text context -> keyframe latents: the first stage of FusionFrames (paper section 3.2), and the same stage when it
follows a first frame (Kandinsky Video 1.1).
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.session import Session
from ffrt.bundle import KeyframeConfig
from ffrt.sampling import Array, Denoised, add_noise, guidance_weights, take
from ffrt.stages.denoising import Seen, denoise_network, no_channels
from ffrt.stages.step_cache import Network


def temporal_positions(num_frames: int, position_range: int) -> NDArray[np.int64]:
    """Where each keyframe lies in the range that the temporal embedding knows: int64 [T]."""
    return np.arange(num_frames, dtype=np.int64) * (position_range // num_frames)


def keyframe_steps(
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
    """Denoise keyframes [T, 4, h, w], one yield for each step; returns them.

    `context` float32 [2, L, D] and `mask` bool [2, L] hold the conditional row first. With guidance 0 only that row is
    run. `noise` yields float32 [T, 4, h, w]. `update` as in :func:`ffrt.stages.denoising.denoise_network`.
    """
    weights = guidance_weights(guidance_scale)
    rows = len(weights)
    positions = temporal_positions(config.num_frames, config.position_range)

    def told(time: float) -> dict[str, NDArray[Any]]:
        return {
            "time": np.full(rows, time, np.float32),
            "context": context[:rows],
            "context_mask": mask[:rows],
            "temporal_positions": positions,
        }

    start = take(noise)
    nothing = no_channels(rows * config.num_frames, start.shape)
    seen = Seen(weights, nothing, nothing, told)
    draws = itertools.chain([start], noise)
    return denoise_network(graph, update, [seen], draws, config, steps=num_inference_steps, sampler=sampler)


def image_keyframe_steps(
    graph: Network,
    config: KeyframeConfig,
    context: Array,
    mask: NDArray[np.bool_],
    frame: Array,
    frame_noise: Array,
    noise: Iterator[Array],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    image_guidance_scale: float,
    motion_score: int,
    noise_augmentation: int,
    sampler: str,
    update: Session | None = None,
) -> Generator[Denoised, None, Array]:
    """Denoise keyframes [T, 4, h, w] that follow a first frame, one yield for each step; returns them.

    `frame` [4, h, w] is that frame's latent, noised with `frame_noise` up to level `noise_augmentation`. `context`
    [2, L, D] and `mask` [2, L] hold the conditional row first. As released, three rows are guided as
    `w c + (w_image - w) i + (1 - w_image) u`: c sees text and frame, i the frame, u neither; w 1 and w_image 1 is no
    guidance, and a row of weight 0 is not run.
    """
    noised = add_noise(frame, frame_noise, noise_augmentation)
    seen = np.zeros((config.num_frames, len(frame) + 1, *frame.shape[1:]), np.float32)  # the frame, and where it is
    seen[0, :-1], seen[0, -1] = noised, 1
    weights = np.array([guidance_scale, image_guidance_scale - guidance_scale, 1 - image_guidance_scale], np.float32)
    kept = np.flatnonzero(weights)
    given = np.concatenate(np.stack([seen, seen, np.zeros_like(seen)])[kept])  # [B*T, 5, h, w]
    prompt = np.array([0, 1, 1])[kept]
    positions = temporal_positions(config.num_frames, config.position_range)

    def told(time: float) -> dict[str, NDArray[Any]]:
        return {
            "time": np.full(len(kept), time, np.float32),
            "context": context[prompt],
            "context_mask": mask[prompt],
            "temporal_positions": positions,
            "noise_augmentation": np.full(len(kept), noise_augmentation, np.int64),
            "motion_score": np.full(len(kept), motion_score, np.int64),
        }

    view = Seen(weights[kept], no_channels(len(given), given.shape), given, told)
    return denoise_network(graph, update, [view], noise, config, steps=num_inference_steps, sampler=sampler)
