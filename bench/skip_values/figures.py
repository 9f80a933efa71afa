"""What is recorded of the scores: means by skip value, paired differences with their error, and gains by what moves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.skip_values.measure import METRIC_NAMES, MORE, SCENES, Scores, with_skip

RIVALS = ("masked", "masked_sequence", "latent linear", "minterpolate")
"""What the group network is compared with, clip by clip."""
BESIDE = (SCENES, MORE)
"""How the kinds begin that are no part of the means."""
BASELINE = "latent linear"
"""What gains by kind are counted from."""


def gain(better: Sequence[float], worse: Sequence[float]) -> dict[str, float | None]:
    """Mean over clips of the difference between two methods, and its standard error; None for a single clip."""
    differences = [a - b for a, b in zip(better, worse, strict=True)]
    spread = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return {"mean": statistics.fmean(differences), "standard_error": spread}


def chosen(scores: Mapping[int, Scores], places: Sequence[int]) -> dict[int, Scores]:
    """The scores of some clips."""
    return {
        skip: {
            name: {metric: [values[place] for place in places] for metric, values in own.items()}
            for name, own in methods.items()
        }
        for skip, methods in scores.items()
    }


def compared(scores: Mapping[int, Scores], name: str, other: str, metric: str) -> list[dict[str, Any]]:
    """A method less another in a metric, by s."""
    return [{"s": skip, **gain(own[name][metric], own[other][metric])} for skip, own in scores.items()]


def means(scores: Mapping[int, Scores]) -> dict[str, list[dict[str, float]]]:
    """Means over clips by method and s."""
    names = list(next(iter(scores.values())))
    return {
        name: [
            {"s": skip, **{metric: statistics.fmean(own[name][metric]) for metric in METRIC_NAMES}}
            for skip, own in scores.items()
        ]
        for name in names
    }


def by_kind(scores: Mapping[int, Scores], kinds: Sequence[str]) -> dict[str, Any]:
    """Gain in PSNR of every method over linear blending of latents, by what moves and by s; `kinds` of every clip."""
    found: dict[str, Any] = {}
    for kind in dict.fromkeys(kinds):
        places = [place for place, one in enumerate(kinds) if one == kind]
        own = chosen(scores, places)
        methods = [name for name in next(iter(own.values())) if name != BASELINE]
        found[kind] = {
            "clips": len(places),
            "gains": {name: compared(own, name, BASELINE, "psnr_db") for name in methods},
        }
    return found


def figures(scores: Mapping[int, Scores], kinds: Sequence[str], fixed: Sequence[int]) -> dict[str, Any]:
    """What is recorded. Means and comparisons are of the first clips of the demo; scenes and more stand by kind."""
    own = chosen(scores, [place for place, kind in enumerate(kinds) if not kind.startswith(BESIDE)])
    methods = next(iter(own.values()))
    return {
        "means": means(own),
        "right_over": {with_skip(value): compared(own, "group", with_skip(value), "psnr_db") for value in fixed},
        "group_over": {
            name: {metric: compared(own, "group", name, metric) for metric in METRIC_NAMES}
            for name in RIVALS
            if name in methods
        },
        "kinds": by_kind(scores, kinds),
    }
