"""The picture of `bench.skip_values`, made from its record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.harness.pictures import Pixels, figure_pixels
from bench.metrics.table import METRICS
from bench.skip_values.table import metrics_of

BOUND = "autoencoder"
DRAWN = ("group", "masked", "latent linear", "linear", "minterpolate", BOUND)
"""Methods whose curves are drawn; the others are close to one of them."""


def plot(record: Mapping[str, Any]) -> Pixels:
    """Every metric by s, the group's lead over its rivals, what the right s gains, gains by kind: uint8 `[H, W, 3]`."""
    from matplotlib.figure import Figure

    metrics = metrics_of(record)
    figure = Figure(figsize=(5 * len(metrics), 9.2), dpi=100, layout="constrained")
    above, below = figure.subplots(2, len(metrics))
    for panel, metric in zip(above, metrics, strict=True):
        for name in (name for name in DRAWN if name in record["means"]):
            style = ":" if name in ("latent linear", "linear") else "-"
            values = [point[metric] for point in record["means"][name]]
            colour = "black" if name == BOUND else None
            panel.plot(record["skips"], values, style, color=colour, marker="o", markersize=3, label=name)
        better = "higher" if METRICS[metric].higher_is_better else "lower"
        panel.set_title(f"frames between: {METRICS[metric].title} ({better} is better)")
    above[0].legend(fontsize=8)
    lead, right, kinds = below[:3]
    curves(lead, record["skips"], {name: points["psnr_db"] for name, points in record["group_over"].items()})
    lead.set_title("group less another, PSNR in dB (± standard error)")
    curves(right, record["skips"], {f"over {name}": points for name, points in record["right_over"].items()})
    right.set_title("gain of the right s, dB (± standard error)")
    for name, found in record["kinds"].items():  # without errors, which the table has: nine would hide one another
        values = [point["mean"] for point in found["gains"]["group"]]
        kinds.plot(record["skips"], values, marker="o", markersize=3, label=name)
    kinds.axhline(0, color="grey", linewidth=0.8)
    kinds.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    kinds.set_title("group over latent linear by what moves, dB")
    for panel in (*above, *below):
        panel.set_xlabel("s (keyframes are s / 6 seconds apart)")
        panel.set_xticks(record["skips"])
        panel.grid(alpha=0.3)
    return figure_pixels(figure)


def curves(panel: Any, skips: Sequence[int], named: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Paired differences by s with their standard errors."""
    for name, points in named.items():
        errors = [0.0 if point["standard_error"] is None else point["standard_error"] for point in points]
        values = [point["mean"] for point in points]
        panel.errorbar(skips, values, errors, marker="o", markersize=3, capsize=3, label=name)
    panel.axhline(0, color="grey", linewidth=0.8)
    panel.legend(fontsize=8)
