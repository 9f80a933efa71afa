"""The domain "digits" for training and benches: clips of two bouncing digits, their captions and their split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from export.datasets.digits import words
from export.datasets.digits.pictures import Digits
from export.datasets.digits.scene import FRAME_PX, MOTIONS, PERIOD_S, Body, BouncingClip, draw
from export.datasets.digits.words import Cell, Told
from export.datasets.domain import SEEDS, Part, Words, deck

TRAINED = tuple(cell for cell in words.cells() if not words.is_kept(cell))
KEPT = tuple(cell for cell in words.cells() if words.is_kept(cell))
INSET = 0.3
"""How far from an edge a digit may stand on its other axis, of the room that it has there."""
MEASURED = 24
"""Clips that interpolation is measured with."""
_DIGITS = tuple(map(str, range(10)))


@dataclass(frozen=True)
class DigitsDomain:
    """Clips of two of these digits; kept combinations show pictures that no training saw."""

    digits: Digits
    keyframes: int = 16
    name: ClassVar[str] = "digits"
    preset: ClassVar[str] = "digits"
    attributes: ClassVar[Mapping[str, tuple[str | None, ...]]] = {
        "first_digit": _DIGITS,
        "first_motion": MOTIONS,
        "second_digit": _DIGITS,
        "second_motion": MOTIONS,
    }

    def sample(self, rng: np.random.Generator) -> BouncingClip:
        """A clip to train on."""
        return self.of_cell(TRAINED[int(rng.integers(len(TRAINED)))], rng, kept=False)

    def of_cell(self, cell: Cell, rng: np.random.Generator, kept: bool) -> BouncingClip:
        """A clip of these words: pictures, periods and places drawn.

        Ways lie near the edges: parallel ones lie opposite and hardly touch, others cross in a corner.
        """
        opposite = cell[0].motion == cell[1].motion
        side = rng.random() < 0.5
        other = not side if opposite else rng.random() < 0.5
        insets = rng.uniform(0.0, INSET, 2)
        places = [1 - inset if far else inset for far, inset in zip((side, other), insets, strict=True)]
        first, second = (self._body(told, place, rng, kept) for told, place in zip(cell, places, strict=True))
        return BouncingClip((first, second))

    def _body(self, told: Told, place: float, rng: np.random.Generator, kept: bool) -> Body:
        rows = self.digits.rows(told.digit, kept)
        row = int(rows[int(rng.integers(len(rows)))])
        return Body(told.digit, told.motion, row, float(rng.uniform(*PERIOD_S)), float(rng.random()), float(place))

    def _dealt(self, cells: Sequence[Cell], count: int, seed: int, kept: bool) -> list[BouncingClip]:
        drawn = deck(cells, np.random.default_rng([seed, 0]))
        return [self.of_cell(next(drawn), np.random.default_rng([seed, 2, index]), kept) for index in range(count)]

    def dealt(self, part: Part, count: int) -> list[BouncingClip]:
        """The first ``count`` clips of a part; all combinations come in turn, each turn in a new order."""
        kept = part == "held_out"
        return self._dealt(KEPT if kept else TRAINED, count, SEEDS[part], kept)

    def between(self, fine: int, coarse: int) -> tuple[list[BouncingClip], list[BouncingClip]]:
        """Other clips of the same kind."""
        clips = self._dealt(TRAINED, fine + coarse, SEEDS["between"], kept=False)
        return clips[:fine], clips[fine:]

    def between_held_out(self) -> Mapping[str, list[BouncingClip]]:
        """Clips of kept combinations."""
        return {"digits": self._dealt(KEPT, MEASURED, SEEDS["between_held_out"], kept=True)}

    def is_kept(self, clip: BouncingClip) -> bool:
        """Whether digits and motions together are kept for tests."""
        return words.is_kept(told(clip))

    def words(self, clip: BouncingClip) -> Words:
        """Digits and motions, the smaller digit first, in whatever order a sentence names them."""
        first, second = told(clip)
        return {
            "first_digit": str(first.digit),
            "first_motion": first.motion,
            "second_digit": str(second.digit),
            "second_motion": second.motion,
        }

    def canonical(self, clip: BouncingClip) -> str:
        """Such as ``a 3 moving up and down and a 7 moving left and right``."""
        return words.canonical(*told(clip))

    def caption(self, clip: BouncingClip, rng: np.random.Generator) -> str:
        """The canonical sentence or a variant of it."""
        return words.caption(*told(clip), rng)

    def render(
        self, clip: BouncingClip, times_s: NDArray[np.floating] | Sequence[float], size_px: int = FRAME_PX
    ) -> Tensor:
        """Frames ``[N, 3, size_px, size_px]`` in -1..1."""
        return draw(clip, self.digits, times_s, size_px)


def told(clip: BouncingClip) -> Cell:
    """What a sentence tells of a clip."""
    first, second = sorted(Told(body.digit, body.motion) for body in clip.bodies)
    return first, second
