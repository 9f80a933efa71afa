"""The metrics by name. A new one is a row here; benches and their tables read the rest from it."""

from collections.abc import Sequence

import numpy as np

from bench.metrics.base import Frames, Metric
from bench.metrics.detector import detect
from bench.metrics.dists import dists
from bench.metrics.lpips import lpips
from bench.metrics.pixels import change_db, mse, psnr_db, ssim
from bench.metrics.vmaf import vmaf


def fault_count(frames: Frames) -> float:
    """How many faults the detector sees in a clip of the demo's domain: no, several or changing objects."""
    return float(len(detect(frames).faults))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr_db", "dB", True, True, psnr_db, digits=1, label="PSNR"),
        Metric("ssim", "", True, True, ssim, digits=4, label="SSIM"),
        Metric("mse", "", False, True, mse, digits=5, label="MSE"),
        Metric("lpips", "", False, True, lpips, digits=3, label="LPIPS"),
        Metric("dists", "", False, True, dists, digits=3, label="DISTS"),
        Metric("vmaf", "", True, True, vmaf, temporal=True, digits=1, label="VMAF"),
        Metric("change_db", "dB", True, True, change_db, temporal=True, digits=1, label="PSNR of the changes"),
        Metric("detector", "faults", False, False, fault_count, temporal=True, digits=0, label="faults"),
    )
}


def scores_between(names: Sequence[str], frames: Frames, truth: Frames, factor: int) -> dict[str, float]:
    """Metrics of an interpolated clip whose every `factor`-th frame was given, over the frames between those.

    A temporal metric is taken over the whole clip, since its frames must be consecutive.
    """
    between = np.arange(len(truth)) % factor != 0
    everything = np.ones(len(truth), np.bool_)
    chosen = {name: everything if METRICS[name].temporal else between for name in names}
    return {name: METRICS[name](frames[part], truth[part]) for name, part in chosen.items()}


def titles(names: Sequence[str]) -> str:
    """What stands above cells that hold these metrics, with their units."""
    metrics = [METRICS[name] for name in names]
    return " / ".join(f"{one.title} in {one.unit}" if one.unit else one.title for one in metrics)
