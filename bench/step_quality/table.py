"""The tables of `bench.step_quality`, made from its record alone."""

from collections.abc import Mapping
from typing import Any

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
    """One row a setting of the keyframes."""
    rows = record["keyframes"]
    heads = ["keyframes", "network runs", "FLOP", "s a video", *SCORES, "PSNR to the limit"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        shallow = f" + {row['shallow_runs']} shallow" if row["shallow_runs"] else ""
        columns = [
            label(row, rows[0], record["fast"]["keyframes"]),
            f"{row['whole_runs']}{shallow}",
            f"{100 * row['cost']:.0f} %",
            f"{row['seconds']['median_s']:.1f}",
            *(score(row, name) for name in SCORES),
            "" if row["converged_db"] is None else f"{row['converged_db']:.1f} dB",
        ]
        lines.append("| " + " | ".join(columns) + " |")
    return lines


def interpolation_table(record: Mapping[str, Any]) -> list[str]:
    """One row a setting of the interpolation."""
    rows = record["interpolation"]
    lines = ["| interpolation, 2 to 8 fps | network runs | s a video | PSNR to rendered truth |", "|---|---|---|---|"]
    for row in rows:
        told = label(row, rows[0], record["fast"]["interpolation"])
        lines.append(f"| {told} | {row['whole_runs']} | {row['seconds']['median_s']:.2f} | {row['psnr_db']:.2f} dB |")
    return lines


def conditions(record: Mapping[str, Any]) -> str:
    """On what, and on which machine."""
    around = record["environment"]
    runtime = [f"{name} {around[name]}" for name in ("onnxruntime", "onnxruntime-gpu") if name in around]
    threads = "default threads" if around["threads"] is None else f"threads {around['threads']}"
    digest = "none" if around["bundle_digest"] is None else around["bundle_digest"][:12]
    machine = [around["cpu"], f"{around['cores']} cores", threads, f"provider {around['provider']}", *runtime]
    shallow = record["step_flops"]["shallow"] / record["step_flops"]["whole"]
    return (
        f"{record['prompts']} prompts of the {record['split']} set, the same seeds in every row, in brackets how many "
        f"prompts were won and lost against the default; {record['clips']} held-out clips; the limit is "
        f"{record['reference_steps']} steps of the same sampler and seed, on {record['references']} prompts; fewer "
        f"keyframe steps than {record['least_steps']} and cached ones are never chosen for the preset; seconds "
        f"are medians of the denoising alone; a shallow run takes {100 * shallow:.0f} % of the FLOP of a "
        f"whole one. {', '.join(machine)}, bundle digest {digest}."
    )


def table(record: Mapping[str, Any]) -> str:
    """All that a record holds, as Markdown."""
    return "\n".join([*keyframe_table(record), "", *interpolation_table(record), "", conditions(record)])
