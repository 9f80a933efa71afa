"""The tables of `bench.step_quality`, made from its record alone."""

from collections.abc import Mapping
from typing import Any

from bench.harness import record as records
from bench.harness.words import markdown

SCORES = ("colour", "background", "action", "shape", "size", "all")


def words(row: Mapping[str, Any]) -> str:
    """A setting in words."""
    cached = f", deep levels every {row['cache_interval']} steps" if row["cache_interval"] > 1 else ""
    return f"{row['sampler']} {row['num_inference_steps']}{cached}"


def label(row: Mapping[str, Any], default: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    """A setting in words, and whether it is the bundle's default or the preset's."""
    fast = all(row[name] == value for name, value in chosen.items())
    marks = [mark for mark, ok in (("the default", row is default), ('**`preset="fast"`**', fast)) if ok]
    return words(row) + (f" ({', '.join(marks)})" if marks else "")


def score(row: Mapping[str, Any], name: str) -> str:
    """Prompts right, and those won and lost against the default."""
    found = row["scores"][name]
    moved = f" (+{row['won'][name]} -{row['lost'][name]})" if row["won"][name] or row["lost"][name] else ""
    return f"{found['right']} of {found['of']}{moved}"


def keyframe_table(record: Mapping[str, Any]) -> list[str]:
    """One row per setting of the keyframes."""
    rows = record["keyframes"]
    heads = ["keyframes", "network runs", "FLOP", *SCORES, "PSNR to the limit"]
    lines = []
    for row in rows:
        shallow = f" + {row['shallow_runs']} shallow" if row["shallow_runs"] else ""
        columns = [
            label(row, rows[0], record["fast"]["keyframes"]),
            f"{row['whole_runs']}{shallow}",
            f"{100 * row['cost']:.0f} %",
            *(score(row, name) for name in SCORES),
            "" if row["converged_db"] is None else f"{row['converged_db']:.1f} dB",
        ]
        lines.append(columns)
    return markdown(heads, lines)


def interpolation_table(record: Mapping[str, Any]) -> list[str]:
    """One row per setting of the interpolation."""
    rows = record["interpolation"]
    lines = (
        [
            label(row, rows[0], record["fast"]["interpolation"]),
            str(row["whole_runs"]),
            f"{row['psnr_db']:.2f} dB",
        ]
        for row in rows
    )
    return markdown(["interpolation, 2 to 8 fps", "network runs", "PSNR to rendered truth"], lines)


def conditions(record: Mapping[str, Any]) -> list[str]:
    """The prompts, the clips, the machine and the versions."""
    shallow = record["step_flops"]["shallow"] / record["step_flops"]["whole"]
    return [
        f"{record['prompts']} prompts of the {record['split']} set, the same seeds in every row, in brackets the "
        f"prompts won and lost against the default; {record['clips']} held-out clips; the limit is "
        f"{record['reference_steps']} steps of the same sampler and seed, on {record['references']} prompts; fewer "
        f"keyframe steps than {record['least_steps']} and cached ones are never chosen for the preset; "
        f"a shallow run takes {100 * shallow:.0f} % of the FLOP of a "
        f"whole one. {', '.join(records.conditions(record))}."
    ]


PARTS = {"keyframes": keyframe_table, "interpolation": interpolation_table, "conditions": conditions}
"""The parts of the whole table, in order."""


def table(record: Mapping[str, Any]) -> str:
    """Everything that a record holds, as Markdown."""
    return "\n\n".join("\n".join(part(record)) for part in PARTS.values())
