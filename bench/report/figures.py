"""Figures in prose: each stands between markers and comes from a record, or names its source.

`<!-- value:RECORD/path DIGITS [UNIT] -->2.66<!-- /value -->` is written from `bench/results/RECORD.json`; a step of the
path is a key, an index, or `key=value` for the item of a list that has it. `<!-- source:WHERE -->35 dB<!-- /source -->`
is a number that nobody here measured; WHERE is a file of the repository, an https address or `arXiv NUMBER`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness.record import BenchError
from bench.report.records import load

VALUE = re.compile(r"<!-- value:(?P<path>\S+) (?P<digits>\d)(?: (?P<unit>\S+))? -->.*?<!-- /value -->", re.DOTALL)
SOURCE = re.compile(r"<!-- source:(?P<where>.+?) -->.*?<!-- /source -->", re.DOTALL)
TABLE = re.compile(r"<!-- bench:\S+ -->\n.*?<!-- /bench -->", re.DOTALL)
MARKER = re.compile(r"<!-- /?(?:value|source|bench)\b")
FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`|\]\([^)]*\)|<[^>\n]*>")
UNITS: Mapping[str, float] = {
    "%": 100.0,
    "points": 1.0,
    "times": 1.0,
    "dB": 1.0,
    "s": 1.0,
    "ms": 1e3,
    "min": 1 / 60,
    "MB": 1e-6,
    "GB": 1e-9,
    "GFLOP": 1e-9,
    "TFLOP": 1e-12,
}
"""What a value of a record is multiplied by to be shown in a unit."""
MEASURED_IN = r"dB|ms|s|seconds?|min|minutes?|hours?|times|[KMGT]B|[MGT]FLOPs?|FLOP/s"
FIGURE = re.compile(rf"(?<![\w.])\d[\d.,]*(?: ?%|x\b|[ -](?:{MEASURED_IN})\b)")
CELL = re.compile(r"(?<=[^\n]\|) *\d+\.\d+ *(?=\|)")  # the first cell of a row names what the row is about


def lookup(record: Any, path: str) -> float:
    """The number at a path of a record. Raises BenchError if there is none."""
    place = record
    for step in path.split("/"):
        try:
            if isinstance(place, list) and "=" in step:
                key, wanted = step.split("=", 1)
                (place,) = [item for item in place if str(item[key]) == wanted]
            else:
                place = place[int(step)] if isinstance(place, list) else place[step]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BenchError(f"value {path}: expected {step!r} in the record, got none") from error
    if isinstance(place, bool) or not isinstance(place, int | float):
        raise BenchError(f"value {path}: expected a number, got {type(place).__name__}")
    return place


def shown(value: float, digits: int, unit: str | None) -> str:
    """A value of a record as prose shows it. Raises BenchError for an unknown unit."""
    if unit is None:
        return f"{value:.{digits}f}"
    if unit not in UNITS:
        raise BenchError(f"value: expected a unit of {sorted(UNITS)}, got {unit!r}")
    return f"{value * UNITS[unit]:.{digits}f} {unit}"


def with_values(text: str, results: Path) -> str:
    """A page with every value written from its record. Raises BenchError where one cannot be had."""
    return VALUE.sub(partial(written, results), text)


def written(results: Path, match: re.Match[str]) -> str:
    """One marker with its value."""
    name, _, path = match["path"].partition("/")
    value = shown(lookup(load(results, name), path), int(match["digits"]), match["unit"])
    opening, _, _ = match[0].partition("-->")
    return f"{opening}-->{value}<!-- /value -->"


def unfounded(text: str, root: Path) -> list[str]:
    """Figures of a page that come from no record, and sources and markers that are none, each with its line."""
    found = []
    for match in SOURCE.finditer(text):
        where = match["where"]
        if not where.startswith(("https://", "arXiv ")) and not (root / where).is_file():
            found.append(f"line {line_of(text, match.start())}: source {where!r} is no file and no address")
    bare = text
    for pattern in (TABLE, VALUE, SOURCE, FENCE):
        bare = pattern.sub(lambda match: blank(match[0]), bare)
    for match in MARKER.finditer(bare):
        opening = bare[match.start() : match.start() + 40].splitlines()[0]
        found.append(f"line {line_of(text, match.start())}: {opening!r} is no whole marker")
    bare = CODE.sub(lambda match: blank(match[0]), bare)
    for pattern in (FIGURE, CELL):
        for match in pattern.finditer(bare):
            found.append(f"line {line_of(text, match.start())}: {match[0].strip()!r} stands in no record")
    return sorted(found, key=lambda fault: int(fault.split()[1].rstrip(":")))


def blank(text: str) -> str:
    """Spaces in place of a text, so that what follows keeps its line and column."""
    return "".join("\n" if letter == "\n" else " " for letter in text)


def line_of(text: str, position: int) -> int:
    """The number of the line of a position, from 1."""
    return text.count("\n", 0, position) + 1
