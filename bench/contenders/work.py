"""What contenders do stage by stage: the sizes, the inputs that all share, and how a stage is called again and again.

Nothing here needs PyTorch, so that the peak memory of a process that runs `ffrt` is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from bench.harness.record import BenchError
from ffrt import Bundle, Context
from ffrt.sampling import Array, Denoised

Stage = Literal["keyframe_step", "interpolation_step", "decode_frame", "text"]
STAGES: tuple[Stage, ...] = ("keyframe_step", "interpolation_step", "decode_frame", "text")
DENOISING: tuple[Stage, ...] = ("keyframe_step", "interpolation_step")

PROMPT = "a red circle moving right on a black background"
PROMPTS = tuple(
    PROMPT.replace("red", colour) for colour in ("blue", "green", "yellow", "purple", "white", "orange", "pink", "cyan")
)
"""Prompts of whole videos, one after the other: a pipeline keeps what it computed for the prompt before."""
STEPS, SAMPLER = 50, "ddpm"
"""Sampling as released, for keyframes and interpolation alike (paper section 5; `t2v_pipeline.py` of 1.0)."""
DECODED = 8
"""Frames that are decoded together where decoding is timed."""

Steps = Generator[Denoised, None, Array]


@dataclass(frozen=True)
class Scale:
    """Sizes of the work, as JSON can hold them.

    Latent side, keyframes between which is interpolated (G + 1), number and width of the tokens of a random context
    (None: the encoded prompt), and guidance, where 0 runs one row instead of two.
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
class Inputs:
    """What all contenders start from: text context, keyframe latents [G+1, 4, h, w], latents to decode [N, 4, h, w]."""

    context: Context
    latents: Array
    pictures: Array


def inputs_of(scale: Scale, bundle: Bundle, encode: Callable[[str], Context]) -> Inputs:
    """Random inputs of a scale, the same on every call; `encode` is called where the scale has no random context."""
    rng = np.random.default_rng(0)
    frame = (bundle.video.latent_channels, scale.side, scale.side)
    latents = rng.standard_normal((scale.known, *frame), dtype=np.float32)
    pictures = rng.standard_normal((DECODED, *frame), dtype=np.float32)
    if scale.tokens is None:
        return Inputs(encode(PROMPT), latents, pictures)
    tokens, width = scale.tokens
    context = rng.standard_normal((1, tokens, width), dtype=np.float32)
    null = rng.standard_normal(width, dtype=np.float32)
    return Inputs(Context(context, np.ones((1, tokens), np.bool_), null), latents, pictures)


class Contender(Protocol):
    """A runner of the networks of a bundle: every stage with the sampling of `STEPS`, and a whole video."""

    def keyframes(self, scale: Scale, inputs: Inputs) -> Steps:
        """Keyframes of the shape of `scale`, one yield per denoising step."""

    def interpolation(self, scale: Scale, inputs: Inputs) -> Steps:
        """The first pass between the known latents, one yield per denoising step."""

    def decode(self, latents: Array) -> Iterator[Any]:
        """Frames uint8 [n, H, W, 3] of latents [N, 4, h, w], chunk by chunk."""

    def encode(self, prompt: str) -> Context:
        """Text context of a prompt."""

    def video(self, fps: int, prompt: str) -> int:
        """A whole video with the released sampling; returns its number of frames, none of which is kept."""


def runner(contender: Contender, stage: Stage, scale: Scale, inputs: Inputs, row: int) -> Callable[[], object]:
    """A stage of a contender to be called again and again: `row` denoising steps, `DECODED` frames, or one prompt.

    The first step runs here and not in a call: what is computed once per request, or at the first run of a session, is
    no cost of a step. A call that would need more steps than `STEPS` raises BenchError.
    """
    if stage == "decode_frame":
        return lambda: sum(1 for _ in contender.decode(inputs.pictures))
    if stage == "text":
        return lambda: contender.encode(PROMPT)
    steps = opened(contender, stage, scale, inputs)
    next(steps)
    left = iter(range(STEPS - 1))

    def run() -> None:
        for _ in range(row):
            if next(left, None) is None:
                raise BenchError(f"{stage}: expected at most {STEPS} steps; lower --runs or --row")
            next(steps)

    return run


def opened(contender: Contender, stage: Stage, scale: Scale, inputs: Inputs) -> Steps:
    """The denoising of a stage, before its first step."""
    denoise = {"keyframe_step": contender.keyframes, "interpolation_step": contender.interpolation}
    return denoise[stage](scale, inputs)


def units(stage: Stage, row: int) -> int:
    """How many steps, frames or prompts one call of `runner` holds."""
    return {"keyframe_step": row, "interpolation_step": row, "decode_frame": DECODED, "text": 1}[stage]
