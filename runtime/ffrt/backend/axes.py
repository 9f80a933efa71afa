"""Sizes of symbolic axes: letters, fixed sizes and products such as `B*T`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Axis = int | str


def bind_axes(axes: Sequence[tuple[str, Axis, int]]) -> dict[str, int]:
    """Sizes of all symbolic axes from rows (argument, axis, size); a product is checked once its letters are known.

    Raises ValueError naming the argument if a fixed size differs or two arguments disagree.
    """
    sizes: dict[str, int] = {}
    for argument, axis, size in sorted(axes, key=lambda row: str(row[1]).count("*")):
        expected = evaluate(axis, sizes)
        if expected is None:
            name = str(axis)
            unknown = [letter for letter in name.split("*") if letter not in sizes]
            rest = math.prod(sizes[letter] for letter in name.split("*") if letter in sizes)
            if size % rest:
                raise ValueError(f"input {argument}: expected axis {axis} to be a multiple of {rest}, got {size}")
            if len(unknown) == 1:
                sizes[unknown[0]] = size // rest
            sizes[name] = size
        elif expected != size:
            known = {letter: sizes[letter] for letter in str(axis).split("*") if letter in sizes}
            because = f" (with {known} from the other inputs)" if known else ""
            raise ValueError(f"input {argument}: expected axis {axis} to be {expected}{because}, got {size}")
    return sizes


def evaluate(axis: Axis, sizes: Mapping[str, int]) -> int | None:
    """The size of an axis, None where a letter of it is not known."""
    if isinstance(axis, int):
        return axis
    letters = axis.split("*")
    if all(letter in sizes for letter in letters):
        return math.prod(sizes[letter] for letter in letters)
    return sizes.get(axis)
