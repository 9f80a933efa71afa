"""What the autoencoder and the interpolation lose against rendered truth, in dB.

Clips are held out: the sizes, places and angles of the grammar are continuous, so that none comes twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.contenders.baselines import Frames, blend, pictures, psnr_db
from bench.harness.run import progress

CLIP_SEED = {"test": 90_210_771, "tune": 31_415_927}
INTERPOLATION_SEED = 5


@dataclass(frozen=True)
class Sampling:
    """How a bench samples; None is the bundle's default."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    interpolation_guidance_scale: float | None = None
    sampler: str | None = None
    preset: str | None = None


class Clip(Protocol):
    """What a pipeline returns."""

    @property
    def frames(self) -> NDArray[np.uint8]: ...


class Pipe(Protocol):
    """The part of `ffrt.Pipeline` that is measured."""

    def __call__(
        self,
        prompt: str,
        *,
        fps: int,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        interpolation_guidance_scale: float | None,
        sampler: str | None,
        preset: str | None,
    ) -> Clip: ...

    def encode_frames(self, frames: NDArray[np.uint8]) -> Any: ...

    def interpolate(
        self,
        latents: Any,
        *,
        fps: int,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        sampler: str | None,
    ) -> Any: ...

    def decode(self, latents: Any, fps: int) -> Clip: ...


def held_out(count: int, split: str = "test") -> list[Any]:
    """Clips drawn apart from training, actions in turn; the sets are as in `bench.datasets.prompts`."""
    from export.datasets.shapes import ACTIONS, sample_clip

    rng = np.random.default_rng(CLIP_SEED[split])
    clips = []
    for index in range(count):
        clip = sample_clip(rng)
        while clip.action != ACTIONS[index % len(ACTIONS)]:
            clip = sample_clip(rng)
        clips.append(clip)
    return clips


def truth(clip: Any, steps_per_s: int) -> Frames:
    """The 7.5 s between 16 keyframes, rendered at `steps_per_s`: uint8 `[7.5 * steps_per_s + 1, 128, 128, 3]`."""
    from export.datasets.shapes import render

    image = render(clip, np.arange(15 * steps_per_s // 2 + 1) / steps_per_s).numpy()
    return np.rint((image.transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)


def reconstruction(pipe: Pipe, clips: Sequence[Any]) -> dict[str, Any]:
    """PSNR of held-out keyframes through the autoencoder, uint8 in and out."""
    values = []
    for index in progress("autoencoder", len(clips)):
        frames = truth(clips[index], 2)
        values.append(psnr_db(pipe.decode(pipe.encode_frames(frames), 2).frames, frames))
    return {"mean_db": float(np.mean(values)), "worst_clip_db": min(values), "clips": len(values)}


PASSES = {"2 to 8 fps": (8,), "8 to 30 fps": (30,), "2 to 30 fps": (8, 30)}
"""What is measured: each pass by itself, and both, one after the other."""


def interpolation(pipe: Pipe, clips: Sequence[Any], passes: str, sampling: Sampling) -> dict[str, Any]:
    """PSNR of the frames between, against rendered truth, of one of `PASSES`.

    Keyframes are rendered at the rate that the passes start from and encoded; all methods start from the same decoded
    pictures. The second pass makes 32 frames of a second of motion, shown at 30. Baselines called "true" start from the
    rendered pictures, without the autoencoder's loss. "autoencoder" is the bound of any interpolation of latents: the
    true frames, encoded and decoded. Raises ValueError for other passes.
    """
    if passes not in PASSES:
        raise ValueError(f"passes: expected one of {list(PASSES)}, got {passes!r}")
    rates = PASSES[passes]
    steps, factor = {8: 8, 30: 32}[rates[-1]], 4 ** len(rates)
    kinds = {"all": [True] * len(clips), "moving": [clip.action != "standing still" for clip in clips]}
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
        made = pipe.decode(latents, rates[-1]).frames
        between = np.arange(len(exact)) % factor != 0
        methods = {
            "ffrt": made,
            "autoencoder": pipe.decode(pipe.encode_frames(exact), rates[-1]).frames,
            "latent linear": pipe.decode(np.asarray(blend(keyframes, factor), np.float32), rates[-1]).frames,
            **pictures(made[::factor], factor),
            **{f"true {name}": frames for name, frames in pictures(exact[::factor], factor).items()},
        }
        for name, frames in methods.items():
            values.setdefault(name, []).append(psnr_db(frames[between], exact[between]))
    return {
        kind: {name: float(np.mean(np.array(found)[chosen])) if any(chosen) else None for name, found in values.items()}
        for kind, chosen in kinds.items()
    }
