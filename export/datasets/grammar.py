"""The words of the demo domain, every combination of them, and which combinations are kept for tests.

A third of the combinations of colour, shape, action and background, at every size, is never drawn in training. Any
three words of one of them do come together in training; all four never do. No PyTorch is needed to read this file.
"""

import itertools
from dataclasses import dataclass

from export.errors import SceneError

COLOURS = ("red", "green", "blue", "yellow", "white", "purple")
SHAPES = ("circle", "square", "triangle")
ACTIONS = (
    "moving right",
    "moving left",
    "moving up",
    "moving down",
    "standing still",
    "growing",
    "shrinking",
    "spinning",
)
BACKGROUNDS = ("black", "grey", "brown", "teal")
SIZES = ("small", "large")


@dataclass(frozen=True)
class Combination:
    """The discrete part of a clip: one cell of the grammar."""

    colour: str
    shape: str
    action: str
    background: str
    size: str | None


def combinations() -> list[Combination]:
    """Every cell of the grammar in a fixed order: 6 colours x 23 shape-actions x 4 backgrounds x 3 sizes.

    A spinning circle would look like a still one, so there is none.
    """
    cells = itertools.product(COLOURS, SHAPES, ACTIONS, BACKGROUNDS, (None, *SIZES))
    return [Combination(*cell) for cell in cells if (cell[1], cell[2]) != ("circle", "spinning")]


def is_held_out(colour: str, shape: str, action: str, background: str) -> bool:
    """Whether these four words together are kept for tests: where their places in the tables sum up to a multiple of 3.

    Of the choices for one word, where the other three are given, at most half are kept.
    Raises `SceneError` for a word outside the grammar.
    """
    words = (("colour", colour, COLOURS), ("shape", shape, SHAPES), ("action", action, ACTIONS))
    total = 0
    for field, word, table in (*words, ("background", background, BACKGROUNDS)):
        if word not in table:
            raise SceneError(f"{field} must be one of {table}, got {word!r}")
        total += table.index(word)
    return total % 3 == 0


def split() -> tuple[list[Combination], list[Combination]]:
    """All cells as (trained, held out), each in the order of `combinations`."""
    trained: list[Combination] = []
    kept: list[Combination] = []
    for cell in combinations():
        held = is_held_out(cell.colour, cell.shape, cell.action, cell.background)
        (kept if held else trained).append(cell)
    return trained, kept
