"""Every stage of one bundle beside its graph: opened when it is first used, fed with the bundle's configuration.

The pipeline says what runs and in which order; here is how each stage gets at its graph.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.cancel import Cancellation
from ffrt.backend.graph import Graph, optimised_for
from ffrt.backend.providers import ON_GPU, ONE_SHAPE
from ffrt.backend.session import Memory, Session, check_provider
from ffrt.bundle import Bundle, InterpolationPass
from ffrt.errors import Cancelled, ProviderError
from ffrt.families import SHALLOW
from ffrt.media.image import fit_image
from ffrt.memory import Need, check_memory, free_bytes
from ffrt.request import Follow, Sampling
from ffrt.sampling import Array, Denoised
from ffrt.stages.decode import CHUNK_FRAMES, clip_frames, decode_chunks, encode_image, to_frames
from ffrt.stages.device_loop import UPDATE
from ffrt.stages.first_frame import first_frame_steps
from ffrt.stages.interpolate import GRAPHS, Method, Prompt, interpolation_steps
from ffrt.stages.keyframes import image_keyframe_steps, keyframe_steps
from ffrt.stages.step_cache import Network, StepCache
from ffrt.stages.text import Context, encode, open_tokenizer

Yielded = TypeVar("Yielded")
Returned = TypeVar("Returned")


class Stages:
    """The stages of a bundle as generators of denoising steps, each graph loaded once.

    Raises ProviderError for a provider that is not there or cannot do `cuda_graph`, BundleError for a tokenizer that is
    none.
    """

    def __init__(self, bundle: Bundle, provider: str, threads: int | None, memory: Memory, cuda_graph: bool) -> None:
        word = check_provider(provider, optimised_for(bundle))
        self._on_gpu, self._one_shape = word in ON_GPU, word in ONE_SHAPE
        if cuda_graph and not self._on_gpu:
            raise ProviderError(
                f"cuda_graph: expected a provider of {list(ON_GPU)}, got {word!r}; leave cuda_graph out"
            )
        self.bundle = bundle
        self._provider = provider
        self._threads = threads
        self._memory = memory
        self._cuda_graph = cuda_graph
        self._tokenizer = open_tokenizer(bundle.path(bundle.text.tokenizer))
        self._cancellation = Cancellation()
        self._under_way = 0
        self._graphs: dict[str, Graph] = {}
        self._update: Session | None = None
        self._free: int | None = None

    def graph(self, name: str) -> Graph:
        """The graph `name` of the bundle, loaded at the first call; with memory "low" in place of the one before."""
        if name not in self._graphs:
            if self._memory == "low":
                self._graphs.clear()
            self._graphs[name] = Graph(
                self.bundle,
                name,
                provider=self._provider,
                threads=self._threads,
                memory=self._memory,
                cuda_graph=self._cuda_graph and "unet" in name,  # what runs step after step
                cancellation=self._cancellation,
            )
        return self._graphs[name].bind(self._cancellation)

    def check_memory(self, shape: tuple[int, ...], fps: int, first: Sampling, then: Sampling) -> None:
        """Raise OutOfMemoryError if a request for keyframes of `shape` [T, 4, h, w] cannot fit.

        What is free counts as it was when no graph was open, since what the pipeline holds it can use.
        """
        if not self._graphs:
            self._free = free_bytes(self._on_gpu)
        height, width = (side * self.bundle.video.downscale for side in shape[2:])
        rows = (1 if first.guidance_scale == 0 else 2, 1 if then.guidance_scale == 0 else 2)
        need = Need(height, width, fps, rows, self._memory, self._on_gpu)
        check_memory(self.bundle, need, self._free)

    def update(self) -> Session:
        """What runs beside the networks on their device: :data:`ffrt.stages.device_loop.UPDATE`, a graph without
        weights. On one thread: a second pool would spin on the cores that the networks need.
        """
        if self._update is None:
            self._update = Session(
                UPDATE,
                "update",
                provider=self._provider if self._on_gpu else "cpu",
                threads=1,
                cancellation=self._cancellation,
                optimised_for=optimised_for(self.bundle),
            )
        return self._update

    def during(self, steps: Generator[Yielded, None, Returned]) -> Generator[Yielded, None, Returned]:
        """The same steps, which `cancel()` ends from the first to the last; with memory "low" no graph stays."""
        self._under_way += 1
        try:
            return (yield from steps)
        except Cancelled:
            self._cancellation = Cancellation()
            if self._memory == "low":
                self._graphs.clear()
            raise
        finally:
            self._under_way -= 1
            if self._under_way == 0 and self._cancellation.cancelled:
                self._cancellation = Cancellation()

    def cancel(self) -> None:
        """End what is under way, in the middle of a step; with nothing under way this does nothing."""
        cancellation = self._cancellation
        if self._under_way == 0:
            self._cancellation = Cancellation()
        cancellation.cancel()

    def unet(self, name: str, interval: int) -> Network:
        """The U-Net `name` for one run of a stage that has its deep levels run in every `interval`-th step."""
        whole = self.graph(name)
        return whole if interval == 1 else StepCache(whole, self.graph(SHALLOW[name]), interval)

    def text(self, prompt: str, negative_prompt: str | None) -> Context:
        """Text context of a prompt and, if there is one, a negative prompt."""
        graph = self.graph("text_encoder")
        return encode(graph, self._tokenizer, self.bundle, prompt, negative_prompt, fill=self._on_gpu)

    def first_frame(
        self, context: Context, sampling: Sampling, noise: Iterator[Array]
    ) -> Generator[Denoised, None, Array]:
        rows, mask = context.rows()
        steps = first_frame_steps(
            self.graph("image_unet"),
            self.bundle.keyframes,
            rows,
            mask,
            noise,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            sampler=sampling.sampler,
            update=self.update(),
        )
        return self.during(steps)

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
        steps = keyframe_steps(
            self.unet("keyframe_unet", sampling.cache_interval),
            self.bundle.keyframes,
            rows,
            mask,
            noise,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            sampler=sampling.sampler,
            update=self.update(),
        )
        return self.during(steps)

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
        steps = image_keyframe_steps(
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
            update=self.update(),
        )
        return self.during(steps)

    def interpolation(
        self,
        prompt: Prompt | None,
        latents: Array,
        one_pass: InterpolationPass,
        sampling: Sampling,
        noise: Iterator[Array],
        method: Method,
    ) -> Generator[Denoised, None, Array]:
        steps = interpolation_steps(
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
            update=self.update(),
        )
        return self.during(steps)

    def decode(self, latents: Array, graph: str = "movq_decoder") -> Iterator[NDArray[np.uint8]]:
        """Latents [N, 4, h, w] -> uint8 frames [n, H, W, 3] in order; "image_decoder" is the other graph that can."""
        temporal = self.bundle.video.temporal_decoder and graph == "movq_decoder"
        frames = clip_frames(len(latents)) if temporal else CHUNK_FRAMES
        return decode_chunks(self.graph(graph), latents, frames, fill=self._one_shape and not temporal)
