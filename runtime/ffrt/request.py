"""Checks of what a caller asks for. Each returns the value to use or raises RequestError; nothing is rounded."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ffrt.backend.session import MEMORY, Memory
from ffrt.bundle import InterpolationConfig, KeyframeConfig
from ffrt.errors import RequestError
from ffrt.sampling import MAX_STEPS, SOLVERS, noise_levels
from ffrt.sampling.presets import Steps

MAX_SEED = 2**63 - 1


def whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number from `low` to `high`; True, 2.0 and "2" are none."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= value <= high:
        return operator.index(value)
    raise RequestError(f"{name}: expected a whole number from {low} to {high}, got {_told(value)}")


def seed_of(value: object) -> int:
    """A seed: a whole number from 0 to 2**63 - 1."""
    return whole("seed", value, 0, MAX_SEED)


def steps_of(value: object, default: int) -> int:
    """A number of denoising steps; None is the default."""
    return default if value is None else whole("num_inference_steps", value, 1, MAX_STEPS)


def guidance_of(name: str, value: object, default: float) -> float:
    """A guidance scale, finite and 0 or more; None is the default, 0 is no guidance."""
    if value is None:
        return default
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool) and 0 <= value <= 1e6:
        return float(value)
    raise RequestError(f"{name}: expected a number from 0 (no guidance) to 1e6, got {_told(value)}")


def sampler_of(value: object, default: str) -> str:
    """The name of a sampler; None is the default."""
    if value is None:
        return default
    if isinstance(value, str) and value in SOLVERS:
        return value
    raise RequestError(f"sampler: expected one of {list(SOLVERS)}, got {_told(value)}")


def memory_of(value: object) -> Memory:
    """How sessions hold their weights."""
    for known in MEMORY:
        if value == known:
            return known
    raise RequestError(f"memory: expected one of {list(MEMORY)}, got {_told(value)}")


def rate_of(value: object, rates: Sequence[int]) -> int:
    """A frame rate that the bundle can make."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value in rates:
        return operator.index(value)
    raise RequestError(f"fps: expected one of {list(rates)}, the rates of this bundle, got {_told(value)}")


def check_noise(noise: object, draws: int, shape: tuple[int, ...]) -> None:
    """Noise given by the caller: float32 [K, *shape], the start first, then one draw for every step that adds one."""
    if isinstance(noise, np.ndarray) and noise.dtype == np.float32 and noise.shape[1:] == shape and len(noise) >= draws:
        return
    raise RequestError(f"noise: expected float32 [at least {draws}, {', '.join(map(str, shape))}], got {_told(noise)}")


def check_latents(latents: object, channels: int, least: int) -> None:
    """Latents float32 [N, channels, h, w] with N >= least."""
    if isinstance(latents, np.ndarray) and latents.dtype == np.float32 and latents.ndim == 4:
        if len(latents) >= least and latents.shape[1] == channels and latents.size:
            return
    raise RequestError(f"latents: expected float32 [at least {least}, {channels}, h, w], got {_told(latents)}")


def _told(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.200}" if isinstance(value, (int, float, str, np.number, type(None))) else type(value).__name__


@dataclass(frozen=True)
class Sampling:
    """How one stage denoises: steps, guidance scale and sampler, no default left open; the deep levels of its network
    run in every `cache_interval`-th step.
    """

    steps: int
    guidance_scale: float
    sampler: str
    cache_interval: int = 1

    @property
    def draws(self) -> int:
        """Noise tensors that the sampler takes: the start, and one for every step of "ddpm" but the last."""
        return self.steps if self.sampler == "ddpm" else 1


def sampling_of(
    config: KeyframeConfig | InterpolationConfig,
    num_inference_steps: object,
    guidance_scale: object,
    sampler: object,
    guidance_name: str = "guidance_scale",
    *,
    few: Steps | None = None,
    cache_interval: int = 1,
) -> Sampling:
    """The request with the defaults of a stage's `config`, or the `few` steps of a preset, in place of None."""
    default = Steps(config.sampler, config.num_inference_steps).at_most(few)
    sampling = Sampling(
        steps_of(num_inference_steps, default.num_inference_steps),
        guidance_of(guidance_name, guidance_scale, config.guidance_scale),
        sampler_of(sampler, default.sampler),
        cache_interval,
    )
    noise_levels(config.schedule, sampling.steps)  # refuses a number of steps that this schedule has not
    return sampling


@dataclass(frozen=True)
class Follow:
    """How keyframes follow a first frame, no default left open."""

    motion_score: int
    guidance_scale: float
    noise_augmentation: int


def follow_of(
    config: KeyframeConfig, image: object, motion: object, image_guidance_scale: object, noise_augmentation: object
) -> Follow | None:
    """The request with the defaults of `config` in place of None; None where the bundle makes keyframes of text alone.

    Raises RequestError where such a bundle is given a picture, or told how to follow one.
    """
    given = {
        "image": image,
        "motion": motion,
        "image_guidance_scale": image_guidance_scale,
        "noise_augmentation": noise_augmentation,
    }
    defaults = config.image
    if defaults is None:
        for name, value in given.items():
            if value is not None:
                raise RequestError(
                    f"{name}: expected None, since this bundle makes keyframes of text alone, got {_told(value)}; "
                    "bundles of Kandinsky Video 1.1 follow a first frame"
                )
        return None
    return Follow(
        _motion_score(defaults.motion if motion is None else motion, defaults.motion_scores),
        guidance_of("image_guidance_scale", image_guidance_scale, defaults.guidance_scale),
        defaults.noise_augmentation
        if noise_augmentation is None
        else whole("noise_augmentation", noise_augmentation, 0, 999),
    )


def first_frame_sampling(config: KeyframeConfig, keyframes: Sampling) -> Sampling:
    """As the keyframes, with the guidance scale that the bundle has for a first frame."""
    if config.image is None:
        return keyframes
    return replace(keyframes, guidance_scale=config.image.first_frame_guidance_scale)


def settings_of(
    prompt: str,
    negative_prompt: str | None,
    seed: int,
    first: Sampling,
    then: Sampling | None,
    follow: Follow | None,
    given: bool,
) -> dict[str, str]:
    """How a video was made, as its file tells it; `then` is None without interpolation, `given` says of a picture."""
    settings: dict[str, object] = {
        "prompt": prompt,
        "negative_prompt": "" if negative_prompt is None else negative_prompt,
        "seed": seed,
        "num_inference_steps": first.steps,
        "guidance_scale": first.guidance_scale,
        "sampler": first.sampler,
    }
    if follow is not None:
        settings["first_frame"] = "given" if given else "made of the prompt"
        settings["image_guidance_scale"] = follow.guidance_scale
        settings["motion_score"] = follow.motion_score
    if then is not None:
        settings["interpolation_num_inference_steps"] = then.steps
        settings["interpolation_guidance_scale"] = then.guidance_scale
        settings["interpolation_sampler"] = then.sampler
    if first.cache_interval > 1:
        settings["cache_interval"] = first.cache_interval
    return {key: str(value) for key, value in settings.items()}


def _motion_score(motion: object, scores: Mapping[str, int]) -> int:
    if isinstance(motion, str) and motion in scores:
        return scores[motion]
    if isinstance(motion, str):
        raise RequestError(f"motion: expected one of {list(scores)} or a number from 0 to 1000, got {_told(motion)}")
    return whole("motion", motion, 0, 1000)


def check_frame_noise(noise: object, shape: tuple[int, ...]) -> None:
    """Uniform noise for the latent of a first frame: float32 of `shape`."""
    if not isinstance(noise, np.ndarray) or noise.dtype != np.float32 or noise.shape != shape:
        raise RequestError(f"frame_noise: expected float32 {list(shape)}, got {_told(noise)}")
