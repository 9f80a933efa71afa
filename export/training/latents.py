"""The latents that the U-Nets train on, encoded once and kept: ``python -m export.training.latents``.

``pictures.npy`` holds a random moment of each of many clips, ``[pictures, 1, 4, 16, 16]``; ``keyframes_NN.npy`` whole
clips at 2 fps, ``[1000, 16, 4, 16, 16]``; ``held_out.npy`` clips that are only measured; all in float16. The clips
that are shown are a function of a seed and their number (`Domain.dealt`), so captions are made anew for every
step. What the interpolation networks train on is in `export.training.between`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ffrt.cli.loading import loading

with loading("python -m export.training.latents" if __name__ == "__main__" else None):
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from export.checkpoints.weights import WEIGHTS, load_half
    from export.datasets.demo import DEMO
    from export.datasets.domain import KEYFRAME_FPS, SEEDS, Domain, seconds_of
    from export.datasets.domains import add_domain, asked_domain
    from export.errors import CheckpointError
    from export.models.configs import PRESETS
    from export.models.movq import MoVQEncoder
    from export.training.precision import half_precision
    from ffrt import FfrtError
    from ffrt.files import typed_path
    from ffrt.output.whole_file import whole_file

SHARD = 1000
"""Clips in a file of keyframes: encoding and training may take turns."""
HELD_OUT = 200
"""Clips that are only measured."""


def picture_moments(count: int, domain: Domain[Any] = DEMO) -> list[NDArray[np.float64]]:
    """The moment in seconds of each of the first ``count`` single pictures, ``[1]``."""
    return [
        np.random.default_rng([SEEDS["pictures"], 3, index]).uniform(0.0, seconds_of(domain), 1)
        for index in range(count)
    ]


def keyframe_times(count: int = 16) -> NDArray[np.float64]:
    """Seconds of so many keyframes."""
    return np.arange(count) / KEYFRAME_FPS


def write(
    path: Path,
    clips: Sequence[Any],
    times: list[NDArray[np.float64]],
    encoder: MoVQEncoder,
    domain: Domain[Any] = DEMO,
) -> None:
    """Encode and write, whole or not at all: an interrupted file is made again."""
    size = PRESETS[domain.preset].image_size
    rendered = (domain.render(clip, moments, size) for clip, moments in zip(clips, times, strict=True))
    rows = encoded(path.name, len(clips), rendered, encoder)
    with whole_file(path) as part:
        np.save(part, rows)


def encoded(
    name: str, count: int, rendered: Iterable[Tensor], encoder: MoVQEncoder, every: int = 50
) -> NDArray[np.float16]:
    """Latents ``[count, N, 4, 16, 16]`` of clips ``[N, 3, H, W]``, with a line of progress now and then."""
    started, rows = time.perf_counter(), []
    for done, frames in enumerate(rendered, 1):
        rows.append(in_pairs(frames, encoder))
        if done % every == 0:
            eta = (time.perf_counter() - started) / done * (count - done)
            print(f"{name}: {done}/{count}  ETA {eta:.0f} s", file=sys.stderr, flush=True)
    return np.stack(rows)


@torch.no_grad()
def in_pairs(frames: Tensor, encoder: MoVQEncoder) -> NDArray[np.float16]:
    """Latents ``[N, 4, h, w]`` of frames: two at a time stay in a processor's cache, which halves the seconds."""
    with half_precision("cpu"):
        return torch.cat([encoder(two).float().half() for two in frames.split(2)]).numpy()


def plans(
    picture_count: int, keyframes: int, domain: Domain[Any] = DEMO
) -> Iterator[tuple[str, Sequence[Any], list[NDArray[np.float64]]]]:
    """Every file with the clips that it shows, each at its times in seconds."""
    times = keyframe_times(domain.keyframes)
    yield "held_out.npy", domain.dealt("held_out", HELD_OUT), [times] * HELD_OUT
    if picture_count:
        yield "pictures.npy", domain.dealt("pictures", picture_count), picture_moments(picture_count, domain)
    clips = domain.dealt("keyframes", keyframes)
    for number, first in enumerate(range(0, keyframes, SHARD)):
        shard = clips[first : first + SHARD]
        yield f"keyframes_{number:02}.npy", shard, [times] * len(shard)


def encode(run: Path, weights: Path, picture_count: int, keyframes: int, domain: Domain[Any] = DEMO) -> None:
    """Write into ``run`` what is not there yet: so many pictures and whole clips (0: none)."""
    encoder = MoVQEncoder(PRESETS[domain.preset].movq)
    load_half(encoder, weights / "movq_encoder.safetensors")
    run.mkdir(parents=True, exist_ok=True)
    for name, clips, times in plans(picture_count, keyframes, domain):
        if not (run / name).exists():
            write(run / name, clips, times, encoder, domain)


def keyframe_latents(run: Path, count: int) -> NDArray[np.float16]:
    """The first ``count`` whole clips in ``run``: ``[count, 16, 4, 16, 16]``.

    Raises CheckpointError with the command that writes them.
    """
    shards = [run / f"keyframes_{number:02}.npy" for number in range(-(-count // SHARD))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise CheckpointError(
            f"{run}: expected {count} clips, got no {', '.join(missing)}; encode them: "
            f"python -m export.training.latents --run {run} --keyframes {len(shards) * SHARD}"
        )
    latents: NDArray[np.float16] = np.concatenate([np.load(shard) for shard in shards])[:count]
    return latents


def picture_latents(run: Path, count: int) -> NDArray[np.float16]:
    """The first ``count`` pictures in ``run``: ``[count, 1, 4, 16, 16]``; raises as :func:`keyframe_latents`."""
    path = run / "pictures.npy"
    latents: NDArray[np.float16] = np.load(path) if path.is_file() else np.zeros((0, 1, 4, 16, 16), np.float16)
    if len(latents) < count:
        raise CheckpointError(
            f"{path}: expected {count} pictures, got {len(latents)}; remove the file and encode them: "
            f"python -m export.training.latents --run {run} --pictures {count}"
        )
    return latents[:count]


def main() -> None:
    """Encode what is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m export.training.latents", description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=8000, help="single pictures (8000)")
    parser.add_argument("--keyframes", type=int, default=8000, help=f"clips, a multiple of {SHARD} (8000)")
    parser.add_argument("--threads", type=int)
    add_domain(parser)
    parser.add_argument("--run", type=typed_path, default=Path("runs"))
    parser.add_argument("--weights", type=typed_path, default=WEIGHTS)
    args = parser.parse_args()
    if args.keyframes % SHARD:
        parser.error(f"--keyframes: expected a multiple of {SHARD}, got {args.keyframes}")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        encode(args.run, args.weights, args.pictures, args.keyframes, asked_domain(args))
    except FfrtError as error:
        raise SystemExit(f"python -m export.training.latents: {error}") from None


if __name__ == "__main__":
    main()
