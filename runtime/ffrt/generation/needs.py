"""What the stages of a bundle run, and so what memory they need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ffrt.bundle import Bundle
from ffrt.memory.estimate import Run, with_shallow
from ffrt.memory.room import Need
from ffrt.sampling import Sampling
from ffrt.stages.decode import CHUNK_FRAMES, clip_frames
from ffrt.stages.first_frame import ENLARGED
from ffrt.stages.interpolate import GRAPHS, WINDOW_GROUPS, Method, noise_shape
from ffrt.stages.keyframes import ImageConditioning, image_weights

COPIES = 4
"""Arrays of the size of the noise that an interpolation holds beside its network."""
TEXT = Run("text_encoder", 1)


def first_frame_runs(sampling: Sampling) -> tuple[Run, ...]:
    """Of the first frame, which is larger than the video."""
    return Run("image_unet", sampling.rows, ENLARGED**2), Run("image_decoder", 1, ENLARGED**2)


def keyframe_runs(bundle: Bundle, sampling: Sampling, image: ImageConditioning | None) -> tuple[Run, ...]:
    """Of the keyframes, and of the encoder for a frame that they follow."""
    count = bundle.keyframes.num_frames
    if image is None:
        return with_shallow(Run("keyframe_unet", sampling.rows * count), sampling.cache_interval)
    rows = int(np.count_nonzero(image_weights(sampling.guidance_scale, image.guidance_scale)))
    unet = with_shallow(Run("keyframe_unet", rows * count), sampling.cache_interval)
    return Run("movq_encoder", 1), *unet


def interpolation_runs(frames: int, channels: int, sampling: Sampling, method: Method = "group") -> tuple[Run, ...]:
    """Of one pass over `frames` latents."""
    items, width = noise_shape(method, (frames, channels, 1, 1))[:2]
    seen = min(items, WINDOW_GROUPS) if method == "group" else items * width // channels
    run = Run(GRAPHS[method], sampling.rows * seen, arrays=COPIES * items * width)
    return with_shallow(run, sampling.cache_interval)


def decoding_runs(bundle: Bundle, frames: int) -> tuple[Run, ...]:
    """Of a chunk of frames, or of a clip."""
    most = clip_frames(frames) if bundle.video.temporal_decoder else CHUNK_FRAMES
    return (Run("movq_decoder", min(most, frames)),)


def encoding_runs(frames: int) -> tuple[Run, ...]:
    """Of a chunk of frames."""
    return (Run("movq_encoder", min(CHUNK_FRAMES, frames)),)


def need_of_request(
    bundle: Bundle,
    height: int,
    width: int,
    fps: int,
    keyframes: Sampling,
    interpolation: Sampling,
    image: ImageConditioning | None,
    first: Sampling | None,
) -> Need:
    """Of a whole request; `first` is how the first frame is sampled, None where there is none or it is given."""

    def runs(rate: int) -> tuple[Run, ...]:
        made = [TEXT, *(() if first is None else first_frame_runs(first)), *keyframe_runs(bundle, keyframes, image)]
        reached = [one for one in bundle.rates if one <= rate]
        if len(reached) > 1:
            frames = bundle.num_frames(reached[-2])
            made += interpolation_runs(frames, bundle.video.latent_channels, interpolation)
        return (*made, *decoding_runs(bundle, bundle.num_frames(rate)))

    slower: Sequence[int] = [rate for rate in reversed(bundle.rates) if rate < fps]
    simpler = tuple((f"fps={rate}", runs(rate)) for rate in slower)
    return Need(f"{height}x{width} at {fps} fps", height, width, runs(fps), simpler)
