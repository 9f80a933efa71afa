"""`python -m bench.skip_values`: quality of interpolation against the skip value s that the network is given, 1 to 12.

The paper asks what conditioning on s brings. s counts frames of 24 fps: neighbours in the finished clip are s / 24 s
apart, keyframes 4 s / 24 s. For each s a run of held-out clips is rendered at that distance, every fourth frame is
encoded, and what a method makes between is compared with what was rendered there. The group network is run again with
the same noise and a fixed s, right or wrong ("group, s 3"): where that is no worse, the conditioning has no effect.
Clips that stand still are left out, since every s is right for them.
"""

from __future__ import annotations

import math
import statistics
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.contenders.baselines import blend, linear, methods_of
from bench.datasets.shapes import INTERPOLATION_SEED, STANDING, held_out, truth
from bench.harness import program
from bench.harness.pictures import Pixels, figure_pixels
from bench.harness.program import Program, Result, check_counts
from bench.harness.record import BenchError
from bench.harness.run import progress
from bench.harness.words import markdown
from bench.metrics.base import Frames
from bench.metrics.table import METRICS, scores_between, titles
from ffrt import Pipeline
from ffrt.bundle import InterpolationPass
from ffrt.sampling import Array, Sampling, drain, normal_noise
from ffrt.stages.interpolate import GRAPHS, Method, interpolation_steps, noise_shape

FACTOR = 4  # a pass makes three frames between two
GROUPS = 4  # groups of a run; this and what follows are as in export.training.between
BASE_FPS = 24  # s counts frames of this rate
SKIPS = tuple(range(1, 13))
QUICK_SKIPS = (1, 3, 12)
RUN_SEED = 6_021
METRIC_NAMES = ("psnr_db", "ssim")

Scores = dict[str, dict[str, list[float]]]
"""Method -> metric -> a value per clip."""


def run_of(frames: Frames, skip: int, rng: np.random.Generator) -> Frames:
    """A run of a clip `[N, H, W, 3]` of 24 fps as training has them: `[4G+1, H, W, 3]`, neighbours `skip` frames apart.

    G is 4, or fewer where the clip would end first; `rng` draws the start.
    """
    span = min(GROUPS, (len(frames) - 1) // (FACTOR * skip)) * FACTOR * skip
    start = int(rng.integers(len(frames) - span))
    return frames[start : start + span + 1 : skip]


def interpolated(pipe: Pipeline, keyframes: Array, method: Method, skip: int) -> Array:
    """Latents `[T, 4, h, w]` -> `[4T-3, 4, h, w]` by a network that is given `skip`, at the bundle's own sampling.

    The noise depends on the shapes alone: two values of `skip` start from the same.
    """
    config = pipe.bundle.interpolation
    steps = interpolation_steps(
        pipe.graph(GRAPHS[method]),
        config,
        InterpolationPass(fps=8, skip_frames=skip),
        keyframes,
        normal_noise(INTERPOLATION_SEED, 1, noise_shape(method, keyframes.shape)),
        Sampling(config.num_inference_steps, config.guidance_scale, config.sampler),
        method=method,
    )
    return drain(steps)


def contenders(pipe: Pipeline, exact: Frames, skip: int, fixed: Sequence[int]) -> dict[str, Frames]:
    """Each method applied to every fourth of the frames `exact` `[4G+1, H, W, 3]`: name -> frames of that shape."""
    latents = pipe.encode_frames(exact)
    keyframes = latents[::FACTOR]
    filled: dict[str, Array] = {}
    for method in methods_of(pipe.bundle.graphs)[0]:
        filled[method] = interpolated(pipe, keyframes, method, skip)
    for value in fixed:
        filled[with_skip(value)] = filled["group"] if value == skip else interpolated(pipe, keyframes, "group", value)
    filled["latent linear"] = np.asarray(blend(keyframes, FACTOR), np.float32)
    filled["autoencoder"] = latents
    frames = {name: pipe.decode(one, 8).frames for name, one in filled.items()}
    return {**frames, "linear": linear(frames["autoencoder"][::FACTOR], FACTOR)}


def with_skip(skip: int) -> str:
    """The name of the group network that is always given `skip`."""
    return f"group, s {skip}"


def measure_clips(
    pipe: Pipeline, clips: Sequence[Any], skips: Sequence[int], fixed: Sequence[int]
) -> dict[int, Scores]:
    """The scores of the frames between, for each s of `skips`, of one run of every clip."""
    scores: dict[int, Scores] = {skip: {} for skip in skips}
    for index in progress("skip values", len(clips)):
        film = truth(clips[index], BASE_FPS)
        for skip in skips:
            exact = run_of(film, skip, np.random.default_rng([RUN_SEED, index, skip]))
            for name, frames in contenders(pipe, exact, skip, fixed).items():
                own = scores[skip].setdefault(name, {metric: [] for metric in METRIC_NAMES})
                for metric, value in scores_between(METRIC_NAMES, frames, exact, FACTOR).items():
                    own[metric].append(value)
    return scores


def gain(better: Sequence[float], worse: Sequence[float]) -> dict[str, float | None]:
    """Mean over clips of the difference between two methods, and its standard error; None for a single clip."""
    differences = [a - b for a, b in zip(better, worse, strict=True)]
    spread = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return {"mean_db": statistics.fmean(differences), "standard_error_db": spread}


def curves(scores: Mapping[int, Scores], fixed: Sequence[int]) -> dict[str, Any]:
    """What is recorded: means over clips by method and s, and the gain of the right s over a fixed one in dB."""
    names = list(next(iter(scores.values())))
    return {
        "means": {
            name: [
                {"s": skip, **{metric: statistics.fmean(own[name][metric]) for metric in METRIC_NAMES}}
                for skip, own in scores.items()
            ]
            for name in names
        },
        "right_over": {
            with_skip(value): [
                {"s": skip, **gain(own["group"]["psnr_db"], own[with_skip(value)]["psnr_db"])}
                for skip, own in scores.items()
            ]
            for value in fixed
        },
    }


def table(record: Mapping[str, Any]) -> str:
    """The means of a record as a table, a row per s, then the gains."""
    means, gains = record["means"], record["right_over"]
    heads = [f"s, {titles(METRIC_NAMES)}", *means, *(f"right s over {name}, dB" for name in gains)]
    rows = []
    for index, skip in enumerate(record["skips"]):
        row = [
            " / ".join(METRICS[metric].shown(points[index][metric]) for metric in METRIC_NAMES)
            for points in means.values()
        ]
        for points in gains.values():
            error = points[index]["standard_error_db"]
            row.append(f"{points[index]['mean_db']:+.2f}" + ("" if error is None else f" ± {error:.2f}"))
        rows.append([str(skip), *row])
    lines = markdown(heads, rows)
    lines += ["", f"{record['clips']} held-out clips that move, one run of each for every s; ± is the standard error."]
    if record["absent"]:
        lines.append(f"Not measured, since the bundle has no graph for it: {', '.join(record['absent'])}.")
    return "\n".join(lines)


def plot(record: Mapping[str, Any]) -> Pixels:
    """The curves of a record, PSNR and SSIM by s and the gains of the right s, as a picture uint8 `[H, W, 3]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, metric in zip(panels, METRIC_NAMES, strict=False):
        for name, points in record["means"].items():
            style = "--" if name.startswith("group, ") else ":" if name in ("latent linear", "linear") else "-"
            values = [point[metric] for point in points]
            colour = "black" if name == "autoencoder" else None
            panel.plot(record["skips"], values, style, color=colour, marker="o", markersize=3, label=name)
        panel.set_title(f"frames between: {titles([metric])}")
    panels[0].legend(fontsize=8)
    for name, points in record["right_over"].items():
        errors = [0.0 if point["standard_error_db"] is None else point["standard_error_db"] for point in points]
        values = [point["mean_db"] for point in points]
        panels[2].errorbar(record["skips"], values, errors, marker="o", markersize=3, capsize=3, label=f"over {name}")
    panels[2].axhline(0, color="grey", linewidth=0.8)
    panels[2].set_title("gain of the right s, dB (± standard error)")
    panels[2].legend(fontsize=8)
    for panel in panels:
        panel.set_xlabel("s (keyframes are s / 6 seconds apart)")
        panel.set_xticks(record["skips"])
        panel.grid(alpha=0.3)
    return figure_pixels(figure)


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--clips", type=int, default=4, help="held-out clips, before those that stand still go (4)")
    line.add_argument("--fixed", type=int, nargs="+", default=[3, 12], help="values given whatever is right (3 12)")
    line.add_argument("--quick", action="store_true", help=f"a smoke run: at most 2 clips, s of {QUICK_SKIPS} only")


def check(asked: Namespace) -> None:
    """Raise BenchError for a request that cannot be measured; a quick run has few clips."""
    check_counts(asked, "clips")
    if not set(asked.fixed) <= set(SKIPS):
        raise BenchError(f"--fixed: expected values used in training, {SKIPS[0]} to {SKIPS[-1]}, got {asked.fixed}")
    if asked.quick:
        asked.clips = min(asked.clips, 2)


def measure(asked: Namespace) -> Iterator[Result]:
    """Measure every s. Raises FfrtError where that cannot be done."""
    pipe = Pipeline.from_pretrained(asked.bundle.resolve(), provider=asked.provider, threads=asked.threads)
    skips = QUICK_SKIPS if asked.quick else SKIPS
    clips = [clip for clip in held_out(asked.clips) if clip.action != STANDING]
    record = {
        "clips": len(clips),
        "skips": list(skips),
        "absent": methods_of(pipe.bundle.graphs)[1],
        **curves(measure_clips(pipe, clips, skips, asked.fixed), asked.fixed),
    }
    yield Result(record, partial(plot, record))


PROGRAM = Program("skip_values", __doc__, measure, table, arguments, check, pictured=True, matplotlib=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep record and plot, print the table. 0: it ran; 2: it could not, and nothing was written."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
