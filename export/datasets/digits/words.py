"""Sentences of two bouncing digits: the canonical one, its variants, and which combinations are kept for tests.

No PyTorch is needed to read this file.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from export.datasets.wording import dressed, mostly_first, noun_phrase, pick

MOTION_NAMES = ("moving up and down", "moving left and right")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KEPT_IN = 3
_WAYS = (
    ("up and down", "between top and bottom", "vertically"),
    ("left and right", "between left and right", "from side to side", "horizontally"),
)
_DOING = (("moving", "moves"), ("bouncing", "bounces"), ("going", "goes"), ("travelling", "travels"))
_JOINED = (" and ", " and ", ", and ", " while ", " with ")


@dataclass(frozen=True, order=True)
class Told:
    """One digit and its motion, as a sentence tells them."""

    digit: int
    motion: str


Cell = tuple[Told, Told]
"""The smaller digit first; of two equal ones the one whose motion comes first in the alphabet."""


def cells() -> list[Cell]:
    """Every combination of two digits and their motions, whose order does not count: 210."""
    told = sorted(Told(digit, motion) for digit in range(10) for motion in MOTION_NAMES)
    return list(itertools.combinations_with_replacement(told, 2))


def is_kept(cell: Cell) -> bool:
    """Whether a combination is kept for tests: where digits and places of motions sum up to a multiple of 3.

    Each digit with its motion, and each pair of digits, does come in training.
    """
    return sum(told.digit + MOTION_NAMES.index(told.motion) for told in cell) % KEPT_IN == 0


def canonical(first: Told, second: Told) -> str:
    """Such as ``a 3 moving up and down and a 7 moving left and right``."""
    return " and ".join(f"{noun_phrase('a', str(told.digit))} {told.motion}" for told in (first, second))


def variant(first: Told, second: Told, rng: np.random.Generator) -> str:
    """A free wording, in either order: synonyms, numbers as words, capitals and final punctuation drawn from `rng`."""
    told = (first, second) if rng.random() < 0.5 else (second, first)
    joined = pick(_JOINED, rng)
    naming, finite = int(rng.integers(4)), int(rng.random() < 0.3)
    if joined == " while ":
        finite = 1
    elif joined == " with ":
        finite = 0
    return dressed(joined.join(_clause(one, naming, finite, rng) for one in told), rng)


def caption(first: Told, second: Told, rng: np.random.Generator) -> str:
    """What somebody might type: 40 % the canonical sentence, otherwise a variant."""
    return canonical(first, second) if rng.random() < 0.4 else variant(first, second, rng)


def _clause(told: Told, naming: int, finite: int, rng: np.random.Generator) -> str:
    number = mostly_first((str(told.digit), NUMBERS[told.digit]), rng)
    name = (noun_phrase("a", number), f"the digit {number}", f"digit {number}", f"the {number}")[naming]
    verb = pick(_DOING, rng)[finite]
    return f"{name} {verb} {mostly_first(_WAYS[MOTION_NAMES.index(told.motion)], rng)}"
