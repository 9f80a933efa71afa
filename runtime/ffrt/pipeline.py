"""A sentence becomes a video: checks the request, then calls the stages in order. No arithmetic of its own."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ffrt import __version__, request
from ffrt.backend.graph import Graph
from ffrt.backend.session import check_provider
from ffrt.bundle import Bundle, find_bundle, open_bundle
from ffrt.errors import RequestError
from ffrt.media.image import open_image
from ffrt.request import Sampling
from ffrt.sampling import Array, drain, normal_noise, uniform_noise
from ffrt.sampling.presets import preset_of
from ffrt.stages import decode, first_frame, interpolate, text
from ffrt.stages.graphs import Stages
from ffrt.stages.step_cache import cache_interval_of
from ffrt.stages.text import Context
from ffrt.step import Step, report_steps
from ffrt.video import Video

if TYPE_CHECKING:
    from ffrt.media.image import Picture

_FIRST_FRAME, _FRAME_NOISE = 1000, 1001
"""Streams of noise beside 0 for the keyframes and 1, 2, .. for the passes."""


class Pipeline:
    """Text-to-video over the graphs of one bundle. A graph is loaded when it is first used, once.

    Letters as in the package docstring. Every method checks its arguments before a graph runs and raises RequestError,
    which names the argument, what was wanted and what came.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: str = "auto",
        threads: int | None = None,
        memory: str = "fast",
        cuda_graph: bool = False,
    ) -> None:
        threads = None if threads is None else request.whole("threads", threads, 1, 1024)
        self.bundle = bundle
        self._stages = Stages(bundle, provider, threads, request.memory_of(memory), cuda_graph)

    @classmethod
    def from_pretrained(
        cls,
        bundle: str | os.PathLike[str] | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        memory: str = "fast",
        cuda_graph: bool = False,
    ) -> Pipeline:
        """Open a bundle: a folder, or the demo for `None` and "demo".

        `provider` is "auto" (CUDA if it can be had, else CPU, and OpenVINO for a bundle that was optimised for it),
        "cpu", "cuda", "tensorrt", "tensorrt-rtx" or "openvino";
        `threads` the number of CPU threads inside an operator (None: ONNX Runtime chooses). What TensorRT builds, it
        keeps in the user's cache folder (`ffrt doctor` shows it). With `memory` "low" weights stay in the bundle's
        files and are converted where they are used, and one stage's graph is open at a time: a network may
        then be larger than memory, at a cost in speed and in opening every graph again for every request; "fast" holds
        float32 copies and keeps all graphs. With `cuda_graph` a GPU records the launches of a denoising step and plays
        them back, for networks so small that launching takes as long as computing; on CUDA and TensorRT alone. Raises
        BundleError if a file is missing or was changed, ProviderError if the provider cannot be had: here, or when its
        first graph loads.
        """
        check_provider(provider)
        found = open_bundle(find_bundle(bundle))
        return cls(found, provider=provider, threads=threads, memory=memory, cuda_graph=cuda_graph)

    def cancel(self) -> None:
        """End what this pipeline has under way, in the middle of a step: it raises Cancelled, within one operator.

        For another thread, a signal handler or the loop over `generate`. The pipeline can be used again at once; with
        `memory` "low" it holds no session afterwards. With nothing under way this does nothing.
        """
        self._stages.cancel()

    def graph(self, name: str) -> Graph:
        """The graph `name` of the bundle, loaded at the first call."""
        return self._stages.graph(name)

    def __call__(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        image: Picture | None = None,
        motion: str | int | None = None,
        fps: int = 8,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        interpolation_guidance_scale: float | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
        preset: str | None = None,
        cache_interval: int | None = None,
    ) -> Video:
        """Make a video of `prompt`. `None` means the bundle's default; 0 means 0.

        `fps` is a rate of the bundle (the demo: 2, 8 or 30 for 16, 61 or 241 frames). `num_inference_steps` 1 to 1000
        and `sampler` ("ddpm" as released; "ddim" or "dpm++" for few steps) hold for keyframes and interpolation.
        `guidance_scale` w enters as `(w + 1) c - w u`. `seed` is 0 to 2**63 - 1: the same bundle, seed and request draw
        the same noise on any provider. `height` and `width` are in pixels. Frames are decoded when they are used.

        `preset` "fast" takes fewer steps where the request says nothing of them (see `ffrt.sampling.presets`); None and
        "quality" are the bundle's own. `cache_interval` n runs the deep levels of the U-Nets in every n-th step only,
        with a bundle that `python -m graphs.deep_cache` wrote; None and 1 are off. A first frame is made without it.

        A bundle of Kandinsky Video 1.1 first makes a first frame of the prompt, or takes `image` for it: a file, uint8
        [H, W, 3] or a PIL image, shrunk and cut to the size of the video. `motion` is how much moves, by name (inspect
        shows the bundle's) or 0 to 1000. Its guidance is as released, 1 for none: see `ffrt.stages.keyframes`.
        """
        steps = self.generate(
            prompt,
            negative_prompt=negative_prompt,
            image=image,
            motion=motion,
            fps=fps,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            interpolation_guidance_scale=interpolation_guidance_scale,
            seed=seed,
            height=height,
            width=width,
            sampler=sampler,
            preset=preset,
            cache_interval=cache_interval,
        )
        return drain(steps)

    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        image: Picture | None = None,
        motion: str | int | None = None,
        fps: int = 8,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
        interpolation_guidance_scale: float | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
        preset: str | None = None,
        cache_interval: int | None = None,
    ) -> Generator[Step, None, Video]:
        """`pipe(...)` one step at a time: yields a Step after every denoising step and returns the Video.

        The request is checked by the call itself, before the first step; one that memory cannot hold raises
        OutOfMemoryError there. Leave the loop to stop, or `cancel` in the middle of a step; the video is the
        generator's return value (`video = yield from pipe.generate(...)`, or `StopIteration.value`).
        """
        text.check_prompt("prompt", prompt)
        if negative_prompt is not None:
            text.check_prompt("negative_prompt", negative_prompt)
        config = self.bundle
        fps = request.rate_of(fps, [config.keyframes.fps, *(p.fps for p in config.interpolation.passes)])
        seed = request.seed_of(seed)
        chosen = preset_of(preset)
        unets = ["keyframe_unet"] if fps == config.keyframes.fps else ["keyframe_unet", "interpolation_unet"]
        interval = cache_interval_of(cache_interval, unets, config.graphs)
        first = request.sampling_of(
            config.keyframes,
            num_inference_steps,
            guidance_scale,
            sampler,
            few=chosen.keyframes,
            cache_interval=interval,
        )
        follow = request.follow_of(config.keyframes, image, motion, image_guidance_scale, None)
        then = request.sampling_of(
            config.interpolation,
            num_inference_steps,
            interpolation_guidance_scale,
            sampler,
            guidance_name="interpolation_guidance_scale",
            few=chosen.interpolation,
            cache_interval=interval,
        )
        shape = self._keyframe_shape(height, width)
        self._stages.check_memory(shape, fps, first, then)
        picture = None if image is None else open_image(image)
        told = request.settings_of(
            prompt,
            negative_prompt,
            seed,
            first,
            None if fps == config.keyframes.fps else then,
            follow,
            image is not None,
        )

        def run() -> Generator[Step, None, Video]:
            passes = [p for p in config.interpolation.passes if p.fps <= fps]
            before = first.steps if follow is not None and picture is None else 0
            overall = before + first.steps + len(passes) * then.steps
            context = self.encode(prompt, negative_prompt)
            frame = picture
            if before:
                noise = normal_noise(seed, _FIRST_FRAME, first_frame.noise_shape(shape))
                made = self._stages.first_frame(context, request.first_frame_sampling(config.keyframes, first), noise)
                latent = yield from report_steps(
                    "first frame", 0, overall, made, lambda x0: x0, partial(self._stages.decode, graph="image_decoder")
                )
                frame = self._stages.picture(latent)
            noise = normal_noise(seed, 0, shape)
            if follow is None or frame is None:
                stage = self._stages.keyframes(context, first, noise)
            else:
                ends = self._stages.encode_picture(frame, shape)
                frame_noise = uniform_noise(seed, _FRAME_NOISE, ends.shape)
                stage = self._stages.image_keyframes(context, first, follow, ends, frame_noise, noise)
            decoded = self._stages.decode
            latents = yield from report_steps("keyframes", before, overall, stage, lambda x0: x0, decoded)
            for i, one_pass in enumerate(passes):
                ends = latents
                noise = normal_noise(seed, 1 + i, interpolate.noise_shape("group", ends.shape))
                stage = self._stages.interpolation(context.interpolation_rows(), ends, one_pass, then, noise, "group")
                done = before + first.steps + i * then.steps
                name = f"interpolation to {one_pass.fps} fps"
                merge = partial(interpolate.merge, "group", ends)
                latents = yield from report_steps(name, done, overall, stage, merge, decoded)
            return self._video(latents, fps, told)

        return self._stages.during(run())

    def encode(self, prompt: str, negative_prompt: str | None = None) -> Context:
        """Text context of a prompt, and of a negative one if given. Warns with PromptTruncated if one is too long."""
        text.check_prompt("prompt", prompt)
        if negative_prompt is not None:
            text.check_prompt("negative_prompt", negative_prompt)
        return self._stages.text(prompt, negative_prompt)

    def first_frame(
        self,
        context: Context,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        noise: Array | None = None,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
    ) -> NDArray[np.uint8]:
        """The first frame of a context, for `keyframes`: uint8 [2H, 2W, 3] for a video of `height` and `width`.

        `noise` float32 [K, 1, 4, 2h, 2w] takes the place of the seed, as in `keyframes`.
        """
        _check_context(context)
        request.follow_of(self.bundle.keyframes, "first_frame", None, None, None)
        sampling = request.sampling_of(self.bundle.keyframes, num_inference_steps, guidance_scale, sampler)
        if guidance_scale is None:
            sampling = request.first_frame_sampling(self.bundle.keyframes, sampling)
        shape = first_frame.noise_shape(self._keyframe_shape(height, width))
        draws = _draws(noise, seed, _FIRST_FRAME, sampling, shape)
        return self._stages.picture(drain(self._stages.first_frame(context, sampling, draws)))

    def keyframes(
        self,
        context: Context,
        *,
        image: Picture | None = None,
        motion: str | int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float | None = None,
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

        `noise` float32 [K, T, 4, h, w] takes the place of the seed: the start, then for "ddpm" one draw for every step
        but the last. Where keyframes follow a first frame (Kandinsky Video 1.1), `image` is that frame, else made by
        `first_frame` with the seed; it is noised up to level `noise_augmentation` (0 to 999) with `frame_noise`
        [4, h, w] or a uniform draw. `cache_interval` as in the call of the pipeline.
        """
        _check_context(context)
        config = self.bundle.keyframes
        interval = cache_interval_of(cache_interval, ["keyframe_unet"], self.bundle.graphs)
        sampling = request.sampling_of(config, num_inference_steps, guidance_scale, sampler, cache_interval=interval)
        follow = request.follow_of(config, image, motion, image_guidance_scale, noise_augmentation)
        shape = self._keyframe_shape(height, width)
        draws = _draws(noise, seed, 0, sampling, shape)
        if follow is None:
            return drain(self._stages.keyframes(context, sampling, draws))
        if frame_noise is not None:
            request.check_frame_noise(frame_noise, shape[1:])
        if image is None:
            steps = sampling.steps
            image = self.first_frame(
                context, num_inference_steps=steps, seed=seed, height=height, width=width, sampler=sampling.sampler
            )
        frame = self._stages.encode_picture(open_image(image), shape)
        uniform = uniform_noise(request.seed_of(seed), _FRAME_NOISE, frame.shape)
        frame_noise = uniform if frame_noise is None else frame_noise
        return drain(self._stages.image_keyframes(context, sampling, follow, frame, frame_noise, draws))

    def interpolate(
        self,
        latents: Array,
        context: Context | None = None,
        *,
        fps: int,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        noise: Array | None = None,
        sampler: str | None = None,
        method: str = "group",
        cache_interval: int | None = None,
    ) -> Array:
        """One pass: latents float32 [T, 4, h, w] -> [4T-3, 4, h, w] at the rate `fps` of one of the bundle's passes.

        `method` is "group" (three frames between two keyframes in one pass of the network), or one of the baselines,
        where the bundle has their graph: "masked" (windows of five frames) and "masked_sequence" (all in one).
        `noise` float32 [K, T-1, 12, h, w] takes the place of the seed, as in `keyframes` ("masked": [K, T-1, 20, h, w],
        "masked_sequence": [K, 1, (4T-3)*4, h, w]). `context` is needed where the network sees text, as in 1.1.
        """
        passes = self.bundle.interpolation.passes
        rate = request.rate_of(fps, [p.fps for p in passes])
        index = [p.fps for p in passes].index(rate)
        way = interpolate.method_of(method, self.bundle.graphs)
        interval = cache_interval_of(cache_interval, [interpolate.GRAPHS[way]], self.bundle.graphs)
        sampling = request.sampling_of(
            self.bundle.interpolation, num_inference_steps, guidance_scale, sampler, cache_interval=interval
        )
        latents = self._latents(latents, least=2)
        rows = None
        if self.bundle.keyframes.image is not None and way == "group":
            _check_context(context)
            assert context is not None
            rows = context.interpolation_rows()
        draws = _draws(noise, seed, 1 + index, sampling, interpolate.noise_shape(way, latents.shape))
        return drain(self._stages.interpolation(rows, latents, passes[index], sampling, draws, way))

    def decode(self, latents: Array, fps: int) -> Video:
        """A video of latents float32 [N, 4, h, w] played at `fps` frames per second, decoded when it is used."""
        return self._video(self._latents(latents, least=1), request.whole("fps", fps, 1, 240), {})

    def encode_frames(self, frames: NDArray[np.uint8]) -> Array:
        """Latents float32 [N, 4, h, w] of frames uint8 [N, H, W, 3]."""
        decode.check_frames(frames, self.bundle.video.size_multiple)
        return decode.encode_image(self.graph("movq_encoder"), frames)

    def _video(self, latents: Array, fps: int, settings: Mapping[str, str]) -> Video:
        downscale = self.bundle.video.downscale
        return Video(
            lambda: self._stages.decode(latents),
            num_frames=len(latents),
            height=latents.shape[2] * downscale,
            width=latents.shape[3] * downscale,
            fps=fps,
            metadata={
                **settings,
                "bundle": self.bundle.name,
                "bundle_digest": self.bundle.digest,
                "ffrt_version": __version__,
            },
        )

    def _keyframe_shape(self, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        video = self.bundle.video
        h = video.height if height is None else decode.check_side("height", height, video.size_multiple)
        w = video.width if width is None else decode.check_side("width", width, video.size_multiple)
        frames = self.bundle.keyframes.num_frames
        return frames, video.latent_channels, h // video.downscale, w // video.downscale

    def _latents(self, latents: Array, least: int) -> Array:
        video = self.bundle.video
        request.check_latents(latents, video.latent_channels, least)
        decode.check_side("height of the latents", latents.shape[2] * video.downscale, video.size_multiple)
        decode.check_side("width of the latents", latents.shape[3] * video.downscale, video.size_multiple)
        return latents


def _check_context(context: object) -> None:
    if not isinstance(context, Context):
        raise RequestError(f"context: expected what pipe.encode(prompt) gives, got {type(context).__name__}")


def _draws(noise: Array | None, seed: int, stage: int, sampling: Sampling, shape: tuple[int, ...]) -> Iterator[Array]:
    seed = request.seed_of(seed)
    if noise is None:
        return normal_noise(seed, stage, shape)
    request.check_noise(noise, sampling.draws, shape)
    return iter(noise)
