"""How every measurement is taken: warm-up, alternating order, median and spread, fresh processes."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ffrt
from bench.harness.record import ROOT, BenchError


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs: median, interquartile range and how many."""

    median_s: float
    iqr_s: float
    runs: int


class ChildError(BenchError, RuntimeError):
    """A measured process failed."""


def summary(seconds: list[float]) -> Timing:
    """Median and interquartile range of at least one run."""
    quartiles = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    return Timing(statistics.median(seconds), quartiles[2] - quartiles[0], len(seconds))


def rounds(
    contenders: Mapping[str, Callable[[], object]],
    runs: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every run of the contenders, taken in turn in an order that is reversed every round.

    So drift of the machine favours none, and the n-th runs of two contenders ran next to each other and may be divided.
    Raises BenchError for fewer than one run.
    """
    if runs < 1:
        raise BenchError(f"runs: expected at least 1, got {runs}")
    for _ in range(warm_up):
        for call in contenders.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(runs):
        for name in list(contenders)[:: 1 if turn % 2 == 0 else -1]:
            start = clock()
            contenders[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratio_of(above: list[float], below: list[float]) -> dict[str, float]:
    """The seconds of one contender over those of another, divided round by round: median and interquartile range."""
    spread = summary([a / b for a, b in zip(above, below, strict=True)])
    return {"median": spread.median_s, "iqr": spread.iqr_s}


def say(line: str) -> None:
    """Print a line of progress on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def progress(name: str, total: int) -> Iterator[int]:
    """Yield 0 .. total-1 and show the time left on stderr: on one line of a terminal, else in ten lines of a log."""
    start = time.perf_counter()
    terminal = sys.stderr.isatty()
    for i in range(total):
        yield i
        elapsed = time.perf_counter() - start
        left_s = elapsed / (i + 1) * (total - i - 1)
        if terminal or (i + 1) * 10 // total > i * 10 // total:
            line = f"{name} {i + 1}/{total}, {elapsed:.0f} s, {left_s:.0f} s left"
            end = "\n" if i + 1 == total or not terminal else " "
            print(f"\r{line}" if terminal else line, end=end, file=sys.stderr, flush=True)


CHILD = """
import json, resource, sys, time
def peak_bytes():
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
argument = json.loads(sys.argv[1])
result = {}
start = time.perf_counter()
%s
result["seconds"] = time.perf_counter() - start
result["peak_bytes"] = peak_bytes()
print(json.dumps(result))
"""


def child(
    body: str, argument: Mapping[str, object], show: bool = False, variables: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Run `body` in a fresh interpreter; it reads `argument` and may add to `result`.

    With `show` its stderr is passed through; `variables` are added to its environment. Returns `result` with the wall
    `seconds` of the body and the process's `peak_bytes`. The peak is VmHWM where there is one: ru_maxrss of a child
    starts at its parent's, which here has PyTorch in it. Raises ChildError with the last lines of stderr if it fails.
    """
    around = {**os.environ, **variables}
    folders = [str(Path(ffrt.__file__).parent.parent), around.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", CHILD % body, json.dumps(argument)],
        cwd=ROOT,
        env={**around, "PYTHONPATH": os.pathsep.join(filter(None, folders))},
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = "" if done.stderr is None else f": {done.stderr.strip()[-2000:]}"
        raise ChildError(f"the measured process ended with {done.returncode}{reason}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
