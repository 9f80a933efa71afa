"""The plot of `bench.interp_speed`, made from its record alone."""

from collections.abc import Mapping
from typing import Any

from bench.harness.pictures import Pixels, figure_pixels
from bench.interp_speed.table import WORDS, size

LINES = ("linear", "latent linear", "minterpolate", "autoencoder")
"""Methods without a cost of their own, drawn as lines."""


def plot(record: Mapping[str, Any]) -> Pixels:
    """Cost of a new frame, cell by cell, and where quality was measured PSNR against that cost: `[H, W, 3]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=(3, 2)) if "quality" in record else [figure.subplots()]
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
    if "quality" in record:
        right = panels[1]
        for name, scores in record["quality"]["methods"].items():
            cost = cells[0]["designs"].get(name)
            if cost is not None:
                right.scatter(1000 * cost["frame_s"], scores["psnr_db"], label=name)
            elif name in LINES:
                right.axhline(scores["psnr_db"], linewidth=0.8, color="grey")
                right.text(0.98, scores["psnr_db"], name, transform=right.get_yaxis_transform(), ha="right", fontsize=7)
        right.set_xlabel("ms per new frame")
        right.set_title("PSNR in dB against cost")
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure_pixels(figure)
