"""The prompts of the benches: words of the demo grammar, stratified, in two sets that share none.

`test` is what is reported. `tune` is for choosing sampling settings: a number tuned on the reported prompts would be a
number about those prompts.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.harness.record import BenchError

T = TypeVar("T")

COLOURS = ("red", "green", "blue", "yellow", "white", "purple")
BACKGROUNDS = ("black", "grey", "brown", "teal")
SIZES = (None, "small", "large")
MOTIONS = ("moving right", "moving left", "moving up", "moving down", "standing still", "growing", "shrinking")
SHAPE_ACTIONS = (
    *((shape, action) for action in MOTIONS for shape in ("circle", "square", "triangle")),
    ("square", "spinning"),
    ("triangle", "spinning"),
)
FIRST_SEED = {"test": 7_110_000, "tune": 3_330_000}
SET_SIZE = 300


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


def cases(count: int, split: str = "test") -> list[Case]:
    """The first `count` cases of a set. A shorter list is the start of a longer one.

    Raises BenchError for an unknown set and for a count that is not 1 to 300.
    """
    if split not in FIRST_SEED:
        raise BenchError(f"split: expected one of {sorted(FIRST_SEED)}, got {split!r}")
    if not 1 <= count <= SET_SIZE:
        raise BenchError(f"prompts: expected 1 to {SET_SIZE}, got {count}")
    rng = random.Random("ffrt demo prompts")
    decks = zip(*(deck(words, rng) for words in (SHAPE_ACTIONS, COLOURS, BACKGROUNDS, SIZES)), strict=True)
    cells = list(dict.fromkeys(itertools.islice(decks, 3 * SET_SIZE)))  # distinct, in the order drawn
    start = 0 if split == "test" else SET_SIZE
    return [
        Case(
            sentence(shape, action, colour, background, size),
            FIRST_SEED[split] + index,
            colour,
            shape,
            action,
            background,
            size,
        )
        for index, ((shape, action), colour, background, size) in enumerate(cells[start : start + count])
    ]


def sentence(shape: str, action: str, colour: str, background: str, size: str | None) -> str:
    """The prompt of one cell of the grammar."""
    thing = f"{colour} {shape}" if size is None else f"{size} {colour} {shape}"
    return f"a {thing} {action} on a {background} background"
