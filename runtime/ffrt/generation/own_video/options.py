"""Every option of interpolating a video of the caller, once: arguments, flags of the command and their help."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from fractions import Fraction
from typing import TypedDict

import numpy as np

from ffrt import checks
from ffrt.checks import describe
from ffrt.errors import RequestError
from ffrt.generation.request import MAX_SEED, option_field
from ffrt.media.copies import KINDS
from ffrt.sampling import MAX_STEPS, SOLVERS
from ffrt.sampling.presets import PRESETS

TIMES = {4: 1, 16: 2}
"""Frames made of one -> passes."""
TRAINED_RATE, TRAINED_SKIPS = 24, (1, 12)
"""Skip values count frames of 24 fps between neighbours of the finished clip; networks were trained with these."""
MAX_SKIP = 19
"""The last row of the table in the released networks."""


@dataclass(frozen=True)
class OwnVideoRequest:
    """How a video is interpolated. None means the bundle's default.

    Checks what can be checked without a bundle and a video. Raises RequestError, which names the field.
    """

    _: KW_ONLY
    times: int = option_field(
        4, help="frames made of each one: 4 or 16 (default: 4)", choices=tuple(str(times) for times in TIMES)
    )
    keep_originals: bool = option_field(
        True, help="give the video's own frames back untouched, not as the autoencoder sees them (default: yes)"
    )
    constant_rate: bool = option_field(False, help="make a varying frame rate constant (default: refuse it)")
    cuts: str | Collection[int] = option_field(
        "auto",
        help="where shots begin, across which nothing is drawn: auto, none, or numbers of frames such as 120,245",
        metavar="WHERE",
    )
    skip_frames: int | None = option_field(
        None,
        help="frames of 24 fps between two of the finished video, as the network is told (default: by its rate)",
        low=0,
        high=MAX_SKIP,
    )
    drop: Collection[str] = option_field(
        (), help="leave out what the output cannot hold: audio or subtitle", choices=tuple(KINDS), metavar="KIND"
    )
    prompt: str | None = option_field(
        None, help="what the video shows, for networks that read text (Kandinsky Video 1.1)", metavar="TEXT"
    )
    num_inference_steps: int | None = option_field(
        None, help="denoising steps of a pass (default: the bundle's)", low=1, high=MAX_STEPS, flag="steps"
    )
    guidance_scale: float | None = option_field(
        None, help="guidance scale, 0 is none (default: the bundle's)", low=0, high=1e6, flag="guidance", metavar="W"
    )
    seed: int = option_field(0, help="the same seed draws the same frames (default: 0)", low=0, high=MAX_SEED)
    sampler: str | None = option_field(
        None, help=f"{', '.join(SOLVERS)} (default: the bundle's)", choices=tuple(SOLVERS), metavar="NAME"
    )
    preset: str | None = option_field(
        None, help="quality (the default) or fast (fewer steps)", choices=tuple(PRESETS), metavar="NAME"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.times, (int, np.integer)) or isinstance(self.times, bool) or self.times not in TIMES:
            raise RequestError(f"times: expected 4 or 16, got {describe(self.times)}")
        for name in ("keep_originals", "constant_rate"):
            checks.flag(name, getattr(self, name))
        _check_cuts(self.cuts)
        if self.skip_frames is not None:
            checks.whole("skip_frames", self.skip_frames, 0, MAX_SKIP)
        for kind in _listed("drop", self.drop, f"a list of {list(KINDS)}"):
            checks.choice("drop", kind, KINDS)
        if self.prompt is not None:
            checks.prompt("prompt", self.prompt)
        if self.num_inference_steps is not None:
            checks.whole("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        if self.guidance_scale is not None:
            checks.guidance("guidance_scale", self.guidance_scale)
        checks.whole("seed", self.seed, 0, MAX_SEED)
        if self.sampler is not None:
            checks.choice("sampler", self.sampler, SOLVERS)
        if self.preset is not None:
            checks.choice("preset", self.preset, PRESETS)

    @property
    def passes(self) -> int:
        """How often the network goes over the video."""
        return TIMES[self.times]

    @property
    def given_cuts(self) -> frozenset[int] | None:
        """Numbers of frames that begin a shot; None where cuts are to be found."""
        if isinstance(self.cuts, str):
            return None if self.cuts == "auto" else frozenset()
        return frozenset(self.cuts)

    def skip_of(self, rate: Fraction) -> int:
        """What the network is told for a pass whose result plays at `rate`: 3 at 8 fps, 1 from 24 fps on."""
        if self.skip_frames is not None:
            return int(self.skip_frames)
        least, most = TRAINED_SKIPS
        return max(least, min(most, round(TRAINED_RATE / rate)))


class OwnVideoOptions(TypedDict, total=False):
    """The keyword arguments of `Pipeline.interpolate_video`: the fields of `OwnVideoRequest`."""

    times: int
    keep_originals: bool
    constant_rate: bool
    cuts: str | Collection[int]
    skip_frames: int | None
    drop: Collection[str]
    prompt: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    seed: int
    sampler: str | None
    preset: str | None


def _check_cuts(cuts: object) -> None:
    if isinstance(cuts, str):
        checks.choice("cuts", cuts, ("auto", "none"))
        return
    for number in _listed("cuts", cuts, "'auto', 'none' or numbers of frames"):
        checks.whole("cuts", number, 0, 2**31 - 1)


def _listed(name: str, value: object, wanted: str) -> list[object]:
    """What is in a collection that is no text."""
    if isinstance(value, Collection) and not isinstance(value, (str, bytes)):
        try:
            return list(value)
        except Exception as error:  # of an object of anybody, or an array without axes
            raise RequestError(f"{name}: expected {wanted}, got {describe(value)}") from error
    raise RequestError(f"{name}: expected {wanted}, got {describe(value)}")
