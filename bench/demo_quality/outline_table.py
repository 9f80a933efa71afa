"""The tables of outlines in a report, from a record of `bench.demo_quality`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.harness.words import markdown

COLUMNS = {
    "deviation_circle": ("outline of circles, %", 100, 2),
    "deviation_polygon": ("of polygons, %", 100, 2),
    "deviation_spinning": ("of what spins, %", 100, 1),
    "size_std_moving": ("size of what moves, std %", 100, 1),
    "size_range_moving": ("range %", 100, 1),
    "path_px": ("off its path, px", 1, 2),
    "turn_degrees": ("turn a frame, degrees", 1, 1),
    "turn_sd": ("sd", 1, 1),
}
"""Figure of `bench.metrics.figures.summary` -> its words, its factor and its decimals."""
ROWS = {"rendered": "rendered", "encoded": "encoded and decoded (the bound)", "samples": "**made**"}
HEADS = [words for words, _, _ in COLUMNS.values()]


def cell(found: Mapping[str, Any], factor: float, decimals: int, bounds: bool) -> str:
    """A mean, with its interval if asked for; empty where nothing was measured."""
    if found["mean"] is None:
        return ""
    mean, low, high = (f"{factor * found[name]:.{decimals}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})" if bounds else mean


def cells(found: Mapping[str, Any], bounds: bool) -> Iterator[str]:
    """All columns of one row."""
    return (cell(found[name], factor, decimals, bounds) for name, (_, factor, decimals) in COLUMNS.items())


def outline_table(record: Mapping[str, Any]) -> list[str]:
    """Figures of made, coded and rendered clips, with 95 % intervals over clips; empty when not measured."""
    if "outlines" not in record:
        return []
    return markdown(["", *HEADS], ([words, *cells(record["outlines"][name], True)] for name, words in ROWS.items()))


def one_step_table(record: Mapping[str, Any]) -> list[str]:
    """Figures of estimates one step from true latents, a row a time; empty when not measured."""
    if "one_step" not in record:
        return []
    heads = ["one step from true latents at t", "v MSE, x 1000", *HEADS]
    rows = ([str(row["time"]), cell(row["v_mse"], 1000, 1, False), *cells(row, False)] for row in record["one_step"])
    return markdown(heads, rows)
