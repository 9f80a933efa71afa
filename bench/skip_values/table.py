"""The tables of `bench.skip_values`, made from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.harness.record import Record
from bench.harness.words import markdown
from bench.metrics.table import METRICS, titles

KIND_SKIPS = (3, 6, 12)
"""Skip values of the table by kind."""


def metrics_of(record: Mapping[str, Any]) -> list[str]:
    """The metrics that a record has, in their order."""
    return [name for name in next(iter(record["means"].values()))[0] if name != "s"]


def shown(point: Mapping[str, Any], digits: int = 2) -> str:
    """A paired difference and its standard error."""
    error = point["standard_error"]
    return f"{point['mean']:+.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def curves(record: Record) -> list[str]:
    """The means, a row per s, and what the right s gains."""
    means, gains, metrics = record["means"], record["right_over"], metrics_of(record)
    heads = [f"s, {titles(metrics)}", *means, *(f"right s over {name}, dB" for name in gains)]
    rows = []
    for index, skip in enumerate(record["skips"]):
        row = [
            " / ".join(METRICS[metric].shown(points[index][metric]) for metric in metrics) for points in means.values()
        ]
        rows.append([str(skip), *row, *(shown(points[index]) for points in gains.values())])
    lines = markdown(heads, rows)
    lines += ["", f"{record['clips']} held-out clips that move, one run of each for every s; ± is the standard error."]
    if record["absent"]:
        lines.append(f"Not measured, since the bundle has no graph for it: {', '.join(record['absent'])}.")
    return lines


def rivals(record: Record) -> list[str]:
    """Group interpolation less every rival, clip by clip: a row per s, PSNR and LPIPS."""
    over, metrics = record["group_over"], ("psnr_db", "lpips")
    heads = ["s", *(f"group less {name}, {METRICS[metric].title}" for name in over for metric in metrics)]
    rows = [
        [
            str(skip),
            *(shown(over[name][metric][index], METRICS[metric].digits + 1) for name in over for metric in metrics),
        ]
        for index, skip in enumerate(record["skips"])
    ]
    return [*markdown(heads, rows), "", "More is better in PSNR, less in LPIPS."]


def kinds(record: Record) -> list[str]:
    """Gains over linear blending of latents by what moves, at a few s."""
    skips = [skip for skip in KIND_SKIPS if skip in record["skips"]]
    names = [name for name in next(iter(record["kinds"].values()))["gains"] if not name.startswith("group, ")]
    heads = ["over latent linear, PSNR in dB", "s", *names]
    rows = []
    for kind, found in record["kinds"].items():
        for skip in skips:
            place = record["skips"].index(skip)
            first = f"{kind} ({found['clips']} clips)" if skip == skips[0] else ""
            rows.append([first, str(skip), *(shown(found["gains"][name][place], 1) for name in names)])
    return markdown(heads, rows)


PARTS = {"curves": curves, "rivals": rivals, "kinds": kinds}


def table(record: Record) -> str:
    """All tables of a record."""
    parts = (part(record) for part in PARTS.values())
    return "\n\n".join("\n".join(lines) for lines in parts if lines)
