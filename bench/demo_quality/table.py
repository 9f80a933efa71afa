"""The tables of `bench.demo_quality`, made from its record alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.demo_quality.outline_table import one_step_table, outline_table
from bench.harness import record as records
from bench.harness.words import markdown, number, verdict

METHODS = {
    "ffrt": "**ffrt**",
    "latent linear": "linear blending of latents",
    "linear": "linear blending",
    "minterpolate": "ffmpeg minterpolate (mci)",
    "hold": "hold",
    "autoencoder": "true frames through the autoencoder (the bound)",
    "true linear": "linear blending of rendered keyframes",
    "true minterpolate": "ffmpeg minterpolate of rendered keyframes",
    "true hold": "hold of rendered keyframes",
}
UNTARGETED = {
    "size": "size right, where the prompt names one",
    "all": "all of these right at once",
    "strict": "and outline, size and turn kept",
}


def interval(score: Mapping[str, Any]) -> str:
    """The bounds of a share in percent, in brackets."""
    return f" ({100 * score['low']:.0f} to {100 * score['high']:.0f})"


def target_rows(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """Measured against target, with the 95 % interval of a share, then the shares without a target."""
    scores = record.get("prompts", {}).get("scores", {})
    for item in record["targets"]:
        measured = number(item["measured"], item["unit"])
        if item["unit"] == "%":
            measured += interval(scores[item["name"].removesuffix(" right")])
        bound = ("at least " if item["least"] else "at most ") + number(item["target"], item["unit"])
        yield [item["name"], measured, "above 0" if item["target"] == 0 else bound, verdict(item)]
    for name, words in UNTARGETED.items():
        if name in scores and scores[name]["of"]:
            yield [words, number(100 * scores[name]["share"], "%") + interval(scores[name]), "", ""]


def target_table(record: Mapping[str, Any]) -> list[str]:
    """Measured against target."""
    return markdown(["", "measured", "target", "met"], target_rows(record))


def interpolation_table(record: Mapping[str, Any]) -> list[str]:
    """PSNR of the frames between, per method, over all clips and over those that move; empty when not measured."""
    if "interpolation" not in record:
        return []
    measured = record["interpolation"]
    heads = [words for passes in measured for words in (f"{passes}, all", "moving")]
    rows = []
    for name, words in METHODS.items():
        values = [found[kind][name] for found in measured.values() for kind in ("all", "moving")]
        rows.append([words, *("" if value is None else f"{value:.1f}" for value in values)])
    return markdown(["frames between, PSNR in dB", *heads], rows)


def conditions(record: Mapping[str, Any]) -> list[str]:
    """The prompts, the clips, the machine and the versions."""
    phrases = []
    if "prompts" in record:
        phrases.append(f"{record['prompts']['scores']['all']['of']} prompts of the {record['split']} set")
    if "movq" in record:
        phrases.append(f"{record['movq']['clips']} held-out clips")
    chosen = [f"{name} {value}" for name, value in record["sampling"].items() if value is not None]
    phrases.append(", ".join(chosen) if chosen else "the bundle's sampling defaults")
    phrases += [*records.conditions(record), f"ffrt {record['environment']['ffrt']}"]
    return [f"{'; '.join(phrases)}. In brackets: 95 % Wilson intervals."]


PARTS = {
    "targets": target_table,
    "outlines": outline_table,
    "one_step": one_step_table,
    "interpolation": interpolation_table,
    "conditions": conditions,
}
"""The parts of the whole table, in order."""


def table(record: Mapping[str, Any]) -> str:
    """Everything that a record holds, as Markdown."""
    parts = (part(record) for part in PARTS.values())
    return "\n\n".join("\n".join(lines) for lines in parts if lines)
