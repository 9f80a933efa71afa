"""`python -m bench.skip_values.film`: interpolation of real film, shots that no training saw, against every rival.

The bundle is what `make film` builds: the demo's networks, trained on the first 70 % of Big Buck Bunny (Blender
Foundation, CC BY 3.0). One run of every test shot of two seconds or more, for each skip value s; frames between are
compared with the film's own. "hold", "linear" and "minterpolate" start from decoded keyframes as the networks do;
"true" ones start from the film's own and so never pay for the autoencoder. The record holds numbers; its picture shows
five frames of a few shots.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.contenders.baselines import hold, methods_of, pictures
from bench.harness import program
from bench.harness.pictures import Row, contact_sheet
from bench.harness.program import Program, Result, check_counts
from bench.harness.record import BenchError, Record, digest_of
from bench.harness.run import progress
from bench.harness.words import markdown
from bench.metrics.base import Frames
from bench.metrics.lpips import session
from bench.metrics.table import METRICS, titles
from bench.skip_values.figures import compared, means
from bench.skip_values.measure import FACTOR, METRIC_NAMES, RUN_SEED, SKIPS, Scores, add_scores, contenders, run_of
from bench.skip_values.table import shown
from export.datasets.film import opened
from ffrt import Pipeline

TRUE = "true "
OURS = ("group", "masked")
RIVALS = ("masked", "hold", "linear", "minterpolate", "latent linear", "true linear", "true minterpolate")
SHEET_SHOTS = 3
"""How many shots the picture shows, at the middle one of the skip values."""
PICTURED = ("group", "masked", "latent linear", "minterpolate", "autoencoder")
BUILT = Path("build", "film")


def filled_in(pipe: Pipeline, exact: Frames, skip: int) -> dict[str, Frames]:
    """Every method's frames `[4G+1, H, W, 3]` from every fourth of `exact`, of the same shape."""
    ours = contenders(pipe, exact, skip, [])
    from_film = {TRUE + name: frames for name, frames in pictures(exact[::FACTOR], FACTOR).items()}
    return {**ours, "hold": hold(ours["autoencoder"][::FACTOR], FACTOR), **from_film}


def scores_of(pipe: Pipeline, shots: Sequence[Frames], skips: Sequence[int]) -> tuple[dict[int, Scores], list[Row]]:
    """Scores of one run of every shot for each s, and rows of pictures of the first ones."""
    scores: dict[int, Scores] = {skip: {} for skip in skips}
    rows: list[Row] = []
    for index in progress("film", len(shots)):
        for skip in skips:
            exact = np.asarray(run_of(shots[index], skip, np.random.default_rng([RUN_SEED, index, skip])))
            filled = filled_in(pipe, exact, skip)
            add_scores(scores[skip], filled, exact)
            if skip == skips[len(skips) // 2] and index % max(1, len(shots) // SHEET_SHOTS) == 0:
                named = {"film": exact, **{name: filled[name] for name in PICTURED if name in filled}}
                rows += [Row(f"s = {skip}: {name}", frames[: FACTOR + 1]) for name, frames in named.items()]
    return scores, rows


def over(scores: Mapping[int, Scores]) -> dict[str, dict[str, dict[str, Any]]]:
    """Every network less every rival in every metric, paired by shot: network -> rival -> metric -> by s."""
    methods = next(iter(scores.values()))
    return {
        ours: {
            rival: {metric: compared(scores, ours, rival, metric) for metric in METRIC_NAMES}
            for rival in RIVALS
            if rival in methods and rival != ours
        }
        for ours in OURS
        if ours in methods
    }


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone; its bundle is not the shipped one."""
    line.add_argument("--bundle", type=Path, default=BUILT / "bundle", help=f"({BUILT / 'bundle'})")
    line.add_argument("--film", type=Path, default=BUILT / "run", help=f"folder of the film ({BUILT / 'run'})")
    line.add_argument("--skips", type=int, nargs="+", default=list(SKIPS), help="skip values (1 to 12)")
    line.add_argument("--shots", type=int, help="how many test shots (all of two seconds or more)")


def check(asked: Namespace) -> None:
    """Raise BenchError for a request that cannot be measured."""
    check_counts(asked, "shots")
    if not set(asked.skips) <= set(SKIPS):
        raise BenchError(f"--skips: expected values of {SKIPS[0]} to {SKIPS[-1]}, got {asked.skips}")
    if not asked.bundle.is_dir():
        raise BenchError(f"{asked.bundle}: no such folder; `make film` builds it, in hours")


def measure(asked: Namespace) -> Iterator[Result]:
    """Measure every s. Raises FfrtError where that cannot be done."""
    session()  # what LPIPS needs is fetched before anything is measured
    film = opened(asked.film)
    least = FACTOR * max(SKIPS) + 1
    chosen = [film.frames[shot.first : shot.end] for shot in film.shots["test"] if len(shot) >= least][: asked.shots]
    if not chosen:
        raise BenchError(f"{asked.film}: expected a test shot of at least {least} frames, got none")
    pipe = Pipeline.from_pretrained(asked.bundle.resolve(), provider=asked.provider, threads=asked.threads)
    scores, rows = scores_of(pipe, chosen, asked.skips)
    record = {
        "film_bundle_digest": digest_of(asked.bundle),
        "shots": len(chosen),
        "skips": list(asked.skips),
        "size_px": list(film.frames.shape[1:3]),
        "absent": methods_of(pipe.bundle.graphs)[1],
        "means": means(scores),
        "over": over(scores),
    }
    yield Result(record, partial(contact_sheet, rows, FACTOR + 1, film.frames.shape[2], columns=1))


def curves(record: Record) -> list[str]:
    """The means, a row for each method, a column for each s."""
    heads = [titles(METRIC_NAMES), *(f"s = {skip}" for skip in record["skips"])]
    rows = [
        [name, *(" / ".join(METRICS[one].shown(point[one]) for one in METRIC_NAMES) for point in points)]
        for name, points in record["means"].items()
    ]
    height, width = record["size_px"]
    lines = [f"Frames between, {record['shots']} test shots of Big Buck Bunny at {width}x{height}, one run of each for"]
    lines += ["every s. `true` methods start from the film's own keyframes, all others from decoded ones."]
    return [*markdown(heads, rows), "", *lines]


def rivals(record: Record) -> list[str]:
    """Every network less every rival, shot by shot, in PSNR and LPIPS."""
    lines: list[str] = []
    for ours, others in record["over"].items():
        for metric in ("psnr_db", "lpips"):
            heads = [f"{ours}, {METRICS[metric].title}, less", *(f"s = {skip}" for skip in record["skips"])]
            digits = METRICS[metric].digits + 1
            rows = [[name, *(shown(point, digits) for point in found[metric])] for name, found in others.items()]
            lines += [*markdown(heads, rows), ""]
    return [*lines, "More is better in PSNR, less in LPIPS; ± is the standard error over shots."]


PARTS = {"curves": curves, "rivals": rivals}


def table(record: Record) -> str:
    """All tables of a record."""
    return "\n".join([*curves(record), "", *rivals(record)])


PROGRAM = Program("skip_values.film", __doc__, measure, table, arguments, check, bundle=False, pictured=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep record and picture, print the tables. 0: it ran; 2: it could not, and nothing was written."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
