"""Which frames of a video the protocols of StyleGAN-V take: 16 consecutive ones of at most 2,048 videos."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.record import BenchError
from bench.metrics.networks.network import Opened
from bench.metrics.videos import Videos, read

LENGTH = 16
MOST_CLIPS = 2048


@dataclass(frozen=True)
class Answers:
    """What a network says of the clips of a folder, `[clips, D]`, and which clips those were."""

    rows: NDArray[np.float64]
    too_short: int
    size_px: tuple[int, int]
    choice: str

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clips": len(self.rows),
            "dropped_too_short": self.too_short,
            "size_px": list(self.size_px),
            "choice": self.choice,
        }


def answers(network: Opened, videos: Videos, seed: int | None = None) -> Answers:
    """Ask a network about every clip: frames 0 to 15, or with a seed 16 consecutive ones from a random frame on.

    Of more videos than 2,048 the first by name count, or with a seed a random choice.
    Videos of fewer than 16 frames are dropped, as the protocols do, and counted. Raises BenchError where none is left,
    and for videos of several sizes, which the protocols do not know.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    choice = "frames 0 to 15" if seed is None else f"16 consecutive frames, from a random one on (seed {seed})"
    rows: list[NDArray[np.float64]] = []
    size: tuple[int, int] | None = None
    too_short = 0
    for index in range(len(videos)) if rng is None else rng.permutation(len(videos)):
        name, frames = videos.names[index], read(videos.places[index])
        if len(frames) < LENGTH:
            too_short += 1
            continue
        here = (frames.shape[1], frames.shape[2])
        if size is not None and size != here:
            raise BenchError(f"{name}: expected videos of one size, {list(size)} as the first, got {list(here)}")
        size = here
        begin = 0 if rng is None else int(rng.integers(0, len(frames) - LENGTH + 1))
        rows.append(network(frames=frames[None, begin : begin + LENGTH])[0].astype(np.float64))
        if len(rows) == MOST_CLIPS:
            break
    if size is None:
        raise BenchError(f"{videos.folder}: expected videos of at least {LENGTH} frames, got {too_short} shorter ones")
    return Answers(np.stack(rows), too_short, size, choice)
