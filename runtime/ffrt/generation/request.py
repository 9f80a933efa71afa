"""A request: every option of a video, once. The command line, `Options` and the docs are made from its fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from ffrt import checks
from ffrt.sampling import MAX_STEPS, SOLVERS
from ffrt.sampling.presets import PRESETS

if TYPE_CHECKING:
    from ffrt.media.image import Picture

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Option:
    """What a field of `Request` is to a user: its help, its unit, its range or choices, and its flag.

    `flag` is the name on the command line without dashes, where that is not the field's own; None keeps the field off
    the command line.
    """

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: Collection[str] = ()
    flag: str | None = ""
    metavar: str = "N"


def option_field(default: Any, *, compare: bool = True, **facts: Any) -> Any:
    """A field of a request with its default and what it is to a user: the arguments of `Option`."""
    return field(default=default, compare=compare, metadata={"option": Option(**facts)})


@dataclass(frozen=True)
class Request:
    """One video: a prompt and its options. None means the bundle's default, and 0 means 0.

    Checks what can be checked without a bundle; `Plan.of` checks the rest. Raises RequestError, which names the field,
    what was expected and what came.
    """

    prompt: str = field(metadata={"option": Option("what the video shows", flag=None)})
    _: KW_ONLY
    negative_prompt: str | None = option_field(None, help="what the video does not show; empty is none", metavar="TEXT")
    image: Picture | None = option_field(
        None,
        compare=False,
        help="picture to begin with, where the bundle's keyframes follow one: a file, uint8 [H, W, 3] or a PIL image",
        metavar="FILE",
    )
    motion: str | int | None = option_field(
        None,
        help="how much moves, where keyframes follow a picture: low, medium, high, extreme, or 0 to 1000",
        low=0,
        high=1000,
        metavar="NAME",
    )
    fps: int = option_field(
        8, help="frame rate, one of the bundle's: 2, 8 or 30 for the demo (default: 8)", unit="frames per second"
    )
    num_inference_steps: int | None = option_field(
        None,
        help="denoising steps of keyframes and of each interpolation pass (default: the bundle's)",
        unit="steps",
        low=1,
        high=MAX_STEPS,
        flag="steps",
    )
    guidance_scale: float | None = option_field(
        None,
        help="guidance scale w of the keyframes, (w + 1) c - w u; 0 is none (default: the bundle's)",
        low=0,
        high=1e6,
        flag="guidance",
        metavar="W",
    )
    image_guidance_scale: float | None = option_field(
        None,
        help="how closely keyframes follow the picture; 1 is no guidance",
        low=0,
        high=1e6,
        flag="image-guidance",
        metavar="W",
    )
    interpolation_guidance_scale: float | None = option_field(
        None,
        help="guidance scale of the interpolated frames (default: the bundle's)",
        low=0,
        high=1e6,
        flag="interpolation-guidance",
        metavar="W",
    )
    guidance_interval: tuple[float, float] | None = option_field(
        None,
        help="guidance only in steps at times from LOW to HIGH, of 0 (clean) to 1000; the others are cheaper",
        metavar="LOW,HIGH",
    )
    seed: int = option_field(0, help="the same seed gives the same video (default: 0)", low=0, high=MAX_SEED)
    height: int | None = option_field(None, help="height (default: the bundle's)", unit="pixels", flag=None)
    width: int | None = option_field(None, help="width (default: the bundle's)", unit="pixels", flag=None)
    sampler: str | None = option_field(
        None, help=f"{', '.join(SOLVERS)} (default: the bundle's)", choices=tuple(SOLVERS), metavar="NAME"
    )
    preset: str | None = option_field(
        None,
        help="quality (the bundle's own steps, the default) or fast (fewer)",
        choices=tuple(PRESETS),
        metavar="NAME",
    )
    cache_interval: int | None = option_field(
        None,
        help="run the deep levels of the networks in every N-th step, with a bundle of 'python -m graphs cache'",
        unit="steps",
        low=1,
        high=MAX_STEPS,
    )

    def __post_init__(self) -> None:
        checks.prompt("prompt", self.prompt)
        object.__setattr__(self, "negative_prompt", checks.negative_prompt(self.negative_prompt))
        checks.whole("seed", self.seed, 0, MAX_SEED)
        for name in ("num_inference_steps", "cache_interval"):
            if getattr(self, name) is not None:
                checks.whole(name, getattr(self, name), 1, MAX_STEPS)
        for name in ("guidance_scale", "image_guidance_scale", "interpolation_guidance_scale"):
            if getattr(self, name) is not None:
                checks.guidance(name, getattr(self, name))
        if self.guidance_interval is not None:
            times = checks.interval("guidance_interval", self.guidance_interval, 0, MAX_STEPS)
            object.__setattr__(self, "guidance_interval", times)
        if self.sampler is not None:
            checks.choice("sampler", self.sampler, SOLVERS)
        if self.preset is not None:
            checks.choice("preset", self.preset, PRESETS)


class Options(TypedDict, total=False):
    """The keyword arguments of `Pipeline.__call__` and `Pipeline.generate`: the fields of `Request` but the prompt."""

    negative_prompt: str | None
    image: Picture | None
    motion: str | int | None
    fps: int
    num_inference_steps: int | None
    guidance_scale: float | None
    image_guidance_scale: float | None
    interpolation_guidance_scale: float | None
    guidance_interval: tuple[float, float] | None
    seed: int
    height: int | None
    width: int | None
    sampler: str | None
    preset: str | None
    cache_interval: int | None


def options(kind: type[Any] = Request) -> Mapping[str, Option]:
    """Every field of `Request`, or of another dataclass like it, and what it is to a user, in order."""
    return {one.name: one.metadata["option"] for one in dataclasses.fields(kind)}
