"""What training and benches ask of a domain of clips: one protocol for shapes, digits and people.

A clip is the words of a caption and the numbers that were drawn for it; a renderer draws it at any time in seconds.
Some combinations of words are kept for tests: nothing that trains ever draws one of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

C = TypeVar("C")
"""A clip of the domain."""
T = TypeVar("T")
Part = Literal["keyframes", "pictures", "held_out"]
PARTS: tuple[Part, ...] = ("keyframes", "pictures", "held_out")
KEYFRAME_FPS = 2
SEEDS: Mapping[str, int] = {"keyframes": 11, "between": 12, "held_out": 13, "pictures": 14, "between_held_out": 15}
"""Of what is dealt for each purpose, the same in every domain."""
Words = Mapping[str, str | None]
"""What a clip shows, by attribute; None where a caption may say nothing."""


class Domain(Protocol[C]):
    """Clips with captions, drawn without end from a seed."""

    @property
    def name(self) -> str:
        """As it is typed: ``--domain NAME``."""

    @property
    def preset(self) -> str:
        """The sizes of its networks and pictures, in `export.models.configs.PRESETS`."""

    @property
    def keyframes(self) -> int:
        """Keyframes at 2 fps of the clips that networks train on."""

    @property
    def attributes(self) -> Mapping[str, tuple[str | None, ...]]:
        """Everything that captions name, with all its values."""

    def sample(self, rng: np.random.Generator) -> C:
        """A clip to train on."""

    def dealt(self, part: Part, count: int) -> list[C]:
        """The first ``count`` clips of a part; a longer list starts with a shorter one.

        All of "held_out" and none of the others are of kept combinations.
        """

    def between(self, fine: int, coarse: int) -> tuple[Sequence[C], Sequence[C]]:
        """What interpolation networks train on: clips for 24 and for 8 fps."""

    def between_held_out(self) -> Mapping[str, Sequence[C]]:
        """What they are measured with, by kind; "standing" has nothing to gain."""

    def is_kept(self, clip: C) -> bool:
        """Whether its combination of words is kept for tests."""

    def words(self, clip: C) -> Words:
        """What the clip shows: a value of every attribute."""

    def canonical(self, clip: C) -> str:
        """The plainest sentence that says all of it."""

    def caption(self, clip: C, rng: np.random.Generator) -> str:
        """What somebody might type for it; never untrue of the clip."""

    def render(self, clip: C, times_s: NDArray[np.floating] | Sequence[float], size_px: int) -> Tensor:
        """Frames at times ``[N]`` in seconds: float32 ``[N, 3, size_px, size_px]`` in -1..1.

        Each frame depends on its own time only.
        """


def seconds_of(domain: Domain[C]) -> float:
    """How long a clip is, from its first keyframe to its last."""
    return (domain.keyframes - 1) / KEYFRAME_FPS


def deck(cells: Sequence[T], rng: np.random.Generator) -> Iterator[T]:
    """Endless: all cells in one order, then in another."""
    while True:
        yield from (cells[index] for index in rng.permutation(len(cells)))


def corpus(domain: Domain[C], count: int, seed: int = 0) -> Iterator[str]:
    """Captions of random clips to train on, the same for the same seed."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield domain.caption(domain.sample(rng), rng)
