"""How tables are written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DIGITS: Mapping[str, int] = {"%": 1, "points": 1, "dB": 1, "MB": 0, "GB": 1, "min": 1}
"""Digits after the point of a value in a unit."""


def number(value: float, unit: str) -> str:
    """A value with as many digits as its unit bears; of an unknown unit three significant ones."""
    if unit == "s":
        text = f"{value:.{2 if abs(value) < 10 else 1}f}"
    elif unit in DIGITS:
        text = f"{value:.{DIGITS[unit]}f}"
    else:
        text = f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [cells(heads), "|---" * len(heads) + "|", *map(cells, rows)]


def cells(values: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(values) + " |"


def verdict(target: Mapping[str, Any]) -> str:
    """Whether a target is met, for a table."""
    return "yes" if target["met"] else "**no**"
