"""A film to train on and to measure with: Big Buck Bunny, by shots: ``python -m export.datasets.film --run FOLDER``.

The film (Blender Foundation, CC BY 3.0, peach.blender.org) lies in the source distribution of moviepy 2.2.1, which is
never installed or imported. ``film.npy`` holds all its frames uint8 ``[N, 64, 128, 3]``, read in place; ``film.json``
its shots, found by measured difference (`ffrt.media.cuts`). Shots are dealt whole: of the time without credits, the
first 70 % train, the next 10 tune, the last 20 test. The longest shot is the credits; what follows them is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from export.datasets.sdist import Packed, fetch
from export.errors import DatasetError
from ffrt import FfrtError
from ffrt.files import typed_path
from ffrt.media.cuts import marked
from ffrt.output.whole_file import whole_file

FILM = Packed(
    package="moviepy",
    version="2.2.1",
    sdist_sha256="c80cb56815ece94e5e3e2d361aa40070eeb30a09d23a24c4e684d03e16deacb1",
    archive="moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip",
    archive_bytes=50_188_943,
    member="moviepy_10_minutes/resources/bbb.mp4",
    member_bytes=50_195_281,
    member_sha256="475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0",
)
Part = Literal["train", "tune", "test"]
Pictures = NDArray[np.uint8]
FPS = 24
HEIGHT, WIDTH = 64, 128
"""Of 128 x 72, a tenth of the film's, the middle: sides must be multiples of 32, and latents are 8 x 16."""
MOST_FRAMES = 20_000
LEAST_SHOT = 9
"""Frames of the shortest shot that is kept: keyframes at s = 1 and one group more."""
SHARES: Sequence[tuple[Part, float]] = (("train", 0.7), ("tune", 0.8), ("test", 1.0))
"""Where each part ends, in shares of the time."""
COMMAND = "python -m export.datasets.film --run"


@dataclass(frozen=True)
class Shot:
    """Frames ``first`` to ``end - 1`` of the film, between two cuts."""

    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Film:
    """Frames uint8 ``[N, H, W, 3]``, mapped from the disk, and the shots of every part."""

    frames: Pictures
    shots: dict[Part, list[Shot]]


def prepare(run: Path, sdist: Path | None = None, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """Write film and shots into ``run`` where they are not yet. Raises DatasetError where the film cannot be had."""
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "film.npy").is_file():
        fetch(FILM, run / "film.mp4", sdist)
        write_frames(run / "film.mp4", run / "film.npy", size)
    if not (run / "film.json").is_file():
        parts = dealt(shots_of(np.load(run / "film.npy", mmap_mode="r", allow_pickle=False)))
        with whole_file(run / "film.json") as part:
            part.write_text(json.dumps({name: [asdict(shot) for shot in some] for name, some in parts.items()}))


def opened(run: Path) -> Film:
    """What :func:`prepare` left in ``run``. Raises DatasetError with the command where it is missing or damaged."""
    try:
        frames = np.load(run / "film.npy", mmap_mode="r", allow_pickle=False)
        parts = json.loads((run / "film.json").read_text(encoding="utf-8"))
        shots: dict[Part, list[Shot]] = {part: [Shot(**shot) for shot in parts[part]] for part, _ in SHARES}
        ends = [shot.end for some in shots.values() for shot in some]
        if frames.ndim != 4 or frames.dtype != np.uint8 or max(ends) > len(frames):
            raise ValueError(f"{list(frames.shape)} of {frames.dtype} for shots up to frame {max(ends)}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{run}: expected a film and its shots, got {error}; type: {COMMAND} {run}") from error
    return Film(frames, shots)


def write_frames(video: Path, out: Path, size: tuple[int, int]) -> None:
    """Write every frame, small, to ``out``, one in memory at a time."""
    count = count_of(video)
    started = time.perf_counter()
    with whole_file(out) as part:
        frames = np.lib.format.open_memmap(part, "w+", np.uint8, (count, *size, 3))
        done = 0
        for done, picture in enumerate(decoded(video, size), 1):
            if done > count:
                break
            frames[done - 1] = picture
            if done % 1000 == 0:
                eta = (time.perf_counter() - started) / done * (count - done)
                print(f"film: {done}/{count} frames  ETA {eta:.0f} s", file=sys.stderr, flush=True)
        frames.flush()
        if done != count:
            raise DatasetError(f"{video}: expected {count} frames, got {'more' if done > count else done}")


def count_of(video: Path) -> int:
    """How many frames a video has, by its packets; nothing is decoded. Raises DatasetError for none and too many."""
    try:
        with av.open(str(video), "r") as container:
            count = sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
    except (OSError, ValueError, IndexError) as error:
        raise DatasetError(
            f"{video}: cannot read a video there: {error}; remove it, and type the same again"
        ) from error
    if not 1 <= count <= MOST_FRAMES:
        raise DatasetError(f"{video}: expected 1 to {MOST_FRAMES} frames, got {count}")
    return count


def decoded(video: Path, size: tuple[int, int]) -> Iterator[Pictures]:
    """Frames ``[H, W, 3]`` one by one: averaged over areas to the width, of the height the middle."""
    height, width = size
    try:
        with av.open(str(video), "r") as container:
            for frame in container.decode(container.streams.video[0]):
                tall = max(height, round(frame.height * width / frame.width))
                small = frame.reformat(width=width, height=tall, format="rgb24", interpolation="AREA")
                top = (tall - height) // 2
                yield np.asarray(small.to_ndarray(), np.uint8)[top : top + height]
    except av.FFmpegError as error:
        raise DatasetError(f"{video}: a frame cannot be read: {error}; remove it, and type the same again") from error


def shots_of(frames: Pictures) -> list[Shot]:
    """Shots of a film: what lies between two cuts."""
    cuts = [index for index, (_, begins) in enumerate(marked(frames)) if begins]
    return [Shot(first, end) for first, end in itertools.pairwise([*cuts, len(frames)])]


def dealt(shots: Sequence[Shot]) -> dict[Part, list[Shot]]:
    """Whole shots before the longest one, the credits, by part: a shot goes where its middle lies.

    Raises DatasetError where a part would be empty.
    """
    credits = max(range(len(shots)), key=lambda place: len(shots[place]))
    told = shots[:credits]
    found: dict[Part, list[Shot]] = {part: [] for part, _ in SHARES}
    for shot in told:
        middle = (shot.first + shot.end) / 2 / told[-1].end
        if len(shot) >= LEAST_SHOT:
            found[next(part for part, end in SHARES if middle <= end)].append(shot)
    if empty := [part for part, some in found.items() if not some]:
        raise DatasetError(f"expected shots of at least {LEAST_SHOT} frames to train, tune and test, got no {empty}")
    return found


def main() -> None:
    """Write what is not there yet, and say what there is."""
    line = argparse.ArgumentParser(prog="python -m export.datasets.film", description=__doc__.splitlines()[0])
    line.add_argument(
        "--run", type=typed_path, default=Path("build/film/run"), help="folder of the film (build/film/run)"
    )
    line.add_argument("--sdist", type=typed_path, help="moviepy-2.2.1.tar.gz, where pip cannot fetch it")
    asked = line.parse_args()
    try:
        prepare(asked.run, asked.sdist)
        for part, shots in opened(asked.run).shots.items():
            print(f"{part}: {len(shots)} shots, {sum(map(len, shots)) / FPS:.0f} s")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except FfrtError as error:
        raise SystemExit(f"python -m export.datasets.film: {error}") from None


if __name__ == "__main__":
    main()
