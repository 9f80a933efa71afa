"""The prompts of the benches: combinations that no training saw, stratified, in two sets that share none.

`test` is what is reported. `tune` is for choosing sampling settings: a number tuned on the reported prompts would be a
number about those prompts. Both come from the third of the grammar that is kept (`export.datasets.grammar`).
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.harness.record import BenchError
from export.datasets.grammar import BACKGROUNDS, COLOURS, SHAPES, is_held_out

T = TypeVar("T")

SIZES = (None, "small", "large")
MOTIONS = ("moving right", "moving left", "moving up", "moving down", "standing still", "growing", "shrinking")
SPINNING = (("square", "spinning"), ("triangle", "spinning"))
SHAPE_ACTIONS = tuple((shape, action) for action in MOTIONS for shape in SHAPES) + SPINNING
KINDS = {
    "circle": tuple(("circle", action) for action in MOTIONS),
    "polygon": tuple((shape, action) for action in MOTIONS for shape in ("square", "triangle")),
    "spinning": SPINNING,
}
"""Shapes and actions by what may go wrong with an outline, as in `bench.metrics.figures`."""
FIRST_SEED = {"test": 7_110_000, "tune": 3_330_000}
FIRST_OUTLINE_SEED = 100
SET_SIZE = 250

Cell = tuple[tuple[str, str], str, str, str | None]


@dataclass(frozen=True)
class Case:
    """A prompt, the seed to generate it with, and what it should show."""

    prompt: str
    seed: int
    colour: str
    shape: str
    action: str
    background: str
    size: str | None


def deck(values: Sequence[T], rng: random.Random) -> Iterator[T]:
    """Endless shuffled decks of values, so that any stretch holds each about equally often."""
    while True:
        yield from rng.sample(values, len(values))


def dealt(shape_actions: Sequence[tuple[str, str]], rng: random.Random) -> Iterator[Cell]:
    """Endless kept cells: shape and action, background and size from decks, then the kept colour seen least so far."""
    seen: Counter[str] = Counter()
    for (shape, action), background, size in zip(
        *(deck(words, rng) for words in (shape_actions, BACKGROUNDS, SIZES)), strict=True
    ):
        kept = [colour for colour in COLOURS if is_held_out(colour, shape, action, background)]
        colour = min(rng.sample(kept, len(kept)), key=lambda word: seen[word])
        seen[colour] += 1
        yield (shape, action), colour, background, size


def distinct(cells: Iterator[Cell], count: int) -> list[Cell]:
    """The first `count` different ones, in the order drawn."""
    found: dict[Cell, None] = {}
    for cell in cells:
        found[cell] = None
        if len(found) == count:
            break
    return list(found)


def cases(count: int, split: str = "test") -> list[Case]:
    """The first `count` cases of a set. A shorter list is the start of a longer one.

    Raises BenchError for an unknown set and for a count that is not 1 to 250.
    """
    if split not in FIRST_SEED:
        raise BenchError(f"split: expected one of {sorted(FIRST_SEED)}, got {split!r}")
    if not 1 <= count <= SET_SIZE:
        raise BenchError(f"prompts: expected 1 to {SET_SIZE}, got {count}")
    start = 0 if split == "test" else SET_SIZE
    cells = distinct(dealt(SHAPE_ACTIONS, random.Random("ffrt demo prompts")), start + count)
    return [case_of(cell, FIRST_SEED[split] + index) for index, cell in enumerate(cells[start:])]


def outline_cases(count: int, seeds: int = 1) -> list[Case]:
    """`count` prompts for outlines, circles, polygons and what spins in turn, each with so many seeds from 100 on.

    Raises BenchError for a count that is not 1 to 144: 48 kept cells spin.
    """
    if not 1 <= count <= 3 * 48:
        raise BenchError(f"outlines: expected 1 to {3 * 48}, got {count}")
    share = -(-count // len(KINDS))
    columns = [distinct(dealt(pairs, random.Random(f"ffrt outlines {kind}")), share) for kind, pairs in KINDS.items()]
    cells = list(itertools.islice((cell for row in zip(*columns, strict=True) for cell in row), count))
    return [
        case_of(cell, FIRST_OUTLINE_SEED + index + turn * count)
        for turn in range(seeds)
        for index, cell in enumerate(cells)
    ]


def case_of(cell: Cell, seed: int) -> Case:
    """A cell of the grammar as what is asked for and what should be seen."""
    (shape, action), colour, background, size = cell
    return Case(sentence(shape, action, colour, background, size), seed, colour, shape, action, background, size)


def sentence(shape: str, action: str, colour: str, background: str, size: str | None) -> str:
    """The prompt of one cell of the grammar."""
    thing = f"{colour} {shape}" if size is None else f"{size} {colour} {shape}"
    return f"a {thing} {action} on a {background} background"
