"""What the autoencoder and the interpolation lose against rendered truth, in dB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from bench.contenders.baselines import blend, pictures
from bench.datasets.shapes import INTERPOLATION_SEED, STANDING, truth
from bench.demo_quality.prompts import Clip, Sampling
from bench.harness.record import BenchError
from bench.harness.run import progress
from bench.metrics.base import Frames
from bench.metrics.pixels import psnr_db

PASSES = {"2 to 8 fps": (8,), "8 to 30 fps": (30,), "2 to 30 fps": (8, 30)}
"""What is measured: each pass alone, and both in sequence."""


class Codec(Protocol):
    """The part of `ffrt.Pipeline` that encodes, interpolates and decodes."""

    def encode_frames(self, frames: Frames) -> Any:
        """Latents of frames."""

    def interpolate(
        self,
        latents: Any,
        *,
        fps: int,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        sampler: str | None,
    ) -> Any:
        """One pass."""

    def decode(self, latents: Any, fps: int) -> Clip:
        """Frames of latents."""


def reconstruction(pipe: Codec, clips: Sequence[Any]) -> dict[str, Any]:
    """PSNR of held-out keyframes through the autoencoder, uint8 in and out."""
    values = []
    for index in progress("autoencoder", len(clips)):
        frames = truth(clips[index], 2)
        values.append(psnr_db(pipe.decode(pipe.encode_frames(frames), 2).frames, frames))
    return {"mean_db": float(np.mean(values)), "worst_clip_db": min(values), "clips": len(values)}


def interpolation(pipe: Codec, clips: Sequence[Any], passes: str, sampling: Sampling) -> dict[str, Any]:
    """PSNR of the frames between, against rendered truth, of one of `PASSES`, over all clips and those that move.

    Keyframes are rendered at the rate that the passes start from and encoded; all methods start from the same decoded
    pictures. The second pass makes 32 frames per second of motion, shown at 30. Baselines called "true" start from the
    rendered pictures, without the autoencoder's loss. "autoencoder" is the bound of any interpolation of latents: the
    true frames, encoded and decoded. Raises BenchError for other passes.
    """
    if passes not in PASSES:
        raise BenchError(f"passes: expected one of {list(PASSES)}, got {passes!r}")
    rates = PASSES[passes]
    steps, factor = {8: 8, 30: 32}[rates[-1]], 4 ** len(rates)
    values: dict[str, list[float]] = {}
    for index in progress(f"interpolation {passes}", len(clips)):
        exact = truth(clips[index], steps)
        latents = keyframes = pipe.encode_frames(exact[::factor])
        for rate in rates:
            latents = pipe.interpolate(
                latents,
                fps=rate,
                seed=INTERPOLATION_SEED,
                num_inference_steps=sampling.num_inference_steps,
                guidance_scale=sampling.interpolation_guidance_scale,
                sampler=sampling.sampler,
            )
        filled = pipe.decode(latents, rates[-1]).frames
        between = np.arange(len(exact)) % factor != 0
        methods = {
            "ffrt": filled,
            "autoencoder": pipe.decode(pipe.encode_frames(exact), rates[-1]).frames,
            "latent linear": pipe.decode(np.asarray(blend(keyframes, factor), np.float32), rates[-1]).frames,
            **pictures(filled[::factor], factor),
            **{f"true {name}": frames for name, frames in pictures(exact[::factor], factor).items()},
        }
        for name, frames in methods.items():
            values.setdefault(name, []).append(psnr_db(frames[between], exact[between]))
    kinds = {"all": [True] * len(clips), "moving": [clip.action != STANDING for clip in clips]}
    means = {
        kind: {name: float(np.mean(np.array(each)[chosen])) if any(chosen) else None for name, each in values.items()}
        for kind, chosen in kinds.items()
    }
    return {**means, "clips": len(clips)}
