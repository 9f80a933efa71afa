"""A request with every default resolved and everything checked, before any graph is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ffrt import checks
from ffrt.bundle import Bundle, InterpolationConfig, InterpolationPass, KeyframeConfig
from ffrt.checks import Note
from ffrt.errors import RequestError
from ffrt.families import Stage
from ffrt.generation.needs import need_of_request
from ffrt.generation.request import Request
from ffrt.media.image import open_image, too_small
from ffrt.memory.estimate import weight_bytes
from ffrt.memory.room import Room, check_memory
from ffrt.sampling import Sampling, noise_levels
from ffrt.sampling.presets import PRESETS, Steps
from ffrt.stages.decode import check_side
from ffrt.stages.first_frame import ENLARGED
from ffrt.stages.interpolate import WINDOW_GROUPS
from ffrt.stages.keyframes import ImageConditioning
from ffrt.stages.step_cache import cache_interval_of

KEYFRAME_STREAM, FIRST_FRAME_STREAM, FRAME_NOISE_STREAM = 0, 1000, 1001
"""Streams of noise (`ffrt.sampling.normal_noise`); the passes of interpolation have 1, 2, ..."""


@dataclass(frozen=True)
class StageRun:
    """One stage of a plan: its number of steps, and the `cost` of a step against the other stages' in rough FLOPs.

    Denoising stages have a `sampling` and a `stream` of noise; interpolation has its pass. A step of DECODING is a
    frame. `fps` is the frame rate of the latents, None where there is none yet.
    """

    stage: Stage
    steps: int
    cost: float
    fps: int | None = None
    sampling: Sampling | None = None
    stream: int = KEYFRAME_STREAM
    one_pass: InterpolationPass | None = None


@dataclass(frozen=True)
class Plan:
    """What a request comes to with one bundle.

    `shape` is that of the keyframe latents, [T, 4, h, w]. `image` says how keyframes follow a first frame, None where
    they do not; `picture` is that frame, uint8 [H, W, 3], if it was given. `notes` are facts known before the run.
    """

    request: Request
    bundle_digest: str
    shape: tuple[int, int, int, int]
    num_frames: int
    stages: tuple[StageRun, ...]
    image: ImageConditioning | None = None
    picture: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    notes: tuple[Note, ...] = ()

    @classmethod
    def of(cls, request: Request, bundle: Bundle, room: Room | None = None) -> Plan:
        """Resolve and check `request` with `bundle` alone; `room` is the memory to fit in, by default this machine's.

        Raises RequestError, or OutOfMemoryError, which says what would fit.
        """
        for name, value, kind in (("request", request, Request), ("bundle", bundle, Bundle), ("room", room, Room)):
            if not isinstance(value, kind) and not (value is None and kind is Room):
                raise RequestError(f"{name}: expected a {kind.__name__}, got {checks.describe(value)}")
        fps = checks.rate(request.fps, bundle.rates)
        passes = [one for one in bundle.interpolation.passes if one.fps <= fps]
        preset = PRESETS["quality" if request.preset is None else request.preset]
        unets = ["keyframe_unet", *(["interpolation_unet"] if passes else [])]
        interval = cache_interval_of(request.cache_interval, unets, bundle.graphs)
        keyframes = sampling_of(
            bundle.keyframes,
            request.num_inference_steps,
            request.guidance_scale,
            request.sampler,
            few=preset.keyframes,
            cache_interval=interval,
            guidance_interval=request.guidance_interval,
        )
        image = image_conditioning(bundle.keyframes, request.image, request.motion, request.image_guidance_scale)
        interpolation = sampling_of(
            bundle.interpolation,
            request.num_inference_steps,
            request.interpolation_guidance_scale,
            request.sampler,
            few=preset.interpolation,
            cache_interval=interval,
            guidance_interval=request.guidance_interval,
        )
        shape = keyframe_shape(bundle, request.height, request.width)
        height, width = (side * bundle.video.downscale for side in shape[2:])
        room = Room.here() if room is None else room
        makes_first = image is not None and request.image is None
        first = first_frame_sampling(bundle.keyframes, keyframes) if makes_first else None
        need = need_of_request(bundle, height, width, fps, keyframes, interpolation, image, first)
        check_memory(bundle, need, room)
        picture = None if request.image is None else open_image(request.image)
        small = None if picture is None else too_small(picture, height, width)
        return cls(
            request,
            bundle.digest,
            shape,
            bundle.num_frames(fps),
            tuple(_runs(bundle, shape, keyframes, interpolation, passes, picture is not None)),
            image,
            picture,
            () if small is None else (small,),
        )

    @property
    def fps(self) -> int:
        """The frame rate of the video."""
        return int(self.request.fps)

    @property
    def total_steps(self) -> int:
        """Steps of all stages, a decoded frame being one."""
        return sum(run.steps for run in self.stages)

    def run_of(self, stage: Stage) -> StageRun | None:
        """The first run of a stage, None where the plan has none."""
        return next((run for run in self.stages if run.stage is stage), None)

    def latents_after(self) -> dict[tuple[Stage, int | None], tuple[int, int, int, int] | None]:
        """The shape of the latents at the end of each stage (with its `fps`) before decoding; None where none exist."""
        ends: dict[tuple[Stage, int | None], tuple[int, int, int, int] | None] = {}
        count = self.shape[0]
        for run in self.stages:
            if run.one_pass is not None:
                count = 4 * count - 3
            if run.stage is not Stage.DECODING:
                made = run.stage in (Stage.KEYFRAMES, Stage.INTERPOLATION)
                ends[run.stage, run.fps] = (count, *self.shape[1:]) if made else None
        return ends

    def metadata(self) -> dict[str, str]:
        """How the video is made, as its file will say."""
        request, keyframes = self.request, self.run_of(Stage.KEYFRAMES)
        assert keyframes is not None and keyframes.sampling is not None
        facts: dict[str, object] = {
            "prompt": request.prompt,
            "negative_prompt": "" if request.negative_prompt is None else request.negative_prompt,
            "seed": int(request.seed),
            "num_inference_steps": keyframes.sampling.num_inference_steps,
            "guidance_scale": keyframes.sampling.guidance_scale,
            "sampler": keyframes.sampling.sampler,
        }
        if self.image is not None:
            facts["first_frame"] = "made of the prompt" if self.picture is None else "given"
            facts["image_guidance_scale"] = self.image.guidance_scale
            facts["motion_score"] = self.image.motion_score
        interpolation = self.run_of(Stage.INTERPOLATION)
        if interpolation is not None and interpolation.sampling is not None:
            facts["interpolation_num_inference_steps"] = interpolation.sampling.num_inference_steps
            facts["interpolation_guidance_scale"] = interpolation.sampling.guidance_scale
            facts["interpolation_sampler"] = interpolation.sampling.sampler
        if request.guidance_interval is not None:
            facts["guidance_interval"] = "{:g} to {:g}".format(*request.guidance_interval)
        if keyframes.sampling.cache_interval > 1:
            facts["cache_interval"] = keyframes.sampling.cache_interval
        return {key: str(value) for key, value in facts.items()}


def sampling_of(
    config: KeyframeConfig | InterpolationConfig,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    sampler: str | None,
    *,
    few: Steps | None = None,
    cache_interval: int = 1,
    guidance_interval: tuple[float, float] | None = None,
) -> Sampling:
    """What a caller asked for, with the defaults of a stage's `config`, or the `few` steps of a preset, for None.

    Raises RequestError for a number of steps that the bundle's schedule cannot make.
    """
    default = Steps(config.sampler, config.num_inference_steps).at_most(few)
    sampling = Sampling(
        default.num_inference_steps if num_inference_steps is None else int(num_inference_steps),
        config.guidance_scale if guidance_scale is None else float(guidance_scale),
        default.sampler if sampler is None else sampler,
        cache_interval,
        guidance_interval,
    )
    noise_levels(config.schedule, sampling.num_inference_steps)
    return sampling


def first_frame_sampling(config: KeyframeConfig, keyframes: Sampling) -> Sampling:
    """As the keyframes, with the guidance scale that the bundle has for a first frame."""
    if config.image is None:
        return keyframes
    return replace(keyframes, guidance_scale=config.image.first_frame_guidance_scale, cache_interval=1)


def image_conditioning(
    config: KeyframeConfig,
    image: object,
    motion: str | int | None,
    image_guidance_scale: float | None,
    noise_augmentation: int | None = None,
) -> ImageConditioning | None:
    """How keyframes follow a first frame; None with a family whose keyframes follow none.

    Raises RequestError if such a family is given a picture, or how to follow one.
    """
    defaults = config.image
    if defaults is None:
        options = {
            "image": image,
            "motion": motion,
            "image_guidance_scale": image_guidance_scale,
            "noise_augmentation": noise_augmentation,
        }
        for name, value in options.items():
            if value is not None:
                raise RequestError(
                    f"{name}: expected None, since this bundle makes keyframes of text alone, got "
                    f"{checks.describe(value)}; bundles of Kandinsky Video 1.1 follow a first frame"
                )
        return None
    if noise_augmentation is not None:
        checks.whole("noise_augmentation", noise_augmentation, 0, 999)
    return ImageConditioning(
        _motion_score(defaults.motion if motion is None else motion, defaults.motion_scores),
        defaults.guidance_scale
        if image_guidance_scale is None
        else checks.guidance("image_guidance_scale", image_guidance_scale),
        defaults.noise_augmentation if noise_augmentation is None else noise_augmentation,
    )


def keyframe_shape(bundle: Bundle, height: int | None, width: int | None) -> tuple[int, int, int, int]:
    """The shape [T, 4, h, w] of keyframe latents of `height` and `width` in pixels, None for the bundle's."""
    video = bundle.video
    h = video.height if height is None else check_side("height", height, video.size_multiple)
    w = video.width if width is None else check_side("width", width, video.size_multiple)
    return bundle.keyframes.num_frames, video.latent_channels, h // video.downscale, w // video.downscale


def _motion_score(motion: str | int, scores: Mapping[str, int]) -> int:
    if isinstance(motion, str):
        if motion in scores:
            return scores[motion]
        told = checks.describe(motion)
        raise RequestError(f"motion: expected one of {list(scores)} or a number from 0 to 1000, got {told}")
    return checks.whole("motion", motion, 0, 1000)


def _runs(
    bundle: Bundle,
    shape: tuple[int, int, int, int],
    keyframes: Sampling,
    interpolation: Sampling,
    passes: list[InterpolationPass],
    picture: bool,
) -> list[StageRun]:
    """The family's order of stages for one request: no first frame where a picture is given, a run for each pass."""
    count, _, h, w = shape
    latent = float(h * w)
    weights = {name: float(sum(weight_bytes(bundle, name))) for name in bundle.graphs}
    runs: list[StageRun] = []
    for stage in bundle.family.order:
        if stage is Stage.TEXT:
            runs.append(StageRun(stage, 1, weights["text_encoder"] * bundle.text.max_tokens))
        elif stage is Stage.FIRST_FRAME and not picture:
            sampling = first_frame_sampling(bundle.keyframes, keyframes)
            cost = weights["image_unet"] * sampling.rows * ENLARGED**2 * latent
            steps = sampling.num_inference_steps
            runs.append(StageRun(stage, steps, cost, sampling=sampling, stream=FIRST_FRAME_STREAM))
        elif stage is Stage.KEYFRAMES:
            cost = weights["keyframe_unet"] * keyframes.rows * count * latent
            runs.append(StageRun(stage, keyframes.num_inference_steps, cost, bundle.keyframes.fps, keyframes))
        elif stage is Stage.INTERPOLATION:
            for stream, one_pass in enumerate(passes, start=1):
                groups = count - 1
                if groups > WINDOW_GROUPS:
                    groups += groups // WINDOW_GROUPS * 4  # neighbouring windows overlap
                cost = weights["interpolation_unet"] * interpolation.rows * groups * latent
                steps = interpolation.num_inference_steps
                runs.append(StageRun(stage, steps, cost, one_pass.fps, interpolation, stream, one_pass))
                count = 4 * count - 3
        elif stage is Stage.DECODING:
            last = passes[-1].fps if passes else bundle.keyframes.fps
            runs.append(StageRun(stage, count, weights["movq_decoder"] * 16 * latent, last))
    return runs
