"""Every stage of one bundle, bound to its graph. Which stages run, and in which order, is said by the family."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.cancel import Cancellation
from ffrt.bundle import Bundle, InterpolationPass
from ffrt.errors import Cancelled
from ffrt.families import SHALLOW
from ffrt.media.image import fit_image
from ffrt.sampling import Array, Denoised, Sampling
from ffrt.stages.decode import CHUNK_FRAMES, clip_frames, decode_chunks, encode_image, to_frames
from ffrt.stages.denoising import DeviceNetwork, Network, Prompt
from ffrt.stages.first_frame import first_frame_steps
from ffrt.stages.graphs import LiveGraph, OpenGraphs
from ffrt.stages.in_time_order import TimeOrder
from ffrt.stages.interpolate import GRAPHS, Method, interpolation_steps
from ffrt.stages.keyframes import ImageConditioning, image_keyframe_steps, keyframe_steps
from ffrt.stages.step_cache import StepCache
from ffrt.stages.text import Context, encode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Denoising = Generator[Denoised, None, Array]
"""A stage under way: yields every denoising step, returns the latents."""


@dataclass
class UnderWay:
    """The requests of one pipeline that have begun and not ended."""

    _cancellations: list[Cancellation] = field(default_factory=list)  # without a lock, which a fork could catch held

    @contextlib.contextmanager
    def include(self, cancellation: Cancellation) -> Iterator[None]:
        """A block in which a request is under way."""
        self._cancellations.append(cancellation)
        try:
            yield
        finally:
            self._cancellations.remove(cancellation)

    def cancel(self) -> None:
        """Cancel them all."""
        for cancellation in list(self._cancellations):
            cancellation.cancel()


@dataclass(frozen=True)
class Stages:
    """The stages of a bundle for one request, which `cancellation` ends.

    Every denoising stage is a generator of `Denoised` steps. Letters and shapes as in the package docstring.
    """

    graphs: OpenGraphs
    tokenizer: Tokenizer
    under_way: UnderWay = field(default_factory=UnderWay)
    cancellation: Cancellation = field(default_factory=Cancellation)

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self.graphs.bundle

    def of(self, cancellation: Cancellation) -> Stages:
        """The same stages for another request."""
        return replace(self, cancellation=cancellation)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """A block that `Pipeline.cancel` ends as well; with memory "low" no graph stays open if it was ended."""
        try:
            with self.under_way.include(self.cancellation):
                yield
        except Cancelled:
            if self.graphs.settings.memory == "low":
                self.graphs.clear()
            raise

    def network(self, name: str) -> LiveGraph:
        """The graph `name`, opened by its first run."""
        return LiveGraph(self.graphs, name, self.cancellation)

    def unet(self, name: str, interval: int) -> Network | DeviceNetwork:
        """The U-Net `name` for one run of a stage, its deep levels in every `interval`-th step."""
        whole = self.network(name)
        return whole if interval == 1 else StepCache(whole, self.network(SHALLOW[name]), interval)

    def text(self, prompt: str, negative_prompt: str | None) -> Context:
        """Text context of a prompt and, if there is one, a negative prompt."""
        network = self.network("text_encoder")
        return encode(network, self.tokenizer, self.bundle.text, prompt, negative_prompt, fill=self.graphs.on_gpu)

    def first_frame(self, prompt: Prompt, sampling: Sampling, noise: Iterator[Array]) -> Denoising:
        """The latent [1, 4, 2h, 2w] of a first frame."""
        network, config = self.network("image_unet"), self.bundle.keyframes
        update, keep = self.graphs.update(), self.graphs.one_shape
        return first_frame_steps(network, config, prompt, noise, sampling, update, keep_rows=keep)

    def picture(self, latent: Array) -> NDArray[np.uint8]:
        """The latent [1, 4, 2h, 2w] of a first frame as uint8 [2H, 2W, 3]."""
        image = self.network("image_decoder")({"latent": latent})["image"]
        picture: NDArray[np.uint8] = to_frames(image, rounded=False)[0]
        return picture

    def encode_picture(self, picture: NDArray[np.uint8], shape: tuple[int, ...]) -> Array:
        """A picture uint8 [H, W, 3] as the latent [4, h, w] that keyframes of `shape` [T, 4, h, w] follow."""
        height, width = (side * self.bundle.video.downscale for side in shape[2:])
        latent: Array = self.encode_frames(fit_image(picture, height, width)[None])[0]
        return latent

    def encode_frames(self, frames: NDArray[np.uint8]) -> Array:
        """Frames uint8 [N, H, W, 3] as latents float32 [N, 4, h, w]."""
        return encode_image(self.network("movq_encoder"), frames)

    def keyframes(self, prompt: Prompt, sampling: Sampling, noise: Iterator[Array]) -> Denoising:
        """Keyframes [T, 4, h, w] of text alone."""
        network = self.unet("keyframe_unet", sampling.cache_interval)
        update, keep = self.graphs.update(), self.graphs.one_shape
        return keyframe_steps(network, self.bundle.keyframes, prompt, noise, sampling, update, keep_rows=keep)

    def image_keyframes(
        self,
        prompt: Prompt,
        sampling: Sampling,
        image: ImageConditioning,
        frame: Array,
        frame_noise: Array,
        noise: Iterator[Array],
    ) -> Denoising:
        """Keyframes [T, 4, h, w] that follow a first frame, given as its latent [4, h, w]."""
        network, config = self.unet("keyframe_unet", sampling.cache_interval), self.bundle.keyframes
        update, keep = self.graphs.update(), self.graphs.one_shape
        return image_keyframe_steps(
            network, config, prompt, frame, frame_noise, noise, sampling, image, update, keep_rows=keep
        )

    def interpolation(
        self,
        prompt: Prompt | None,
        latents: Array,
        one_pass: InterpolationPass,
        sampling: Sampling,
        noise: Iterator[Array],
        method: Method = "group",
    ) -> Denoising:
        """One pass: latents [T, 4, h, w] -> [4T-3, 4, h, w]."""
        return interpolation_steps(
            self.unet(GRAPHS[method], sampling.cache_interval),
            self.bundle.interpolation,
            one_pass,
            latents,
            noise,
            sampling,
            method=method,
            prompt=prompt,
            update=self.graphs.update(),
            keep_rows=self.graphs.one_shape,
        )

    def interpolation_in_time_order(
        self,
        prompt: Prompt | None,
        count: int,
        one_pass: InterpolationPass,
        sampling: Sampling,
        noise: Iterator[Array],
    ) -> TimeOrder:
        """One pass over `count` latents that gives what `interpolation` gives, the first frames first."""
        return TimeOrder(
            self.network(GRAPHS["group"]),
            self.bundle.interpolation,
            one_pass,
            count,
            noise,
            sampling,
            prompt=prompt,
            update=self.graphs.update(),
            keep_rows=self.graphs.one_shape,
        )

    @property
    def in_time_order(self) -> bool:
        """Whether interpolation and decoding may take turns; with memory "low" each turn would read weights anew."""
        return self.graphs.settings.memory == "fast"

    def decode(self, latents: Array, graph: str = "movq_decoder") -> Iterator[NDArray[np.uint8]]:
        """Latents [N, 4, h, w] -> uint8 frames [n, H, W, 3] in order, chunk by chunk.

        `graph` is "movq_decoder", or "image_decoder" for the latent of a first frame.
        """
        return self.decode_pieces(iter([latents]), len(latents), graph)

    def decode_pieces(
        self, pieces: Iterator[Array], count: int, graph: str = "movq_decoder"
    ) -> Iterator[NDArray[np.uint8]]:
        """As `decode`, for `count` latents that come in pieces [n, 4, h, w]: a chunk as soon as it is there."""
        temporal = self.bundle.video.temporal_decoder and graph == "movq_decoder"
        frames = clip_frames(count) if temporal else CHUNK_FRAMES
        fill = self.graphs.one_shape and not temporal
        with self.request():
            yield from decode_chunks(self.network(graph), pieces, frames, fill=fill)
