"""Text context -> keyframe latents: the first stage of FusionFrames (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from ffrt.bundle import KeyframeConfig
from ffrt.graph import Graph
from ffrt.sampler import Array, Denoised, denoise, guide_rows


def temporal_positions(num_frames: int, position_range: int) -> NDArray[np.int64]:
    """Where each keyframe lies in the range that the temporal embedding knows: int64 [T]."""
    return np.arange(num_frames, dtype=np.int64) * (position_range // num_frames)


def keyframe_steps(
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
    """Denoise keyframes [T, 4, h, w], one yield for each step; returns them.

    `context` float32 [2, L, D] and `mask` bool [2, L] hold the conditional row first. With guidance 0 only that row is
    run. `noise` yields float32 [T, 4, h, w].
    """
    rows = 1 if guidance_scale == 0 else 2
    positions = temporal_positions(config.num_frames, config.position_range)

    def predict(x: Array, time: float) -> Array:
        feed = {
            "x": np.concatenate([x] * rows),
            "time": np.full(rows, time, np.float32),
            "context": context[:rows],
            "context_mask": mask[:rows],
            "temporal_positions": positions,
        }
        prediction: Array = graph(feed)["prediction"]  # [B*T, 4, h, w]
        return guide_rows(prediction, guidance_scale)

    return denoise(
        predict,
        noise,
        steps=num_inference_steps,
        sampler=sampler,
        prediction=config.prediction,
        threshold=config.threshold,
    )
