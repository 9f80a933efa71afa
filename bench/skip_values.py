"""`python -m bench.skip_values`: quality of interpolation against the skip value s that the network is told, 1 to 12.

The paper asks what conditioning on s brings. s counts frames of 24 fps: neighbours in the finished clip are s / 24 s
apart, keyframes 4 s / 24 s. For each s a run of held-out clips is rendered at that distance, every fourth frame is
encoded, and what a method makes between is compared with what was rendered there. The group network is run again with
the same noise and a wrong s, the same for all runs ("group, told 3"): where it is no worse, the conditioning is idle.
Clips that stand still are left out, since to them every s is right.
"""

import argparse
import importlib.util
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.contenders.baselines import Frames, blend, linear, methods_of, psnr_db, ssim
from bench.datasets.shapes import INTERPOLATION_SEED, held_out, truth
from bench.harness.pictures import figure_pixels, write_png
from bench.harness.run import ROOT, environment, is_whole, progress, write_json
from ffrt import FfrtError, Pipeline
from ffrt.bundle import InterpolationPass
from ffrt.sampling import Array, Sampling, drain, normal_noise
from ffrt.stages.interpolate import GRAPHS, Method, interpolation_steps, noise_shape

FREE = ("bundle", "provider", "threads", "json", "plot")  # none changes what is measured
FACTOR = 4  # a pass makes three frames between two
GROUPS = 4  # groups of a run; this and what follows are as in export.training.latents
BASE_FPS = 24  # s counts frames of this rate
SKIPS = tuple(range(1, 13))
QUICK_SKIPS = (1, 3, 12)
RUN_SEED = 6_021
METRICS = {"psnr_db": "PSNR in dB", "ssim": "SSIM"}

Scores = dict[str, dict[str, list[float]]]
"""Method -> metric -> a value for every clip."""


def run_of(frames: Frames, skip: int, rng: np.random.Generator) -> Frames:
    """A run of a clip `[N, H, W, 3]` of 24 fps as training has them: `[4G+1, H, W, 3]`, neighbours `skip` frames apart.

    G is 4, or fewer where the clip would end first; `rng` draws the start.
    """
    span = min(GROUPS, (len(frames) - 1) // (FACTOR * skip)) * FACTOR * skip
    start = int(rng.integers(len(frames) - span))
    return frames[start : start + span + 1 : skip]


def interpolated(pipe: Pipeline, keyframes: Array, method: Method, skip: int) -> Array:
    """Latents `[T, 4, h, w]` -> `[4T-3, 4, h, w]` by a network that is told `skip`, at the bundle's own sampling.

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


def contenders(pipe: Pipeline, exact: Frames, skip: int, wrong: Sequence[int]) -> dict[str, Frames]:
    """What each method makes of every fourth of the frames `exact` `[4G+1, H, W, 3]`: name -> frames of that shape."""
    latents = pipe.encode_frames(exact)
    keyframes = latents[::FACTOR]
    made: dict[str, Array] = {}
    for method in methods_of(pipe.bundle.graphs)[0]:
        made[method] = interpolated(pipe, keyframes, method, skip)
    for value in wrong:
        made[told(value)] = made["group"] if value == skip else interpolated(pipe, keyframes, "group", value)
    made["latent linear"] = np.asarray(blend(keyframes, FACTOR), np.float32)
    made["autoencoder"] = latents
    frames = {name: pipe.decode(found, 8).frames for name, found in made.items()}
    return {**frames, "linear": linear(frames["autoencoder"][::FACTOR], FACTOR)}


def told(skip: int) -> str:
    """The name of the group network that is always told `skip`."""
    return f"group, told {skip}"


def measure(pipe: Pipeline, clips: Sequence[Any], skips: Sequence[int], wrong: Sequence[int]) -> dict[int, Scores]:
    """The scores of the frames between, for each s of `skips`, of one run of every clip."""
    found: dict[int, Scores] = {skip: {} for skip in skips}
    for index in progress("skip values", len(clips)):
        film = truth(clips[index], BASE_FPS)
        for skip in skips:
            exact = run_of(film, skip, np.random.default_rng([RUN_SEED, index, skip]))
            between = np.arange(len(exact)) % FACTOR != 0
            for name, frames in contenders(pipe, exact, skip, wrong).items():
                score = found[skip].setdefault(name, {metric: [] for metric in METRICS})
                score["psnr_db"].append(psnr_db(frames[between], exact[between]))
                score["ssim"].append(ssim(frames[between], exact[between]))
    return found


def gain(better: Sequence[float], worse: Sequence[float]) -> dict[str, float | None]:
    """Mean over clips of the difference between two methods, and its standard error; None of a single clip."""
    differences = [a - b for a, b in zip(better, worse, strict=True)]
    spread = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return {"mean_db": statistics.fmean(differences), "standard_error_db": spread}


def curves(found: Mapping[int, Scores], wrong: Sequence[int]) -> dict[str, Any]:
    """What is recorded: means over clips by method and s, and what telling the right s gains in dB."""
    names = list(next(iter(found.values())))
    return {
        "means": {
            name: [
                {"s": skip, **{metric: statistics.fmean(scores[name][metric]) for metric in METRICS}}
                for skip, scores in found.items()
            ]
            for name in names
        },
        "right_over": {
            told(value): [
                {"s": skip, **gain(scores["group"]["psnr_db"], scores[told(value)]["psnr_db"])}
                for skip, scores in found.items()
            ]
            for value in wrong
        },
    }


def table(record: Mapping[str, Any]) -> str:
    """The means of a record as a table, a row for each s, then the gains."""
    means, gains = record["means"], record["right_over"]
    lines = [
        f"| s, PSNR in dB / SSIM | {' | '.join(means)} | {' | '.join(f'right s over {name}, dB' for name in gains)} |",
        "|---" * (len(means) + len(gains) + 1) + "|",
    ]
    for index, skip in enumerate(record["skips"]):
        cells = [f"{points[index]['psnr_db']:.1f} / {points[index]['ssim']:.4f}" for points in means.values()]
        for points in gains.values():
            error = points[index]["standard_error_db"]
            cells.append(f"{points[index]['mean_db']:+.2f}" + ("" if error is None else f" ± {error:.2f}"))
        lines.append(f"| {skip} | {' | '.join(cells)} |")
    lines += ["", f"{record['clips']} held-out clips that move, one run of each for every s; ± is the standard error."]
    if record["absent"]:
        lines.append(f"Not measured, since the bundle has no graph for it: {', '.join(record['absent'])}.")
    return "\n".join(lines)


def plot(record: Mapping[str, Any]) -> Frames:
    """The curves of a record, PSNR and SSIM by s and the gains of the right s, as a picture uint8 `[H, W, 3]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, (metric, words) in zip(panels, METRICS.items(), strict=False):
        for name, points in record["means"].items():
            style = "--" if name.startswith("group, ") else ":" if name in ("latent linear", "linear") else "-"
            values = [point[metric] for point in points]
            colour = "black" if name == "autoencoder" else None
            panel.plot(record["skips"], values, style, color=colour, marker="o", markersize=3, label=name)
        panel.set_title(f"frames between: {words}")
    panels[0].legend(fontsize=8)
    for name, points in record["right_over"].items():
        errors = [0.0 if point["standard_error_db"] is None else point["standard_error_db"] for point in points]
        values = [point["mean_db"] for point in points]
        panels[2].errorbar(record["skips"], values, errors, marker="o", markersize=3, capsize=3, label=f"over {name}")
    panels[2].axhline(0, color="grey", linewidth=0.8)
    panels[2].set_title("gain of telling the right s, dB (± standard error)")
    panels[2].legend(fontsize=8)
    for panel in panels:
        panel.set_xlabel("s (keyframes are s / 6 seconds apart)")
        panel.set_xticks(record["skips"])
        panel.grid(alpha=0.3)
    return figure_pixels(figure)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m bench.skip_values", description=__doc__.splitlines()[0])
    line.add_argument("--bundle", type=Path, default=ROOT / "graphs" / "demo", help="bundle folder (graphs/demo)")
    line.add_argument("--provider", default="cpu", help="provider asked of ffrt (cpu)")
    line.add_argument("--threads", type=int, help="CPU threads (ONNX Runtime's choice)")
    line.add_argument("--clips", type=int, default=16, help="held-out clips, before those that stand still go (16)")
    line.add_argument("--wrong", type=int, nargs="+", default=[3, 12], help="values told whatever is true (3 12)")
    line.add_argument("--quick", action="store_true", help=f"a smoke run: at most 2 clips, s of {QUICK_SKIPS} only")
    line.add_argument("--json", type=Path, help="record (bench/results/skip_values.json of a whole run, else none)")
    line.add_argument("--plot", type=Path, help="PNG (bench/results/skip_values.png of a whole run, else none)")
    return line


def check(asked: argparse.Namespace, picture: Path | None) -> None:
    """Raises `ValueError` for a request that cannot be measured, and for a plot that could not be drawn in the end."""
    if asked.clips < 1:
        raise ValueError(f"--clips: expected 1 or more, got {asked.clips}")
    if not set(asked.wrong) <= set(SKIPS):
        raise ValueError(
            f"--wrong: expected values that training has seen, {SKIPS[0]} to {SKIPS[-1]}, got {asked.wrong}"
        )
    if picture is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the plot needs matplotlib, which is not here: pip install matplotlib")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write record and plot, print the table. 0: it ran; 2: it could not, and nothing was written."""
    asked, usual = parser().parse_args(arguments), parser().parse_args([])
    whole = is_whole(asked, usual, FREE)
    results = ROOT / "bench" / "results" / "skip_values.json"
    record_place = results if whole and asked.json is None else asked.json
    picture = results.with_suffix(".png") if whole and asked.plot is None else asked.plot
    bundle = asked.bundle.resolve()
    try:
        check(asked, picture)
        pipe = Pipeline.from_pretrained(bundle, provider=asked.provider, threads=asked.threads)
    except (ValueError, FfrtError) as error:
        print(f"nothing measured: {error}", file=sys.stderr)
        return 2
    count, skips = (min(asked.clips, 2), QUICK_SKIPS) if asked.quick else (asked.clips, SKIPS)
    clips = [clip for clip in held_out(count) if clip.action != "standing still"]
    record = {
        "bench": "skip_values",
        "whole": whole,
        "environment": environment(bundle, asked.provider, asked.threads),
        "clips": len(clips),
        "skips": list(skips),
        "absent": methods_of(pipe.bundle.graphs)[1],
        **curves(measure(pipe, clips, skips, asked.wrong), asked.wrong),
    }
    if record_place is not None:
        write_json(record_place, record)
    if picture is not None:
        write_png(picture, plot(record))
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
