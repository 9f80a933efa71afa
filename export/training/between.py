"""What the interpolation networks train on: whole clips, encoded once: ``python -m export.training.between``.

``between_08.npy`` holds clips at 8 fps, ``[clips, 61, 4, 16, 16]``, ``between_24.npy`` others at 24 fps,
``[clips, 181, 4, 16, 16]``; ``between_held_out.npz`` clips at 8 fps that are only measured, by what moves; all in
float16. Half of those of the demo are clips of its sentences, half scenes (`export.datasets.scenes`). A run of
neighbours that are s / 24 seconds apart is cut out of a clip from any frame on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ffrt.cli.loading import loading

with loading("python -m export.training.between" if __name__ == "__main__" else None):
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from export.checkpoints.weights import WEIGHTS, load_half
    from export.datasets.demo import DEMO
    from export.datasets.domain import Domain, seconds_of
    from export.datasets.domains import add_domain, asked_domain
    from export.errors import CheckpointError
    from export.models.configs import PRESETS
    from export.models.movq import MoVQEncoder
    from export.training.latents import encoded
    from ffrt import FfrtError
    from ffrt.files import typed_path
    from ffrt.output.whole_file import whole_file

GROUPS = 4
COARSE_FPS, FINE_FPS = 8, 24
COARSE, FINE = 800, 200
"""Clips at each rate: those at 8 fps serve skip values that are multiples of 3, those at 24 fps all."""


@dataclass(frozen=True)
class Run:
    """Clean latents ``[B, 4G+1, 4, h, w]`` of neighbours that are ``skip / 24`` seconds apart."""

    latents: Tensor
    skip: int


class Runs(Protocol):
    """What runs are drawn from."""

    def draw(self, skip: int, batch: int, rng: np.random.Generator, device: torch.device) -> Run:
        """``batch`` runs of one skip value."""


@dataclass(frozen=True)
class Clips:
    """Latents of whole clips at both rates."""

    coarse: NDArray[np.float16]
    fine: NDArray[np.float16]

    def draw(self, skip: int, batch: int, rng: np.random.Generator, device: torch.device) -> Run:
        """Runs of 4 groups, or fewer where a clip is too short, from any frame of any clip on."""
        pool, stride = (self.coarse, skip // 3) if skip % 3 == 0 else (self.fine, skip)
        groups = min(GROUPS, (pool.shape[1] - 1) // (4 * stride))
        span = 4 * groups * stride
        rows = []
        for _ in range(batch):
            first = int(rng.integers(pool.shape[1] - span))
            rows.append(pool[int(rng.integers(len(pool))), first : first + span + 1 : stride])
        return Run(torch.from_numpy(np.stack(rows).astype(np.float32)).to(device), skip)


def encode(run: Path, weights: Path, domain: Domain[Any] = DEMO) -> None:
    """Write into ``run`` what is not there yet."""
    encoder = MoVQEncoder(PRESETS[domain.preset].movq)
    load_half(encoder, weights / "movq_encoder.safetensors")
    run.mkdir(parents=True, exist_ok=True)
    for fps, shown in zip((FINE_FPS, COARSE_FPS), domain.between(FINE, COARSE), strict=True):
        name = f"between_{fps:02}"
        path = run / f"{name}.npy"
        if not path.exists():
            rows = latents_of(shown, fps, encoder, name, domain)
            with whole_file(path) as part:
                np.save(part, rows)
    path = run / "between_held_out.npz"
    if not path.exists():
        kept = domain.between_held_out()
        rows_of = {kind: latents_of(some, COARSE_FPS, encoder, kind, domain) for kind, some in kept.items()}
        with whole_file(path) as part, open(part, "wb") as file:
            np.savez(file, allow_pickle=False, **rows_of)


def latents_of(
    clips: Sequence[Any], fps: int, encoder: MoVQEncoder, name: str, domain: Domain[Any] = DEMO
) -> NDArray[np.float16]:
    """Latents of whole clips, ``[clips, N, 4, h, w]``: of shapes 7.5 fps + 1 frames."""
    times = np.arange(round(seconds_of(domain) * fps) + 1) / fps
    size = PRESETS[domain.preset].image_size
    rendered = (domain.render(clip, times, size) for clip in clips)
    return encoded(name, len(clips), rendered, encoder, every=20)


def training_runs(run: Path) -> Clips:
    """What :func:`encode` left in ``run``. Raises CheckpointError with the command where it is missing."""
    return Clips(*(np.load(there(run / f"between_{fps:02}.npy")) for fps in (COARSE_FPS, FINE_FPS)))


def held_out_runs(run: Path) -> Mapping[str, NDArray[np.float16]]:
    """Clips at 8 fps that are only measured, by what moves; raises as :func:`training_runs`."""
    with np.load(there(run / "between_held_out.npz")) as file:
        return {kind: file[kind] for kind in file.files}


def there(path: Path) -> Path:
    """The path of a file that exists."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; encode it: python -m export.training.between --run {path.parent}")
    return path


def main() -> None:
    """Encode what is not there yet."""
    parser = argparse.ArgumentParser(prog="python -m export.training.between", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int)
    add_domain(parser)
    parser.add_argument("--run", type=typed_path, default=Path("runs"))
    parser.add_argument("--weights", type=typed_path, default=WEIGHTS)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        encode(args.run, args.weights, asked_domain(args))
    except FfrtError as error:
        raise SystemExit(f"python -m export.training.between: {error}") from None


if __name__ == "__main__":
    main()
