"""The command line that all benches share: arguments, checks, the record, its picture and where they are kept."""

import importlib.util
import math
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness.pictures import Pixels, write_png
from bench.harness.record import DEMO, RESULTS, ROOT, UNKNOWN, BenchError, Record, commit, environment, write_json
from ffrt import FfrtError
from ffrt.output.whole_file import check_file

OUTPUTS = frozenset({"json", "folder", "plot"})
"""Arguments that say where something is kept; they are no part of the command that a record names."""
FREE = OUTPUTS | {"provider", "threads"}
"""Arguments that a whole run may set: the others decide what is measured."""


@dataclass(frozen=True)
class Result:
    """One measurement, before it has its environment."""

    fields: Mapping[str, Any]
    """What the record holds; nothing is kept or shown if it is empty."""
    draw: Callable[[], Pixels] | None = None
    """Makes the picture of the record."""
    name: str | None = None
    """Of the files, where it is not the bench's."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """What the environment has beyond the usual."""
    notes: Sequence[str] = ()
    """Lines for stderr, after the table."""
    status: int = 0
    """Exit status of the program; the largest of all results counts."""


def nothing(asked: Namespace) -> None:
    """No check beyond those of every bench."""


def no_arguments(line: ArgumentParser) -> None:
    """No argument beyond those of every bench."""


def none_free(asked: Namespace) -> frozenset[str]:
    """Every argument of its own decides what is measured."""
    return frozenset()


@dataclass(frozen=True)
class Program:
    """A bench: `python -m bench.NAME` measures, keeps `bench/results/NAME.json` and prints the table made from it."""

    name: str
    doc: str | None
    measure: Callable[[Namespace], Iterator[Result]]
    """Measures; raises FfrtError where that cannot be done."""
    table: Callable[[Record], str]
    arguments: Callable[[ArgumentParser], None] = no_arguments
    check: Callable[[Namespace], None] = nothing
    """Raises FfrtError for arguments that make no sense, before anything is measured."""
    bundle: bool = True
    """Whether there is a --bundle to measure."""
    provider: str = "cpu"
    """Default of --provider; with `providers` the only choices."""
    providers: Sequence[str] | None = None
    threads: bool = True
    pictured: bool = False
    """Whether a whole run keeps its picture next to its record; `matplotlib` says that matplotlib draws it."""
    matplotlib: bool = False
    free: Callable[[Namespace], frozenset[str]] = none_free
    """Arguments of its own that a whole run may set."""


def parser(program: Program) -> ArgumentParser:
    """The command line of a bench."""
    summary = (program.doc or "").strip().splitlines()[0]
    line = ArgumentParser(prog=f"python -m bench.{program.name}", description=summary)
    if program.bundle:
        line.add_argument("--bundle", type=Path, default=DEMO, help="bundle folder (graphs/demo)")
    if program.providers is None or len(program.providers) > 1:
        line.add_argument(
            "--provider", default=program.provider, choices=program.providers, help=f"provider ({program.provider})"
        )
    if program.threads:
        line.add_argument("--threads", type=int, help="CPU threads (ONNX Runtime's choice)")
    line.add_argument("--json", type=Path, help=f"record (bench/results/{program.name}.json after a whole run)")
    line.add_argument("--plot", "--sheet", type=Path, dest="plot", help="picture as PNG (next to the record)")
    line.add_argument("--folder", type=Path, help="folder for record and picture, under their usual names")
    program.arguments(line)
    return line


def check_counts(asked: Namespace, *names: str) -> None:
    """Raise BenchError for an argument below 1; None passes."""
    for name in names:
        value = vars(asked)[name]
        if value is not None and value < 1:
            raise BenchError(f"--{name.replace('_', '-')}: expected 1 or more, got {value}")


def is_whole(program: Program, asked: Namespace) -> bool:
    """Whether every argument is at its default, except those that a whole run may set."""
    usual, free = vars(parser(program).parse_args([])), FREE | program.free(asked)
    return all(value == usual[name] for name, value in vars(asked).items() if name not in free)


def command(program: Program, asked: Namespace) -> str:
    """The command line that made a record, without places of its files and of folders outside the repository."""
    words = ["python", "-m", f"bench.{program.name}"]
    usual = vars(parser(program).parse_args([]))
    for name, value in vars(asked).items():
        if name in OUTPUTS or value == usual[name] or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += [spelled(one) for one in (value if isinstance(value, list | tuple) else [value])]
    return shlex.join(words)


def spelled(value: object) -> str:
    """A value of the command line; a path from the root of the repository, or its last part elsewhere."""
    if not isinstance(value, Path):
        return str(value)
    place = value.resolve()
    return str(place.relative_to(ROOT)) if place.is_relative_to(ROOT) else place.name


def check(program: Program, asked: Namespace) -> None:
    """Raise FfrtError for what cannot be measured, drawn or kept, before hours are spent on it."""
    if program.threads:
        check_counts(asked, "threads")
    program.check(asked)
    for place in (asked.json, asked.plot):
        if place is not None and place.parent.is_dir():
            check_file(place)
    whole = is_whole(program, asked)
    drawn = asked.plot is not None or asked.folder is not None or (whole and program.pictured)
    if program.matplotlib and drawn and importlib.util.find_spec("matplotlib") is None:
        raise BenchError("the plot needs matplotlib: pip install matplotlib")
    if whole and asked.json is None and asked.folder is None and not is_clean(commit()):
        raise BenchError(
            "a record in bench/results must come from a clean commit, and this tree has changes; commit "
            "them, or type --json FILE to keep the record elsewhere"
        )


def is_clean(made_by: str) -> bool:
    """Whether that is a commit without changes."""
    return made_by != UNKNOWN and not made_by.endswith("+")


def completed(program: Program, asked: Namespace, result: Result, wall_s: float) -> dict[str, Any]:
    """The record of a result."""
    values = vars(asked)
    around = environment(
        values["bundle"].resolve() if program.bundle else None,
        values.get("provider", program.provider),
        values.get("threads"),
    )
    return {
        "bench": program.name,
        "whole": is_whole(program, asked),
        "command": command(program, asked),
        "environment": {**around, **result.environment},
        **result.fields,
        "wall_s": wall_s,
    }


def keep(program: Program, asked: Namespace, result: Result, record: Record) -> None:
    """Write record and picture where they were asked for; else those of a whole run go to `RESULTS`."""
    name = program.name if result.name is None else result.name
    folder = asked.folder
    if folder is None and asked.json is None and record["whole"]:
        folder = RESULTS
    place, picture = asked.json, asked.plot
    if folder is not None:
        place = folder / f"{name}.json" if place is None else place
        if picture is None and (program.pictured or asked.folder is not None):
            picture = folder / f"{name}.png"
    if place is not None:
        write_json(place, record)
    if picture is not None and result.draw is not None:
        write_png(picture, result.draw())


def main(program: Program, arguments: Sequence[str] | None = None) -> int:
    """Measure, keep record and picture, print the table. 2: something cannot be measured; else the result's status."""
    asked = parser(program).parse_args(arguments)
    status = 0
    try:
        check(program, asked)
        began = time.perf_counter()
        for result in program.measure(asked):
            status = max(status, result.status)
            if result.fields:
                record = completed(program, asked, result, time.perf_counter() - began)
                keep(program, asked, result, record)
                print(program.table(record))
            for note in result.notes:
                print(note, file=sys.stderr)
            began = time.perf_counter()
    except (FfrtError, OSError) as error:
        print(f"{program.name}: not measured: {error}", file=sys.stderr)
        return 2
    return status


def target(name: str, measured: float, limit: float, *, least: bool = True, **more: Any) -> dict[str, Any]:
    """A row of `targets`: what was measured, what was asked for (at least, or at most), and whether it is met."""
    if not math.isfinite(measured):
        raise BenchError(f"{name}: expected a finite number, got {measured}")
    met = measured >= limit if least else measured <= limit
    return {"name": name, "measured": measured, "target": limit, "least": least, "met": bool(met), **more}
