"""The tables of `bench.interp_speed`, made from its record alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from bench.harness import record as records
from bench.harness.words import markdown, verdict
from bench.metrics.table import METRICS

WORDS = {
    "group": "**group** (three frames in one pass)",
    "masked_windows": "masked, windows of 5",
    "masked_sequence": "masked, whole sequence",
}


def size(cell: Mapping[str, Any]) -> str:
    """A cell in words."""
    clips = "1 clip" if cell["clips"] == 1 else f"{cell['clips']} clips"
    return f"{clips}, {cell['side_px']} px, to {cell['fps']} fps"


def cost_rows(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """One row per design and cell; the ratio with its interquartile range."""
    for cell in record["cells"]:
        for name, found in cell["designs"].items():
            ratio = cell["ratios"].get(f"{name}/group")
            peak = found.get("device_bytes")
            peak = found.get("peak_bytes") if peak is None else peak
            yield [
                size(cell),
                WORDS[name],
                f"{found['step']['median_s']:.3f} ± {found['step']['iqr_s']:.3f}",
                f"{1000 * found['frame_s']:.0f}",
                f"{found['flops'] / 1e9:.1f}",
                f"{100 * found['flops_share']:.0f} %",
                "" if peak is None else f"{peak / 1e6:.0f} MB",
                "1" if ratio is None else f"{ratio['median']:.2f} ± {ratio['iqr']:.2f}",
            ]


def cost_table(record: Mapping[str, Any]) -> list[str]:
    """Seconds, FLOPs and memory, and what is asked of their ratios."""
    if "cells" not in record:
        return []
    heads = ["", "design", "s per step", "ms per new frame", "GFLOP per step"]
    heads += ["of the machine's matrix rate", "peak memory", "ratio"]
    rows = (
        [item["name"], f"{item['measured']:.2f}", f"at least {item['target']}", verdict(item)]
        for item in record["targets"]
    )
    targets = ["", *markdown(["ratio of the first size", "measured", "target", "met"], rows)]
    return markdown(heads, cost_rows(record)) + (targets if record["targets"] else [])


def full_table(record: Mapping[str, Any]) -> list[str]:
    """FLOPs at the released shape."""
    if "full_shape" not in record:
        return []
    rows = (
        [
            f"{WORDS[row['design']]}, {row['side_px']} px",
            f"{row['tflop']:.1f}",
            "" if row["released_code_tflop"] is None else f"{row['released_code_tflop']:.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in record["full_shape"]
    )
    return markdown(["released shape, 15 groups, guided", "TFLOP per step", "released code", "ratio"], rows)


def quality_table(record: Mapping[str, Any]) -> list[str]:
    """Designs and baselines against rendered truth."""
    if "quality" not in record:
        return []
    found = record["quality"]
    names = list(next(iter(found["methods"].values())))
    errors: Mapping[str, Mapping[str, float]] = found.get("standard_errors", {})
    spread = ", ± the standard error over clips" if errors else ""
    heads = [f"2 to {found['fps']} fps, {found['clips']} clips{spread}", *(METRICS[name].title for name in names)]
    rows = (
        [
            WORDS.get(method, method),
            *(with_error(name, scores[name], errors.get(method, {}).get(name)) for name in names),
        ]
        for method, scores in found["methods"].items()
    )
    return markdown(heads, rows)


def with_error(metric: str, value: float, error: float | None) -> str:
    """A mean in words."""
    one = METRICS[metric]
    spread = "" if error is None else f" ± {one.shown(error)}"
    return f"{one.shown(value)}{spread} {one.unit}".rstrip()


def conditions(record: Mapping[str, Any]) -> list[str]:
    """The machine, the weights and the versions."""
    weights = [f"{name} {count / 1e6:.1f} M parameters" for name, count in record["parameters"].items()]
    phrases = [f"scale {record['scale']}", *weights, *records.conditions(record)]
    if record.get("memory") == "low":
        phrases.append("weights left on disk")
    if "cells" in record:
        row = record["steps_in_a_row"]
        phrases.append("steps timed one by one" if row == 1 else f"steps timed {row} in a row")
        phrases.append(f"matrix products {record['product_flops_per_s'] / 1e9:.0f} GFLOP/s")
    return ["; ".join(phrases) + ". ± of seconds and ratios is the interquartile range."]


PARTS = {"cost": cost_table, "full_shape": full_table, "quality": quality_table, "conditions": conditions}
"""The parts of the whole table, in order."""


def table(record: Mapping[str, Any]) -> str:
    """Everything that a record holds, as Markdown."""
    parts = (part(record) for part in PARTS.values())
    return "\n\n".join("\n".join(lines) for lines in parts if lines)
