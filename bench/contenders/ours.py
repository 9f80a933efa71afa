"""`ffrt` itself as a contender."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.contenders.work import SAMPLER, STEPS, Inputs, Scale, Steps
from ffrt import Bundle, Context, Pipeline
from ffrt.backend.runner import Memory
from ffrt.sampling import Array, Sampling, normal_noise
from ffrt.stages.interpolate import noise_shape


class Ours:
    """`ffrt` over the graphs of a bundle, the plain exported ones or optimised ones; whole videos by a pipeline.

    Each graph is opened when it is first used.
    """

    def __init__(
        self, bundle: Bundle, provider: str, threads: int | None, memory: Memory = "fast", cuda_graph: bool = False
    ) -> None:
        self.bundle = bundle
        self._pipe = Pipeline(bundle, provider=provider, threads=threads, memory=memory, cuda_graph=cuda_graph)

    def keyframes(self, scale: Scale, inputs: Inputs) -> Steps:
        """Keyframes of the shape of `scale`, one yield per denoising step."""
        noise = normal_noise(0, 0, (self.bundle.keyframes.num_frames, *inputs.latents.shape[1:]))
        sampling = Sampling(STEPS, scale.keyframe_guidance, SAMPLER)
        return self._pipe.stages.keyframes(inputs.context.rows(), sampling, noise)

    def interpolation(self, scale: Scale, inputs: Inputs) -> Steps:
        """The first pass between the known latents, one yield per denoising step."""
        noise = normal_noise(0, 1, noise_shape("group", inputs.latents.shape))
        sampling = Sampling(STEPS, scale.interpolation_guidance, SAMPLER)
        first = self.bundle.interpolation.passes[0]
        return self._pipe.stages.interpolation(None, inputs.latents, first, sampling, noise)

    def decode(self, latents: Array) -> Iterator[Any]:
        """Frames uint8 [n, H, W, 3] of latents [N, 4, h, w], chunk by chunk."""
        return self._pipe.stages.decode(latents)

    def encode(self, prompt: str) -> Context:
        """Text context of a prompt."""
        return self._pipe.encode(prompt)

    def video(self, fps: int, prompt: str) -> int:
        """A whole video with the released sampling; returns its number of frames, none of which is kept."""
        return sum(1 for _ in self._pipe(prompt, fps=fps, num_inference_steps=STEPS, sampler=SAMPLER))

    def fast_video(self, fps: int, prompt: str) -> int:
        """The same with `preset="fast"`."""
        return sum(1 for _ in self._pipe(prompt, fps=fps, preset="fast"))
