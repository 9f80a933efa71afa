"""`python -m bench.serving`: what a server costs, how many clients it bears, and how soon it is back.

A real `ffrt serve` over the demo, with one thread for its engine, so that of two cores one is left to the API. Every
part is a record of its own, `serving_PART`, and may be made alone with `--only`; the soak of two hours is made only so.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from bench.harness import program
from bench.harness.program import Program, Result, check_counts
from bench.harness.record import BenchError, version
from bench.serving.cancel import cancels
from bench.serving.client import check_client, official
from bench.serving.load import load
from bench.serving.overhead import overhead
from bench.serving.plot import PLOTS
from bench.serving.recovery import recovery
from bench.serving.sizes import Sizes, sizes_of
from bench.serving.soak import soak
from bench.serving.table import table

PARTS: Mapping[str, Callable[[Sizes], dict[str, Any]]] = {
    "overhead": overhead,
    "load": load,
    "cancel": cancels,
    "recovery": recovery,
    "client": official,
    "soak": soak,
}
USUAL = [name for name in PARTS if name != "soak"]
QUICK_MIN = 0.2
SOAK_MIN = 120.0


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--threads", type=int, default=1, help="CPU threads of the server's engine (1)")
    line.add_argument("--only", nargs="+", choices=PARTS, default=USUAL, help="what to measure (all but the soak)")
    line.add_argument("--soak", type=float, metavar="MINUTES", help=f"minutes of the soak ({SOAK_MIN:g})")
    line.add_argument("--steps", type=int, help="denoising steps of a video (those of the fast preset)")
    line.add_argument("--quick", action="store_true", help="about a minute: everything once, few clients")


def check(asked: Namespace) -> None:
    """Raise BenchError for numbers that make no sense, and for one file of several records."""
    check_counts(asked, "threads", "steps")
    if asked.soak is not None and not 0 < asked.soak < 1e4:
        raise BenchError(f"--soak: expected minutes above 0, got {asked.soak}")
    if len(asked.only) > 1 and (asked.json is not None or asked.plot is not None):
        raise BenchError("several parts make several records: expected --folder, got --json or --plot")
    if "client" in asked.only:
        check_client()


def free(asked: Namespace) -> frozenset[str]:
    """What a whole run may set: a soak may take longer."""
    return frozenset({"only", "soak"}) if asked.soak is not None and asked.soak >= SOAK_MIN else frozenset({"only"})


def measure(asked: Namespace) -> Iterator[Result]:
    """Measure part by part; each is kept before the next one begins."""
    minutes = asked.soak if asked.soak is not None else QUICK_MIN if asked.quick else SOAK_MIN
    sizes = sizes_of(asked.bundle.resolve(), asked.threads, minutes, asked.quick, asked.steps)
    around = {name: version(name) for name in ("fastapi", "uvicorn")}
    for name in asked.only:
        record = {"part": name, **PARTS[name](sizes)}
        draw = partial(PLOTS[name], record) if name in PLOTS else None
        yield Result(record, draw, name=f"serving_{name}", environment=around)


PROGRAM = Program(
    "serving",
    __doc__,
    measure,
    table,
    arguments,
    check,
    providers=("cpu",),
    threads=False,
    pictured=True,
    matplotlib=True,
    free=free,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure part by part, keep records and plots, print the tables. 2: not everything could be measured."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
