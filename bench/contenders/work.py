"""What the contenders of `bench.pipeline_speed` do, stage by stage, and how `ffrt` does it.

Nothing here needs PyTorch, so that the peak memory of a process that runs `ffrt` is its own; `bench.contenders.eager`
is the other contender.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ffrt import Bundle, Context, Pipeline
from ffrt.backend.session import Memory
from ffrt.sampling import Array, Denoised, Sampling, normal_noise
from ffrt.stages.interpolate import noise_shape

Stage = Literal["keyframe_step", "interpolation_step", "decode_frame", "text"]
STAGES: tuple[Stage, ...] = ("keyframe_step", "interpolation_step", "decode_frame", "text")

PROMPT = "a red circle moving right on a black background"
PROMPTS = tuple(
    PROMPT.replace("red", colour) for colour in ("blue", "green", "yellow", "purple", "white", "orange", "pink", "cyan")
)
"""What whole videos are made of, one after the other: a pipeline keeps what it worked out of the prompt before."""
STEPS, SAMPLER = 50, "ddpm"
"""Sampling as released, for keyframes and interpolation alike (paper section 5; `t2v_pipeline.py` of 1.0)."""
DECODED = 8
"""Frames that are decoded together where decoding is timed."""

Steps = Generator[Denoised, None, Array]


@dataclass(frozen=True)
class Scale:
    """Sizes of the work: latent side, keyframes between which is interpolated (G + 1), tokens and their width of a
    random context (None: the encoded prompt), and guidance, where 0 runs one row instead of two.
    """

    name: str
    side: int
    known: int
    tokens: tuple[int, int] | None
    keyframe_guidance: float
    interpolation_guidance: float


SMALL = Scale("small", 32, 8, (77, 256), 5.0, 0.25)
"""The prototype's shapes (`export.models.configs`): 16 keyframes and 7 groups of 32 x 32 latents, both guidance
rows."""


def scale_of(bundle: Bundle) -> Scale:
    """A bundle's own sizes and guidance."""
    keyframes, between, video = bundle.keyframes, bundle.interpolation, bundle.video
    side = video.height // video.downscale
    return Scale(bundle.name, side, keyframes.num_frames, None, keyframes.guidance_scale, between.guidance_scale)


@dataclass(frozen=True)
class Given:
    """The inputs that all contenders share: text context, keyframe latents [G+1, 4, h, w], latents to decode."""

    context: Context
    latents: Array
    pictures: Array


def given_of(scale: Scale, bundle: Bundle, encode: Callable[[str], Context]) -> Given:
    """Random inputs of a scale, the same on every call; `encode` is asked where the scale has no random context."""
    rng = np.random.default_rng(0)
    frame = (bundle.video.latent_channels, scale.side, scale.side)
    latents = rng.standard_normal((scale.known, *frame), dtype=np.float32)
    pictures = rng.standard_normal((DECODED, *frame), dtype=np.float32)
    if scale.tokens is None:
        return Given(encode(PROMPT), latents, pictures)
    tokens, width = scale.tokens
    context = rng.standard_normal((1, tokens, width), dtype=np.float32)
    null = rng.standard_normal(width, dtype=np.float32)
    return Given(Context(context, np.ones((1, tokens), np.bool_), null), latents, pictures)


class Contender(Protocol):
    """One way to run the networks of a bundle: every stage with the sampling of `STEPS`, and a whole video."""

    def keyframes(self, scale: Scale, given: Given) -> Steps: ...
    def interpolation(self, scale: Scale, given: Given) -> Steps: ...
    def decode(self, latents: Array) -> Iterator[Any]: ...
    def encode(self, prompt: str) -> Context: ...
    def video(self, fps: int, prompt: str) -> int: ...


class Ours:
    """`ffrt` over the graphs of a bundle, the plain exported ones or optimised ones: its stages as a pipeline has them,
    and whole videos by a pipeline of their own. Each graph is opened by its first use.
    """

    def __init__(
        self, bundle: Bundle, provider: str, threads: int | None, memory: Memory = "fast", cuda_graph: bool = False
    ) -> None:
        self.bundle = bundle
        self._pipe = Pipeline(bundle, provider=provider, threads=threads, memory=memory, cuda_graph=cuda_graph)

    def keyframes(self, scale: Scale, given: Given) -> Steps:
        """Keyframes of the shape of `scale`, one yield for each step."""
        noise = normal_noise(0, 0, (self.bundle.keyframes.num_frames, *given.latents.shape[1:]))
        return self._pipe.stages.keyframes(
            given.context.rows(), Sampling(STEPS, scale.keyframe_guidance, SAMPLER), noise
        )

    def interpolation(self, scale: Scale, given: Given) -> Steps:
        """The first pass between the known latents, one yield for each step."""
        noise = normal_noise(0, 1, noise_shape("group", given.latents.shape))
        sampling = Sampling(STEPS, scale.interpolation_guidance, SAMPLER)
        first = self.bundle.interpolation.passes[0]
        return self._pipe.stages.interpolation(None, given.latents, first, sampling, noise)

    def decode(self, latents: Array) -> Iterator[Any]:
        """Frames uint8 [n, H, W, 3] of latents [N, 4, h, w], chunk by chunk."""
        return self._pipe.stages.decode(latents)

    def encode(self, prompt: str) -> Context:
        """Text context of a prompt."""
        return self._pipe.encode(prompt)

    def video(self, fps: int, prompt: str) -> int:
        """A whole video with the released sampling; returns its frames, none of which is kept."""
        return sum(1 for _ in self._pipe(prompt, fps=fps, num_inference_steps=STEPS, sampler=SAMPLER))

    def fast_video(self, fps: int, prompt: str) -> int:
        """The same with the preset for speed."""
        return sum(1 for _ in self._pipe(prompt, fps=fps, preset="fast"))


def runner(contender: Contender, stage: Stage, scale: Scale, given: Given, row: int) -> Callable[[], object]:
    """A stage of a contender to be called again and again: `row` denoising steps, `DECODED` frames, or one prompt.

    The first step is made here and not in a call: what is worked out once a request or at the first run of a session
    is no cost of a step. Raises ValueError for a call that would need more steps than `STEPS`.
    """
    if stage == "decode_frame":
        return lambda: sum(1 for _ in contender.decode(given.pictures))
    if stage == "text":
        return lambda: contender.encode(PROMPT)
    steps = opened(contender, stage, scale, given)
    next(steps)
    left = iter(range(STEPS - 1))

    def run() -> None:
        for _ in range(row):
            if next(left, None) is None:
                raise ValueError(f"a stage has {STEPS} steps, and more were asked for; lower --runs or --row")
            next(steps)

    return run


def opened(contender: Contender, stage: Stage, scale: Scale, given: Given) -> Steps:
    """The denoising of a stage, before its first step."""
    ways = {"keyframe_step": contender.keyframes, "interpolation_step": contender.interpolation}
    return ways[stage](scale, given)


def units(stage: Stage, row: int) -> int:
    """What one call of `runner` holds of what is counted: steps, frames or prompts."""
    return {"keyframe_step": row, "interpolation_step": row, "decode_frame": DECODED, "text": 1}[stage]


def once(argument: dict[str, Any]) -> None:
    """Open one contender in this process and run one stage of it, or a whole video; for measuring its memory.

    `argument`: `contender` ("eager" or other), `bundle`, `scale` (fields of Scale), `networks` ("demo" or "small"),
    `stage` or else `fps`, `threads`, `provider`, `memory`.
    """
    from ffrt import open_bundle

    bundle = open_bundle(Path(argument["bundle"]))
    fields = argument["scale"]
    scale = Scale(**{**fields, "tokens": None if fields["tokens"] is None else tuple(fields["tokens"])})
    contender: Contender
    if argument["contender"] == "eager":
        from bench.contenders.eager import Eager, networks_of

        contender = Eager(bundle, networks_of(argument["networks"], bundle.folder), argument["threads"])
    else:
        contender = Ours(bundle, argument["provider"], argument["threads"], argument["memory"])
    if "fps" in argument:
        if isinstance(contender, Ours):
            contender.fast_video(argument["fps"], PROMPT)
        else:
            contender.video(argument["fps"], PROMPT)
        return
    given = given_of(scale, bundle, contender.encode)
    runner(contender, argument["stage"], scale, given, 1)()
