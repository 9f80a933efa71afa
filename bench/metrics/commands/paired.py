"""`paired A B`: every video of A beside the one of the same name in B, the true one."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench.harness.record import BenchError
from bench.metrics.base import Frames
from bench.metrics.intervals import mean_interval
from bench.metrics.table import METRICS
from bench.metrics.videos import Videos, pairs

NAMES = ("psnr_db", "ssim", "mse", "lpips", "dists", "vmaf")


def paired(ours: Videos, true: Videos, names: Sequence[str] = NAMES) -> dict[str, dict[str, Any]]:
    """Name -> mean over videos with its interval, or what is missing.

    Raises VideoFolderError for videos that make no pairs. A metric that cannot be had is left out of the others' way.
    """
    values: dict[str, list[float]] = {name: [] for name in names}
    missing: dict[str, str] = {}
    for index, (name, frames, truth) in enumerate(pairs(ours, true), 1):
        print(f"paired: {index}/{len(ours)} {name}", file=sys.stderr, flush=True)
        for metric in values.keys() - missing.keys():
            measure(metric, frames, truth, values, missing)
    return {name: row(name, values, missing) for name in names}


def measure(
    metric: str, frames: Frames, truth: Frames, values: Mapping[str, list[float]], missing: dict[str, str]
) -> None:
    """One number more, or why there is none."""
    try:
        values[metric].append(METRICS[metric](frames, truth))
    except BenchError as error:
        missing[metric] = str(error)


def row(name: str, values: Mapping[str, list[float]], missing: Mapping[str, str]) -> dict[str, Any]:
    """The row of a table and record."""
    metric = METRICS[name]
    if name in missing:
        return {"name": metric.title, "missing": missing[name]}
    found = mean_interval(values[name])
    return {
        "name": metric.title,
        "unit": metric.unit,
        "digits": metric.digits,
        "value": found["mean"],
        "low": found["low"],
        "high": found["high"],
        "clips": [found["clips"]],
    }
