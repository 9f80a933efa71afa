"""The plot of `bench.pipeline_speed`, made from its record alone."""

from collections.abc import Mapping
from typing import Any

from bench.contenders.words import CONTENDERS, PLAIN, draw_stages, stage_plot
from bench.harness.pictures import Pixels, figure_pixels


def plot(record: Mapping[str, Any]) -> Pixels:
    """Seconds of every stage, and of whole videos where they were measured, contender by contender: `[H, W, 3]`."""
    if "video" not in record:
        return stage_plot(record)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    draw_stages(left, record)
    found = record["video"]["contenders"]
    right.barh(range(len(found)), [one["median_s"] for one in found.values()])
    names = [CONTENDERS[name].translate(PLAIN).replace(", ", "\n") for name in found]
    right.set_yticks(range(len(found)), names, fontsize=8)
    right.invert_yaxis()
    right.set_title(f"seconds of {record['video']['frames']} frames")
    right.grid(alpha=0.3)
    return figure_pixels(figure)
