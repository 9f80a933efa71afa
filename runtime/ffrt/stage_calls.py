"""Every stage called by itself: arrays in, arrays out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ffrt import checks
from ffrt._version import __version__
from ffrt.backend.cancel import Cancellation
from ffrt.bundle import Bundle, InterpolationConfig, KeyframeConfig
from ffrt.errors import RequestError
from ffrt.generation.needs import (
    TEXT,
    decoding_runs,
    encoding_runs,
    first_frame_runs,
    interpolation_runs,
    keyframe_runs,
)
from ffrt.generation.plan import (
    FIRST_FRAME_STREAM,
    FRAME_NOISE_STREAM,
    KEYFRAME_STREAM,
    first_frame_sampling,
    image_conditioning,
    keyframe_shape,
    sampling_of,
)
from ffrt.generation.request import MAX_SEED
from ffrt.media.image import open_image
from ffrt.media.video import Video
from ffrt.memory.estimate import Run
from ffrt.memory.room import Need, Room, check_memory
from ffrt.sampling import MAX_STEPS, SOLVERS, Array, Sampling, drain, normal_noise, uniform_noise
from ffrt.stages import decode, first_frame, interpolate
from ffrt.stages.run import Stages
from ffrt.stages.step_cache import cache_interval_of
from ffrt.stages.text import Context, check_context

if TYPE_CHECKING:
    from ffrt.media.image import Picture

logger = logging.getLogger("ffrt")


class StageCalls:
    """The stages of an open bundle, one public method each; `Pipeline` adds whole requests.

    `stages` has the same stages as generators of denoising steps.
    """

    bundle: Bundle
    stages: Stages
    _room: Room

    def encode(self, prompt: str, negative_prompt: str | None = None) -> Context:
        """Text context of a prompt and, unless it is None or empty, a negative one; `notes` say if one was cut."""
        checks.prompt("prompt", prompt)
        negative_prompt = checks.negative_prompt(negative_prompt)
        check_memory(self.bundle, Need("a prompt", 0, 0, (TEXT,)), self._room_now())
        stages = self._stages_of_a_call()
        with stages.request():
            return stages.text(prompt, negative_prompt)

    def first_frame(
        self,
        context: Context,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        noise: Array | None = None,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
    ) -> NDArray[np.uint8]:
        """The first frame of a context, for `keyframes`: uint8 [2H, 2W, 3] for a video of `height` and `width`.

        `noise` float32 [K, 1, 4, 2h, 2w] takes the place of the seed, as in `keyframes`.
        """
        check_context(context)
        image_conditioning(self.bundle.keyframes, "first_frame", None, None)
        config = self.bundle.keyframes
        sampling = _sampling(config, num_inference_steps, guidance_scale, sampler, times=guidance_interval)
        if guidance_scale is None:
            sampling = first_frame_sampling(config, sampling)
        video = keyframe_shape(self.bundle, height, width)
        self._check_memory("the first frame", first_frame_runs(sampling), *self._pixels(video))
        shape = first_frame.noise_shape(video)
        draws = _draws(noise, seed, FIRST_FRAME_STREAM, sampling, shape)
        stages = self._stages_of_a_call()
        with stages.request():
            return stages.picture(drain(stages.first_frame(context.rows(), sampling, draws)))

    def keyframes(
        self,
        context: Context,
        *,
        image: Picture | None = None,
        motion: str | int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        noise_augmentation: int | None = None,
        seed: int = 0,
        noise: Array | None = None,
        frame_noise: Array | None = None,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
        cache_interval: int | None = None,
    ) -> Array:
        """Keyframe latents float32 [T, 4, h, w] of a context.

        `noise` float32 [K, T, 4, h, w] takes the place of the seed: the start, then for "ddpm" one draw per step but
        the last. Where keyframes follow a first frame (Kandinsky Video 1.1), `image` is that frame, or `first_frame`
        makes it with the seed; it is noised up to level `noise_augmentation` (0 to 999) with `frame_noise` [4, h, w] or
        a uniform draw. Other options as in `Request`.
        """
        check_context(context)
        config = self.bundle.keyframes
        interval = cache_interval_of(cache_interval, ["keyframe_unet"], self.bundle.graphs)
        sampling = _sampling(config, num_inference_steps, guidance_scale, sampler, interval, guidance_interval)
        conditioning = image_conditioning(config, image, motion, image_guidance_scale, noise_augmentation)
        shape = keyframe_shape(self.bundle, height, width)
        runs = keyframe_runs(self.bundle, sampling, conditioning)
        if conditioning is not None and image is None:
            runs = (*first_frame_runs(first_frame_sampling(config, sampling)), *runs)
        self._check_memory("keyframes", runs, *self._pixels(shape))
        draws = _draws(noise, seed, KEYFRAME_STREAM, sampling, shape)
        if frame_noise is not None:
            if conditioning is None:
                raise RequestError("frame_noise: expected None, since this bundle makes keyframes of text alone")
            checks.frame_noise(frame_noise, shape[1:])
        stages = self._stages_of_a_call()
        with stages.request():
            if conditioning is None:
                return drain(stages.keyframes(context.rows(), sampling, draws))
            if image is None:
                steps = sampling.num_inference_steps
                image = self.first_frame(
                    context,
                    num_inference_steps=steps,
                    guidance_interval=guidance_interval,
                    seed=seed,
                    height=height,
                    width=width,
                    sampler=sampling.sampler,
                )
            frame = stages.encode_picture(open_image(image), shape)
            uniform = uniform_noise(seed, FRAME_NOISE_STREAM, frame.shape) if frame_noise is None else frame_noise
            return drain(stages.image_keyframes(context.rows(), sampling, conditioning, frame, uniform, draws))

    def interpolate(
        self,
        latents: Array,
        context: Context | None = None,
        *,
        fps: int,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        noise: Array | None = None,
        sampler: str | None = None,
        method: str = "group",
        cache_interval: int | None = None,
    ) -> Array:
        """One pass: latents float32 [T, 4, h, w] -> [4T-3, 4, h, w] at the rate `fps` of one of the bundle's passes.

        `method` is "group" (three frames between two keyframes in one run of the network), or one of the baselines, if
        the bundle has their graph: "masked" (windows of five frames) and "masked_sequence" (all in one). `noise`
        float32 [K, T-1, 12, h, w] takes the place of the seed, as in `keyframes` ("masked": [K, T-1, 20, h, w],
        "masked_sequence": [K, 1, (4T-3)*4, h, w]). `context` is needed if the network reads text, as in 1.1.

        Latents do not know their rate: a pass expects those of the pass before it, the first one keyframes. What looks
        like keyframes in a later pass is logged, since the video would be too short.
        """
        passes = self.bundle.interpolation.passes
        rates = [one.fps for one in passes]
        index = rates.index(checks.rate(fps, rates))
        chosen = interpolate.method_of(method, self.bundle.graphs)
        interval = cache_interval_of(cache_interval, [interpolate.GRAPHS[chosen]], self.bundle.graphs)
        config = self.bundle.interpolation
        sampling = _sampling(config, num_inference_steps, guidance_scale, sampler, interval, guidance_interval)
        latents = self._latents(latents, least=2)
        if index > 0 and len(latents) == self.bundle.keyframes.num_frames:
            logger.warning(
                f"interpolate: {len(latents)} latents are as many as keyframes, but the pass to {fps} fps expects "
                f"those of the pass to {rates[index - 1]} fps; call that one first"
            )
        rows = None
        if self.bundle.family.interpolation_reads_text and chosen == "group":
            rows = check_context(context).interpolation_rows()
        runs = interpolation_runs(len(latents), latents.shape[1], sampling, chosen)
        self._check_memory("interpolation", runs, *self._pixels(latents.shape))
        draws = _draws(noise, seed, 1 + index, sampling, interpolate.noise_shape(chosen, latents.shape))
        stages = self._stages_of_a_call()
        with stages.request():
            return drain(stages.interpolation(rows, latents, passes[index], sampling, draws, chosen))

    def decode(self, latents: Array, fps: int) -> Video:
        """A video of latents float32 [N, 4, h, w] played at `fps` frames per second, decoded when it is used."""
        latents = self._latents(latents, least=1)
        rate = checks.whole("fps", fps, 1, 240)
        height, width = self._pixels(latents.shape)
        self._check_memory("decoding", decoding_runs(self.bundle, len(latents)), height, width)
        return Video(
            lambda: self._stages_of_a_call().decode(latents),
            num_frames=len(latents),
            height=height,
            width=width,
            fps=rate,
            metadata=self._facts(),
        )

    def encode_frames(self, frames: NDArray[np.uint8]) -> Array:
        """Latents float32 [N, 4, h, w] of frames uint8 [N, H, W, 3]."""
        decode.check_frames(frames, self.bundle.video.size_multiple)
        self._check_memory("encoding frames", encoding_runs(len(frames)), *frames.shape[1:3])
        stages = self._stages_of_a_call()
        with stages.request():
            return stages.encode_frames(frames)

    def _room_now(self) -> Room:
        """Free memory, as it was when no graph was open: what the pipeline holds it can use."""
        if not self.stages.graphs.names:
            self._room = Room.here(self._room.memory, self._room.on_gpu, self._room.fitted)
        return self._room

    def _check_memory(self, what: str, runs: tuple[Run, ...], height: int, width: int) -> None:
        need = Need(f"{what} of {height}x{width}", height, width, runs)
        check_memory(self.bundle, need, self._room_now())

    def _pixels(self, latents: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the frames of latents [.., h, w]."""
        return latents[-2] * self.bundle.video.downscale, latents[-1] * self.bundle.video.downscale

    def _stages_of_a_call(self) -> Stages:
        return self.stages.of(Cancellation())

    def _facts(self) -> dict[str, str]:
        """The part of a video's metadata that does not depend on the request."""
        return {"bundle": self.bundle.name, "bundle_digest": self.bundle.digest, "ffrt_version": __version__}

    def _latents(self, latents: Array, least: int) -> Array:
        video = self.bundle.video
        latents = checks.latents(latents, video.latent_channels, least)
        decode.check_side("height of the latents", latents.shape[2] * video.downscale, video.size_multiple)
        decode.check_side("width of the latents", latents.shape[3] * video.downscale, video.size_multiple)
        return latents


def _sampling(
    config: KeyframeConfig | InterpolationConfig,
    steps: int | None,
    scale: float | None,
    sampler: str | None,
    interval: int = 1,
    times: tuple[float, float] | None = None,
) -> Sampling:
    """A stage's sampling, checked as `Request` checks it."""
    if steps is not None:
        checks.whole("num_inference_steps", steps, 1, MAX_STEPS)
    if scale is not None:
        checks.guidance("guidance_scale", scale)
    if sampler is not None:
        checks.choice("sampler", sampler, SOLVERS)
    if times is not None:
        times = checks.interval("guidance_interval", times, 0, MAX_STEPS)
    return sampling_of(config, steps, scale, sampler, cache_interval=interval, guidance_interval=times)


def _draws(noise: Array | None, seed: int, stream: int, sampling: Sampling, shape: tuple[int, ...]) -> Iterator[Array]:
    seed = checks.whole("seed", seed, 0, MAX_SEED)
    if noise is None:
        return normal_noise(seed, stream, shape)
    return iter(checks.noise(noise, sampling.draws, shape))
