"""`python -m bench.skip_values`: quality of interpolation against the skip value s that the network is given, 1 to 12.

The paper asks what conditioning on s brings. s counts frames of 24 fps: neighbours in the finished clip are s / 24 s
apart, keyframes 4 s / 24 s. For each s a run of held-out clips is rendered at that distance, every fourth frame is
encoded, and what a method makes between is compared with what was rendered there. The group network is run again with
the same noise and a fixed s, right or wrong ("group, s 3"): where that is no worse, the conditioning has no effect.
Clips that stand still are left out, since every s is right for them. Scenes hold more than the demo's sentences name:
fast and curved ways, bounces, one body in front of another. More clips that spin stand apart by shape: at s = 12 a
square turns by 96 degrees between two keyframes, which looks like 6.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial

from bench.contenders.baselines import methods_of
from bench.harness import program
from bench.harness.program import Program, Result, check_counts
from bench.harness.record import BenchError
from bench.metrics.lpips import session
from bench.skip_values.figures import BESIDE, figures
from bench.skip_values.measure import SKIPS, films, measure_films
from bench.skip_values.plot import plot
from bench.skip_values.table import table
from ffrt import Pipeline

QUICK_SKIPS = (1, 3, 12)


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--clips", type=int, default=16, help="held-out clips, before those that stand still go (16)")
    line.add_argument("--scenes", type=int, default=18, help="held-out scenes (18)")
    line.add_argument("--spinning", type=int, default=10, help="more held-out clips that spin (10)")
    line.add_argument("--fixed", type=int, nargs="+", default=[3, 12], help="values given whatever is right (3 12)")
    line.add_argument("--quick", action="store_true", help=f"a smoke run: at most 2 of each, s of {QUICK_SKIPS} only")


def check(asked: Namespace) -> None:
    """Raise BenchError for a request that cannot be measured; a quick run has few clips."""
    check_counts(asked, "clips", "scenes", "spinning")
    if not set(asked.fixed) <= set(SKIPS):
        raise BenchError(f"--fixed: expected values used in training, {SKIPS[0]} to {SKIPS[-1]}, got {asked.fixed}")
    if asked.quick:
        asked.clips, asked.scenes, asked.spinning = min(asked.clips, 2), min(asked.scenes, 2), min(asked.spinning, 1)


def measure(asked: Namespace) -> Iterator[Result]:
    """Measure every s. Raises FfrtError where that cannot be done."""
    session()  # what LPIPS needs is fetched before anything is measured
    pipe = Pipeline.from_pretrained(asked.bundle.resolve(), provider=asked.provider, threads=asked.threads)
    skips = QUICK_SKIPS if asked.quick else SKIPS
    shown = films(asked.clips, asked.scenes, asked.spinning)
    kinds = [film.kind for film in shown]
    record = {
        "clips": sum(not kind.startswith(BESIDE) for kind in kinds),
        "skips": list(skips),
        "absent": methods_of(pipe.bundle.graphs)[1],
        **figures(measure_films(pipe, shown, skips, asked.fixed), kinds, asked.fixed),
    }
    yield Result(record, partial(plot, record))


PROGRAM = Program("skip_values", __doc__, measure, table, arguments, check, pictured=True, matplotlib=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep record and plot, print the tables. 0: it ran; 2: it could not, and nothing was written."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
