"""Settings of the denoising, and which of them are measured on what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.datasets.prompts import Case, cases
from bench.datasets.shapes import held_out
from ffrt import Bundle


@dataclass(frozen=True)
class Setting:
    """How one stage denoises."""

    sampler: str
    num_inference_steps: int
    cache_interval: int = 1

    @property
    def runs(self) -> tuple[int, int]:
        """How often the whole network runs per video, and how often its outermost level alone."""
        whole = -(-self.num_inference_steps // self.cache_interval)
        return whole, self.num_inference_steps - whole


KEYFRAMES = (
    Setting("dpm++", 15),
    Setting("dpm++", 10),
    Setting("dpm++", 8),
    Setting("dpm++", 6),
    Setting("dpm++", 4),
    Setting("ddim", 10),
    Setting("dpm++", 10, cache_interval=2),
)
INTERPOLATION = (Setting("ddim", 4), Setting("ddim", 2), Setting("ddim", 1), Setting("ddpm", 50))
QUICK = ((KEYFRAMES[1], KEYFRAMES[6]), INTERPOLATION[1:3])
LEAST_STEPS = 8
"""Fewer keyframe steps are measured but never chosen: the demo's pictures need fewer than real ones."""


@dataclass(frozen=True)
class Plan:
    """What is measured; the bundle's default comes first in both lists.

    The first `references` prompts are also generated in `reference_steps` steps of each deterministic sampler.
    """

    keyframes: tuple[Setting, ...]
    interpolation: tuple[Setting, ...]
    prompts: tuple[Case, ...]
    clips: tuple[Any, ...]
    references: int
    reference_steps: int


def plan_of(bundle: Bundle, prompts: int, split: str, clips: int, quick: bool) -> Plan:
    """The whole plan or, `quick`, one prompt, one clip and few settings. Raises BenchError for a bad set or count."""
    first, then = bundle.keyframes, bundle.interpolation
    defaults = [Setting(config.sampler, config.num_inference_steps) for config in (first, then)]
    lists = QUICK if quick else (KEYFRAMES, INTERPOLATION)
    keyframes, between = (tuple(dict.fromkeys([own, *others])) for own, others in zip(defaults, lists, strict=True))
    return Plan(
        keyframes,
        between,
        tuple(cases(1 if quick else prompts, split)),
        tuple(held_out(1 if quick else clips, split)),
        1 if quick else 2,
        20 if quick else 200,
    )
