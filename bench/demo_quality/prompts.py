"""Clips of prompts, judged by the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bench.datasets.judge import ATTRIBUTES, Verdict, judge
from bench.datasets.prompts import Case
from bench.harness.pictures import Row
from bench.harness.run import progress
from bench.metrics.base import Frames
from bench.metrics.intervals import share


@dataclass(frozen=True)
class Sampling:
    """How a bench samples; None is the bundle's default."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    interpolation_guidance_scale: float | None = None
    sampler: str | None = None
    preset: str | None = None


class Clip(Protocol):
    """What a pipeline returns."""

    @property
    def frames(self) -> Frames:
        """All frames, uint8 `[N, H, W, 3]`."""


class Generator(Protocol):
    """The part of `ffrt.Pipeline` that makes a clip of a prompt."""

    def __call__(
        self,
        prompt: str,
        *,
        fps: int,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        interpolation_guidance_scale: float | None,
        sampler: str | None,
        preset: str | None,
    ) -> Clip:
        """Make a clip."""


def score_prompts(pipe: Generator, prompts: Sequence[Case], sampling: Sampling) -> tuple[dict[str, Any], list[Row]]:
    """Generate the keyframes of each case at 2 fps and judge them; also the rows of a contact sheet."""
    verdicts, rows = [], []
    for index in progress("prompts", len(prompts)):
        case = prompts[index]
        frames = pipe(case.prompt, fps=2, seed=case.seed, **asdict(sampling)).frames
        verdict = judge(frames, case)
        verdicts.append(verdict)
        wrong = [f"{name}: {getattr(verdict.seen, name)}" for name, ok in verdict.right.items() if not ok]
        wrong += verdict.seen.faults
        rows.append(Row(case.prompt + (" -> " + ", ".join(wrong) if wrong else ""), frames, verdict.good))
    return summed_up(verdicts), rows


def summed_up(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Shares of right prompts by attribute and by action, and every prompt that is not right."""
    scores = {name: share([one.right[name] for one in verdicts if name in one.right]) for name in ATTRIBUTES}
    scores["all"] = share([one.good for one in verdicts])
    scores["strict"] = share([one.strictly_good for one in verdicts])
    actions = sorted({one.case.action for one in verdicts})
    return {
        "scores": scores,
        "action_by_action": {
            action: share([one.right["action"] for one in verdicts if one.case.action == action]) for action in actions
        },
        "failures": [
            {"case": asdict(one.case), "seen": asdict(one.seen), "right": one.right} for one in verdicts if not one.good
        ],
        "strict_failures": [
            {"prompt": one.case.prompt, "seed": one.case.seed, "faults": list(one.strict)}
            for one in verdicts
            if one.strict
        ],
    }
