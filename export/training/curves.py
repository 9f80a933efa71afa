"""What a training run shows: a line of progress while it runs, curves when it is over."""

from __future__ import annotations

import sys
from pathlib import Path

COLUMNS = 4


def plot(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Curves of every recorded figure over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted({name for row in history for name in row} - {"step", "seconds"})
    rows = -(-len(names) // COLUMNS)
    shape = (4.2 * min(len(names), COLUMNS), 3.2 * rows)
    figure, axes = pyplot.subplots(rows, min(len(names), COLUMNS), figsize=shape, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        points = [(row["step"], row[name]) for row in history if name in row]
        axis.plot([x for x, _ in points], [y for _, y in points], linewidth=1.2)
        axis.set_xlabel("step")
        axis.set_title(f"{title}: {name}", fontsize=9)
        axis.grid(alpha=0.3)
        if name == "loss":
            axis.set_yscale("log")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def progress(step: int, steps: int, seconds_per_step: float, figures: dict[str, float]) -> None:
    """One line; in a terminal it is rewritten in place."""
    eta = (steps - step) * seconds_per_step
    shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
    bar = "#" * int(24 * step / steps)
    line = f"[{bar:<24}] {step}/{steps}  {seconds_per_step:.2f} s/step  ETA {eta / 60:.1f} min  {shown}"
    print(line, file=sys.stderr, end="\r" if sys.stderr.isatty() else "\n", flush=True)
