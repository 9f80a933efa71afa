"""A second set of networks, for real film: ``python -m export.training.film --run FOLDER --weights FOLDER``.

The demo's autoencoder and interpolation networks, by the same losses and draws, on the shots of
`export.datasets.film`. Three chapters: ``film_movq``; ``interpolation``, for which the shots are encoded first; and
``masked_interpolation``, with as many samples. Stop it at any time (Ctrl-C, SIGTERM, a power cut): the same command
goes on from the last checkpoint, and passes over what is done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffrt.cli.loading import loading

with loading("python -m export.training.film" if __name__ == "__main__" else None):
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from export.checkpoints.weights import load_half
    from export.datasets.film import Film, Pictures, Shot, opened, prepare
    from export.errors import DatasetError
    from export.models.configs import PRESETS
    from export.models.movq import MoVQEncoder
    from export.training.between import COARSE_FPS, FINE_FPS, GROUPS, Run, Runs
    from export.training.interpolation import InterpolationStage, MaskedInterpolationStage
    from export.training.latents import in_pairs
    from export.training.loop import Settings, stop_alike, train
    from export.training.recipe import steps_done
    from export.training.stages import Folders, MoVQStage, Stage
    from ffrt import FfrtError
    from ffrt.files import typed_path
    from ffrt.output.whole_file import whole_file

COMMAND = "python -m export.training.film"
LATENTS = "film_latents.npy"
AT_ONCE = 50
"""Frames between two lines of progress, and in memory, while shots are encoded."""
WINDOW = 49
"""Frames of a window that is only measured: one group at s = 12."""


class FilmMoVQStage(MoVQStage):
    """The autoencoder, on frames of the shots to train on, half of them mirrored."""

    name, steps = "film_movq", 5000

    def __init__(self, folders: Folders) -> None:
        super().__init__(folders)
        self.film = opened(folders.run)
        self.places = places(self.film.shots["train"])

    def frames(self, rng: np.random.Generator, count: int) -> Tensor:
        """``count`` frames of any shots: ``[count, 3, H, W]`` in -1..1."""
        chosen = self.film.frames[np.sort(rng.choice(self.places, count))]
        mirrored = rng.random(count) < 0.5
        return normalised(np.where(mirrored[:, None, None, None], chosen[:, :, ::-1], chosen))

    def held_out(self) -> Tensor:
        """Frames to measure with, evenly out of the shots to tune on."""
        tuned = places(self.film.shots["tune"])
        return normalised(self.film.frames[tuned[:: -(-len(tuned) // 32)]])


@dataclass(frozen=True)
class ShotRuns:
    """Runs out of the latents ``[N, 4, h, w]`` of a film, none of which crosses a cut."""

    latents: NDArray[np.float16]
    shots: Sequence[Shot]

    def draw(self, skip: int, batch: int, rng: np.random.Generator, device: torch.device) -> Run:
        """Runs of 4 groups, or as few as the shortest of the shots drawn has room for; longer shots come more often."""
        span = 4 * skip
        roomy = [shot for shot in self.shots if len(shot) > span]
        if not roomy:
            raise DatasetError(f"expected a shot of more than {span} frames to train s = {skip}, got none")
        starts = np.array([len(shot) - span for shot in roomy])
        chosen = [roomy[place] for place in rng.choice(len(roomy), batch, p=starts / starts.sum())]
        groups = min(GROUPS, *((len(shot) - 1) // span for shot in chosen))
        rows = []
        for shot in chosen:
            first = shot.first + int(rng.integers(len(shot) - groups * span))
            rows.append(self.latents[first : first + groups * span + 1 : skip])
        return Run(torch.from_numpy(np.stack(rows).astype(np.float32)).to(device), skip)


class FilmInterpolationStage(InterpolationStage):
    """The group network on the shots of a film; what is only measured are windows of 2 s of the shots to tune on."""

    steps = 4000

    @staticmethod
    def shown(run: Path) -> tuple[Runs, Mapping[str, NDArray[np.float16]]]:
        """Runs of the shots to train on; latents of windows at 8 fps, ``[windows, 17, 4, h, w]``."""
        film = opened(run)
        path = run / LATENTS
        if not path.is_file():
            raise DatasetError(f"{path}: no such file; it is made by: {COMMAND} --run {run}")
        latents = np.load(path, mmap_mode="r", allow_pickle=False)
        firsts = [at for shot in film.shots["tune"] for at in range(shot.first, shot.end - WINDOW + 1, WINDOW)]
        if not firsts:
            raise DatasetError(f"expected a shot of {WINDOW} frames to tune on, got none")
        windows = np.stack([latents[at : at + WINDOW : FINE_FPS // COARSE_FPS] for at in firsts])
        return ShotRuns(latents, film.shots["train"]), {"tune": windows}


class FilmMaskedStage(MaskedInterpolationStage, FilmInterpolationStage):
    """The baseline, from the same draws."""


STAGES: Mapping[str, Callable[[Folders], Stage[Any]]] = {
    "film_movq": FilmMoVQStage,
    "interpolation": FilmInterpolationStage,
    "masked_interpolation": FilmMaskedStage,
}
"""What every chapter trains, by the name of its checkpoint."""
STEPS = (FilmMoVQStage.steps, FilmInterpolationStage.steps, FilmMaskedStage.steps)


def places(shots: Sequence[Shot]) -> NDArray[np.int64]:
    """The index of every frame of some shots."""
    return np.concatenate([np.arange(shot.first, shot.end) for shot in shots])


def normalised(pictures: Pictures) -> Tensor:
    """Pictures ``[N, H, W, 3]`` as networks take them: ``[N, 3, H, W]`` in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def encode(film: Film, run: Path, weights: Path) -> None:
    """Write the latents ``[N, 4, h, w]`` of the shots to train and tune on, zero elsewhere, unless they are there."""
    if (run / LATENTS).is_file():
        return
    movq = PRESETS["film"].movq
    encoder = MoVQEncoder(movq)
    load_half(encoder, weights / "movq_encoder.safetensors")
    wanted = places([*film.shots["train"], *film.shots["tune"]])
    height, width = (side // movq.downscale for side in film.frames.shape[1:3])
    started = time.perf_counter()
    with whole_file(run / LATENTS) as part:
        shape = (len(film.frames), movq.z_channels, height, width)
        latents = np.lib.format.open_memmap(part, "w+", np.float16, shape)
        for done in range(0, len(wanted), AT_ONCE):
            some = wanted[done : done + AT_ONCE]
            latents[some] = in_pairs(normalised(film.frames[some]), encoder)
            if done % (20 * AT_ONCE) == 0:
                so_far = done + len(some)
                eta = (time.perf_counter() - started) / so_far * (len(wanted) - so_far)
                print(f"{LATENTS}: {so_far}/{len(wanted)} frames  ETA {eta:.0f} s", file=sys.stderr, flush=True)
        latents.flush()


def go_through(folders: Folders, settings: Settings, steps: Sequence[int]) -> None:
    """All chapters that are not done, each of so many steps."""
    for (name, kind), count in zip(STAGES.items(), steps, strict=True):
        if name != FilmMoVQStage.name:
            encode(opened(folders.run), folders.run, folders.weights)
        if steps_done(folders.run, name) >= count:
            print(f"{name}: done", file=sys.stderr)
            continue
        torch.manual_seed(settings.seed)
        stage = kind(folders)
        train(stage, replace(settings, steps=count, batch=stage.batch, lr=stage.lr))


def main() -> None:
    """Fetch the film, and go through what is left."""
    line = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    line.add_argument("--run", type=typed_path, default=Path("build/film/run"), help="(build/film/run)")
    line.add_argument("--weights", type=typed_path, default=Path("build/film/weights"), help="(build/film/weights)")
    line.add_argument("--sdist", type=typed_path, help="moviepy-2.2.1.tar.gz, where pip cannot fetch it")
    line.add_argument("--steps", type=int, nargs=len(STEPS), default=STEPS, help=f"of every chapter {STEPS}")
    line.add_argument("--threads", type=int, help="of the processor (PyTorch's choice)")
    line.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = line.parse_args()
    if min(asked.steps) < 1:
        line.error(f"--steps: expected 1 or more of each, got {list(asked.steps)}")
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    for folder in (asked.run, asked.weights):
        folder.mkdir(parents=True, exist_ok=True)
    stop_alike()
    settings = Settings(1, 1, 1.0, device=asked.device, save_every=50, run=asked.run, weights=asked.weights)
    try:
        prepare(asked.run, asked.sdist)
        go_through(Folders(asked.run, asked.weights), settings, asked.steps)
    except KeyboardInterrupt:
        print("\nstopped; give the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
    except FfrtError as error:
        raise SystemExit(f"{COMMAND}: {error}") from None


if __name__ == "__main__":
    main()
