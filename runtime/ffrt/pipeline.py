"""A sentence becomes a video: checks the request, then calls the stages in order. No arithmetic of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ffrt import __version__, decode, interpolate, keyframes, request, text
from ffrt.bundle import Bundle, InterpolationPass, find_bundle, open_bundle
from ffrt.errors import RequestError
from ffrt.graph import Graph, check_provider
from ffrt.interpolate import Method
from ffrt.request import Sampling
from ffrt.sampler import Array, Denoised, drain, normal_noise
from ffrt.text import Context
from ffrt.video import Video


@dataclass(frozen=True)
class Step:
    """One finished denoising step of `Pipeline.generate`.

    `stage` is "keyframes" or, for example, "interpolation to 8 fps". `index` of `total` counts within the stage,
    `overall_index` of `overall_total` within the video, both from 0. `latents` float32 [n, 4, h, w] is the current
    clean estimate: what the stage would give if it ended now.
    """

    stage: str
    index: int
    total: int
    overall_index: int
    overall_total: int
    latents: Array = field(repr=False, compare=False)
    _decode: Callable[[Array], Iterator[NDArray[np.uint8]]] = field(repr=False, compare=False)

    def preview(self, frames: slice = slice(None)) -> NDArray[np.uint8]:
        """The estimate, or the `frames` chosen of it, decoded to uint8 [n, H, W, 3]."""
        chosen = self.latents[frames]
        if len(chosen) == 0:
            raise RequestError(f"frames: {frames} chooses none of the {len(self.latents)} frames; try slice(0, 1)")
        return np.concatenate(list(self._decode(chosen)))


class Pipeline:
    """Text-to-video over the five graphs of one bundle. A graph is loaded when it is first used, once.

    Letters as in the package docstring. Every method checks its arguments before a graph runs and raises RequestError,
    which names the argument, what was wanted and what came.
    """

    def __init__(self, bundle: Bundle, *, provider: str = "auto", threads: int | None = None) -> None:
        check_provider(provider)
        self.bundle = bundle
        self._provider = provider
        self._threads = None if threads is None else request.whole("threads", threads, 1, 1024)
        self._tokenizer = text.open_tokenizer(bundle.path(bundle.text.tokenizer))
        self._graphs: dict[str, Graph] = {}

    @classmethod
    def from_pretrained(
        cls, bundle: str | os.PathLike[str] | None = None, *, provider: str = "auto", threads: int | None = None
    ) -> Pipeline:
        """Open a bundle: a folder, or the demo for `None` and "demo".

        `provider` is "auto" (CUDA if it can be had, else CPU), "cpu", "cuda", "tensorrt" or "openvino"; `threads` the
        number of CPU threads inside an operator (None: ONNX Runtime chooses). Raises BundleError if a file is missing
        or was changed, ProviderError if the provider cannot be had: here, or when its first graph loads.
        """
        check_provider(provider)
        return cls(open_bundle(find_bundle(bundle)), provider=provider, threads=threads)

    def graph(self, name: str) -> Graph:
        """The graph `name` of the bundle, loaded at the first call."""
        if name not in self._graphs:
            self._graphs[name] = Graph(self.bundle, name, provider=self._provider, threads=self._threads)
        return self._graphs[name]

    def __call__(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        fps: int = 8,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        interpolation_guidance_scale: float | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
    ) -> Video:
        """Make a video of `prompt`. `None` means the bundle's default; 0 means 0.

        `fps` is a rate of the bundle (the demo: 2, 8 or 30 for 16, 61 or 241 frames). `num_inference_steps` 1 to 1000
        and `sampler` ("ddpm" as released; "ddim" or "dpm++" for few steps) hold for keyframes and interpolation.
        `guidance_scale` w enters as `(w + 1) c - w u`. `seed` is 0 to 2**63 - 1: the same bundle, seed and request draw
        the same noise on any provider. `height` and `width` are in pixels. Frames are decoded when they are used.
        """
        steps = self.generate(
            prompt,
            negative_prompt=negative_prompt,
            fps=fps,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            interpolation_guidance_scale=interpolation_guidance_scale,
            seed=seed,
            height=height,
            width=width,
            sampler=sampler,
        )
        return drain(steps)

    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        fps: int = 8,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        interpolation_guidance_scale: float | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        sampler: str | None = None,
    ) -> Generator[Step, None, Video]:
        """`pipe(...)` one step at a time: yields a Step after every denoising step and returns the Video.

        The request is checked by the call itself, before the first step. Leave the loop to stop; the video is the
        generator's return value (`video = yield from pipe.generate(...)`, or `StopIteration.value`).
        """
        text.check_prompt("prompt", prompt)
        if negative_prompt is not None:
            text.check_prompt("negative_prompt", negative_prompt)
        config = self.bundle
        fps = request.rate_of(fps, [config.keyframes.fps, *(p.fps for p in config.interpolation.passes)])
        seed = request.seed_of(seed)
        first = request.sampling_of(self.bundle.keyframes, num_inference_steps, guidance_scale, sampler)
        then = request.sampling_of(
            config.interpolation,
            num_inference_steps,
            interpolation_guidance_scale,
            sampler,
            guidance_name="interpolation_guidance_scale",
        )
        shape = self._keyframe_shape(height, width)
        settings = {
            "prompt": prompt,
            "negative_prompt": "" if negative_prompt is None else negative_prompt,
            "seed": seed,
            "num_inference_steps": first.steps,
            "guidance_scale": first.guidance_scale,
            "sampler": first.sampler,
        }
        if fps != config.keyframes.fps:
            settings["interpolation_num_inference_steps"] = then.steps
            settings["interpolation_guidance_scale"] = then.guidance_scale
            settings["interpolation_sampler"] = then.sampler
        metadata = {key: str(value) for key, value in settings.items()}

        def run() -> Generator[Step, None, Video]:
            passes = [p for p in config.interpolation.passes if p.fps <= fps]
            overall = first.steps + len(passes) * then.steps
            context = self.encode(prompt, negative_prompt)
            stage = self._keyframe_stage(context, first, normal_noise(seed, 0, shape))
            latents = yield from self._report("keyframes", 0, overall, stage, lambda x0: x0)
            for i, one_pass in enumerate(passes):
                ends = latents
                noise = normal_noise(seed, 1 + i, interpolate.noise_shape("group", ends.shape))
                stage = self._pass_stage(ends, one_pass, then, noise, "group")
                done = first.steps + i * then.steps
                name = f"interpolation to {one_pass.fps} fps"
                latents = yield from self._report(name, done, overall, stage, partial(interpolate.merge, "group", ends))
            return self._video(latents, fps, metadata)

        return run()

    def encode(self, prompt: str, negative_prompt: str | None = None) -> Context:
        """Text context of a prompt, and of a negative one if given. Warns with PromptTruncated if one is too long."""
        text.check_prompt("prompt", prompt)
        if negative_prompt is not None:
            text.check_prompt("negative_prompt", negative_prompt)
        return text.encode(self.graph("text_encoder"), self._tokenizer, self.bundle, prompt, negative_prompt)

    def keyframes(
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
    ) -> Array:
        """Keyframe latents float32 [T, 4, h, w] of a context.

        `noise` float32 [K, T, 4, h, w] takes the place of the seed: the start, then for "ddpm" one draw for every step
        but the last.
        """
        if not isinstance(context, Context):
            raise RequestError(f"context: expected what pipe.encode(prompt) gives, got {type(context).__name__}")
        sampling = request.sampling_of(self.bundle.keyframes, num_inference_steps, guidance_scale, sampler)
        shape = self._keyframe_shape(height, width)
        draws = _draws(noise, seed, 0, sampling, shape)
        return drain(self._keyframe_stage(context, sampling, draws))

    def interpolate(
        self,
        latents: Array,
        *,
        fps: int,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        noise: Array | None = None,
        sampler: str | None = None,
        method: str = "group",
    ) -> Array:
        """One pass: latents float32 [T, 4, h, w] -> [4T-3, 4, h, w] at the rate `fps` of one of the bundle's passes.

        `method` is "group" (three frames between two keyframes in one pass of the network), or one of the baselines,
        where the bundle has their graph: "masked" (windows of five frames) and "masked_sequence" (all in one).
        `noise` float32 [K, T-1, 12, h, w] takes the place of the seed, as in `keyframes` ("masked": [K, T-1, 20, h, w],
        "masked_sequence": [K, 1, (4T-3)*4, h, w]).
        """
        passes = self.bundle.interpolation.passes
        rate = request.rate_of(fps, [p.fps for p in passes])
        index = [p.fps for p in passes].index(rate)
        sampling = request.sampling_of(self.bundle.interpolation, num_inference_steps, guidance_scale, sampler)
        way = interpolate.method_of(method, self.bundle.graphs)
        latents = self._latents(latents, least=2)
        draws = _draws(noise, seed, 1 + index, sampling, interpolate.noise_shape(way, latents.shape))
        return drain(self._pass_stage(latents, passes[index], sampling, draws, way))

    def decode(self, latents: Array, fps: int) -> Video:
        """A video of latents float32 [N, 4, h, w] played at `fps` frames per second, decoded when it is used."""
        return self._video(self._latents(latents, least=1), request.whole("fps", fps, 1, 240), {})

    def encode_frames(self, frames: NDArray[np.uint8]) -> Array:
        """Latents float32 [N, 4, h, w] of frames uint8 [N, H, W, 3]."""
        decode.check_frames(frames, self.bundle.video.size_multiple)
        return decode.encode_image(self.graph("movq_encoder"), frames)

    def _keyframe_stage(
        self, context: Context, sampling: Sampling, noise: Iterator[Array]
    ) -> Generator[Denoised, None, Array]:
        rows, mask = context.rows()
        return keyframes.keyframe_steps(
            self.graph("keyframe_unet"),
            self.bundle.keyframes,
            rows,
            mask,
            noise,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            sampler=sampling.sampler,
        )

    def _pass_stage(
        self, latents: Array, one_pass: InterpolationPass, sampling: Sampling, noise: Iterator[Array], method: Method
    ) -> Generator[Denoised, None, Array]:
        return interpolate.interpolation_steps(
            self.graph(interpolate.GRAPHS[method]),
            self.bundle.interpolation,
            one_pass,
            latents,
            noise,
            method=method,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            sampler=sampling.sampler,
        )

    def _report(
        self,
        name: str,
        done: int,
        overall: int,
        stage: Generator[Denoised, None, Array],
        estimate: Callable[[Array], Array],
    ) -> Generator[Step, None, Array]:
        while True:
            try:
                at = next(stage)
            except StopIteration as end:
                latents: Array = end.value
                return latents
            yield Step(name, at.index, at.total, done + at.index, overall, estimate(at.x0), self._decode_chunks)

    def _decode_chunks(self, latents: Array) -> Iterator[NDArray[np.uint8]]:
        return decode.decode_chunks(self.graph("movq_decoder"), latents)

    def _video(self, latents: Array, fps: int, settings: Mapping[str, str]) -> Video:
        downscale = self.bundle.video.downscale
        return Video(
            lambda: self._decode_chunks(latents),
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


def _draws(noise: Array | None, seed: int, stage: int, sampling: Sampling, shape: tuple[int, ...]) -> Iterator[Array]:
    seed = request.seed_of(seed)
    if noise is None:
        return normal_noise(seed, stage, shape)
    request.check_noise(noise, sampling.draws, shape)
    return iter(noise)
