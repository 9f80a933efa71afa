"""The keyframes of a domain from nothing: ``python -m export.training.recipe``.

Words, pictures, whole clips, then grain at a falling rate; latents are encoded before the stage that needs them. Stop
it at any time (Ctrl-C, SIGTERM, a power cut): the same command goes on from the last checkpoint, and passes over stages
that are done. Averaged weights of every stage are left in ``--weights``, which must hold the autoencoder of
``python -m export.training movq``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffrt.cli.loading import loading

with loading("python -m export.training.recipe" if __name__ == "__main__" else None):
    import torch

    from export.checkpoints.weights import WEIGHTS
    from export.datasets.demo import DEMO
    from export.datasets.domain import Domain
    from export.datasets.domains import add_domain, asked_domain
    from export.training.keyframes import IMAGE, KeyframeStage, Lesson
    from export.training.latents import encode
    from export.training.levels import LevelDraw
    from export.training.loop import Settings, stop_alike, train
    from export.training.stages import Folders, Stage
    from export.training.text import TextStage
    from ffrt import FfrtError
    from ffrt.files import typed_path


@dataclass(frozen=True)
class Chapter:
    """A stage of the recipe: its lesson (None: the words) and how it is run."""

    lesson: Lesson | None
    settings: Settings

    @property
    def name(self) -> str:
        """What its checkpoint and curves are called."""
        return TextStage.name if self.lesson is None else self.lesson.name


CLIPS = Lesson("clips", "all", 8000)
GRAIN = Lesson("grain", "all", 8000, levels=LevelDraw("log-normal", damped=False))

RECIPE = (
    Chapter(None, Settings(steps=1200, batch=128, lr=3e-3)),
    Chapter(IMAGE, Settings(steps=3000, batch=64, lr=2e-3, rate="constant", measure_every=500)),
    Chapter(CLIPS, Settings(steps=20_000, batch=4, lr=1e-3, rate="constant", average=0.999, measure_every=500)),
    Chapter(GRAIN, Settings(steps=5000, batch=8, lr=3e-4, average=0.999, measure_every=500)),
)
"""Most of a day of one processor core.

Clips are learnt at one rate, so that more steps of them may be asked for at any time; a falling rate comes last.
"""


def steps_done(run: Path, name: str) -> int:
    """Steps of a chapter so far, by its checkpoint in ``run``."""
    path = run / f"{name}.pt"
    return int(torch.load(path, weights_only=True, map_location="cpu")["step"]) if path.exists() else 0


def left(chapters: Sequence[Chapter], run: Path, first: str | None = None) -> Iterator[Chapter]:
    """The chapters that are not done, by their checkpoints in ``run``; from the one called ``first`` on, if given."""
    names = [chapter.name for chapter in chapters]
    for chapter in chapters[0 if first is None else names.index(first) :]:
        if steps_done(run, chapter.name) < chapter.settings.steps:
            yield chapter
        else:
            print(f"{chapter.name}: done", file=sys.stderr)


def stage_of(chapter: Chapter, folders: Folders, domain: Domain[Any] = DEMO) -> Stage[Any]:
    """The stage, with what it needs encoded."""
    if chapter.lesson is None:
        return TextStage(folders, domain)
    clips, whole = chapter.lesson.clips, chapter.lesson.layers != "spatial"
    encode(folders.run, folders.weights, 0 if whole else clips, clips if whole else 0, domain)
    return KeyframeStage(folders, chapter.lesson, domain=domain)


def main() -> None:
    """Run what is left of the recipe."""
    parser = argparse.ArgumentParser(prog="python -m export.training.recipe", description=__doc__.splitlines()[0])
    names = [chapter.name for chapter in RECIPE]
    parser.add_argument("--first", choices=names, help="begin here: what comes before has left its weights (text)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the processor (PyTorch's choice)")
    parser.add_argument("--run", type=typed_path, default=Path("runs"), help="folder of checkpoints and latents")
    parser.add_argument("--weights", type=typed_path, default=WEIGHTS, help="folder of the weights that are kept")
    add_domain(parser)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    args.weights.mkdir(parents=True, exist_ok=True)
    stop_alike()
    try:
        domain = asked_domain(args)
        for chapter in left(RECIPE, args.run, args.first):
            torch.manual_seed(chapter.settings.seed)
            stage = stage_of(chapter, Folders(args.run, args.weights), domain)
            train(stage, replace(chapter.settings, device=args.device, run=args.run, weights=args.weights))
    except FfrtError as error:
        raise SystemExit(f"python -m export.training.recipe: {error}") from None


if __name__ == "__main__":
    main()
