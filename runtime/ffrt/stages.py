"""Every stage of one bundle beside its graph: opened when it is first used, fed with the bundle's configuration.

The pipeline says what runs and in which order; here is how each stage gets at its graph.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from ffrt.bundle import Bundle, InterpolationPass
from ffrt.decode import CHUNK_FRAMES, clip_frames, decode_chunks, encode_image, to_frames
from ffrt.first_frame import first_frame_steps
from ffrt.graph import Graph, Memory, check_provider
from ffrt.image import fit_image
from ffrt.interpolate import GRAPHS, Method, Prompt, interpolation_steps
from ffrt.keyframes import image_keyframe_steps, keyframe_steps
from ffrt.request import Follow, Sampling
from ffrt.sampler import Array, Denoised
from ffrt.step_cache import SHALLOW, Network, StepCache
from ffrt.text import Context, encode, open_tokenizer


class Stages:
    """The stages of a bundle as generators of denoising steps, each graph loaded once.

    Raises ProviderError for a provider that is not there, BundleError for a tokenizer that is none.
    """

    def __init__(self, bundle: Bundle, provider: str, threads: int | None, memory: Memory) -> None:
        check_provider(provider)
        self.bundle = bundle
        self._provider = provider
        self._threads = threads
        self._memory = memory
        self._tokenizer = open_tokenizer(bundle.path(bundle.text.tokenizer))
        self._graphs: dict[str, Graph] = {}

    def graph(self, name: str) -> Graph:
        """The graph `name` of the bundle, loaded at the first call."""
        if name not in self._graphs:
            self._graphs[name] = Graph(
                self.bundle, name, provider=self._provider, threads=self._threads, memory=self._memory
            )
        return self._graphs[name]

    def unet(self, name: str, interval: int) -> Network:
        """The U-Net `name` for one run of a stage that has its deep levels run in every `interval`-th step."""
        whole = self.graph(name)
        return whole if interval == 1 else StepCache(whole, self.graph(SHALLOW[name]), interval)

    def text(self, prompt: str, negative_prompt: str | None) -> Context:
        """Text context of a prompt and, if there is one, a negative prompt."""
        return encode(self.graph("text_encoder"), self._tokenizer, self.bundle, prompt, negative_prompt)

    def first_frame(
        self, context: Context, sampling: Sampling, noise: Iterator[Array]
    ) -> Generator[Denoised, None, Array]:
        rows, mask = context.rows()
        return first_frame_steps(
            self.graph("image_unet"),
            self.bundle.keyframes,
            rows,
            mask,
            noise,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            sampler=sampling.sampler,
        )

    def picture(self, latent: Array) -> NDArray[np.uint8]:
        """The latent [1, 4, 2h, 2w] of a first frame as uint8 [2H, 2W, 3]."""
        image = self.graph("image_decoder")({"latent": latent})["image"]
        picture: NDArray[np.uint8] = to_frames(image, rounded=False)[0]
        return picture

    def encode_picture(self, picture: NDArray[np.uint8], shape: tuple[int, ...]) -> Array:
        """A picture as the latent [4, h, w] of a first frame."""
        sides = (side * self.bundle.video.downscale for side in shape[2:])
        latent: Array = encode_image(self.graph("movq_encoder"), fit_image(picture, *sides)[None])[0]
        return latent

    def keyframes(
        self, context: Context, sampling: Sampling, noise: Iterator[Array]
    ) -> Generator[Denoised, None, Array]:
        rows, mask = context.rows()
        return keyframe_steps(
            self.unet("keyframe_unet", sampling.cache_interval),
            self.bundle.keyframes,
            rows,
            mask,
            noise,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            sampler=sampling.sampler,
        )

    def image_keyframes(
        self,
        context: Context,
        sampling: Sampling,
        follow: Follow,
        frame: Array,
        frame_noise: Array,
        noise: Iterator[Array],
    ) -> Generator[Denoised, None, Array]:
        rows, mask = context.rows()
        return image_keyframe_steps(
            self.unet("keyframe_unet", sampling.cache_interval),
            self.bundle.keyframes,
            rows,
            mask,
            frame,
            frame_noise,
            noise,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            image_guidance_scale=follow.guidance_scale,
            motion_score=follow.motion_score,
            noise_augmentation=follow.noise_augmentation,
            sampler=sampling.sampler,
        )

    def interpolation(
        self,
        prompt: Prompt | None,
        latents: Array,
        one_pass: InterpolationPass,
        sampling: Sampling,
        noise: Iterator[Array],
        method: Method,
    ) -> Generator[Denoised, None, Array]:
        return interpolation_steps(
            self.unet(GRAPHS[method], sampling.cache_interval),
            self.bundle.interpolation,
            one_pass,
            latents,
            noise,
            method=method,
            prompt=prompt,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            sampler=sampling.sampler,
        )

    def decode(self, latents: Array, graph: str = "movq_decoder") -> Iterator[NDArray[np.uint8]]:
        """Latents [N, 4, h, w] -> uint8 frames [n, H, W, 3] in order; "image_decoder" is the other graph that can."""
        temporal = self.bundle.video.temporal_decoder and graph == "movq_decoder"
        frames = clip_frames(len(latents)) if temporal else CHUNK_FRAMES
        return decode_chunks(self.graph(graph), latents, frames)
