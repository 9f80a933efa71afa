"""The plots of `bench.serving`, made from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.harness.pictures import Pixels, figure_pixels


def load_plot(record: Mapping[str, Any]) -> Pixels:
    """How long answers take, load by load, from the quickest to the slowest: `[H, W, 3]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), dpi=100, layout="constrained")
    panel = figure.subplots()
    for row in record["rows"]:
        answers = row.get("answers_ms")
        if answers is not None:
            shares = [float(name[1:]) for name in answers]
            panel.plot(list(answers.values()), shares, marker="o", markersize=3, label=row["clients"])
    for item in record["targets"]:
        panel.axvline(item["target"], linewidth=0.8, color="grey")
    panel.set_xscale("log")
    panel.set_xlabel("ms to an answer while videos are made")
    panel.set_ylabel("% of answers")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure_pixels(figure)


def soak_plot(record: Mapping[str, Any]) -> Pixels:
    """Memory, open files and threads of both processes over the time: `[H, W, 3]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    minutes = [one["at_s"] / 60 for one in record["samples"]]
    for name in record["growth"]:
        own = [one[name]["own"] / 1e6 for one in record["samples"]]
        (drawn,) = panels[0].plot(minutes, own, label=f"{name}, its own", linewidth=1)
        rss = [one[name]["rss"] / 1e6 for one in record["samples"]]
        panels[0].plot(minutes, rss, label=f"{name}, resident", linewidth=0.6, linestyle=":", color=drawn.get_color())
        panels[1].plot(minutes, [one[name]["files"] for one in record["samples"]], linewidth=1)
        panels[2].plot(minutes, [one[name]["threads"] for one in record["samples"]], linewidth=1)
    for panel, words in zip(panels, ("MB", "open files", "threads"), strict=True):
        panel.set_ylabel(words)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[2].set_xlabel("minutes")
    panels[0].legend(fontsize=8)
    return figure_pixels(figure)


PLOTS: Mapping[str, Callable[[Mapping[str, Any]], Pixels]] = {"load": load_plot, "soak": soak_plot}
"""The parts that have one."""
