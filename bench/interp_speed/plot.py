"""The plot of `bench.interp_speed`, made from its record alone."""

from collections.abc import Mapping
from typing import Any

from bench.harness.pictures import Pixels, figure_pixels
from bench.interp_speed.table import WORDS, size
from bench.metrics.table import METRICS

LINES = ("linear", "latent linear", "minterpolate", "autoencoder")
"""Methods without a cost of their own, drawn as lines."""


def plot(record: Mapping[str, Any]) -> Pixels:
    """Cost of a new frame, cell by cell, and where quality was measured that against the cost: `[H, W, 3]`."""
    from matplotlib.figure import Figure

    shown_metrics = shown_of(record)
    figure = Figure(figsize=(12, 4.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, 1 + len(shown_metrics), width_ratios=(3, *(2 for _ in shown_metrics)), squeeze=False)[0]
    left = panels[0]
    cells = record["cells"]
    for index, name in enumerate(WORDS):
        shown = [(at, cell["designs"][name]) for at, cell in enumerate(cells) if name in cell["designs"]]
        values = [1000 * found["frame_s"] for _, found in shown]
        spreads = [
            v * found["step"]["iqr_s"] / found["step"]["median_s"] for v, (_, found) in zip(values, shown, strict=True)
        ]
        left.bar([at + 0.27 * (index - 1) for at, _ in shown], values, 0.25, yerr=spreads, label=name, capsize=2)
    left.set_xticks(range(len(cells)), [size(cell).replace(", ", "\n") for cell in cells], fontsize=8)
    left.set_yscale("log")
    left.set_title("ms per new frame, all steps")
    left.legend(fontsize=8)
    for right, metric in zip(panels[1:], shown_metrics, strict=True):
        for name, scores in record["quality"]["methods"].items():
            cost = cells[0]["designs"].get(name)
            if cost is not None:
                right.scatter(1000 * cost["frame_s"], scores[metric], label=name)
            elif name in LINES:
                right.axhline(scores[metric], linewidth=0.8, color="grey")
                right.text(0.98, scores[metric], name, transform=right.get_yaxis_transform(), ha="right", fontsize=7)
        right.set_xlabel("ms per new frame")
        better = "higher" if METRICS[metric].higher_is_better else "lower"
        right.set_title(f"{METRICS[metric].title} against cost ({better} is better)", fontsize=9)
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure_pixels(figure)


def shown_of(record: Mapping[str, Any]) -> list[str]:
    """The metrics of a record that have a panel."""
    if "quality" not in record:
        return []
    measured = next(iter(record["quality"]["methods"].values()))
    return [metric for metric in ("psnr_db", "lpips") if metric in measured]
