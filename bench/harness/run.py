"""How every measurement is taken: warm-up, alternating order, median and spread, a record of the machine, JSON.

A record names the kind of machine, never the machine: no host name and no path.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ffrt

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs: median, quartile distance and how many."""

    median_s: float
    iqr_s: float
    runs: int


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
    """Seconds of every run of the contenders, taken in turn, the order reversed each round, so that drift of the
    machine favours none. The n-th runs of two contenders stood beside each other and may be divided.

    Raises `ValueError` for fewer than one run.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, got {runs}")
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


def compare(
    contenders: Mapping[str, Callable[[], object]],
    runs: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Median and spread of `rounds`."""
    return {name: summary(seconds) for name, seconds in rounds(contenders, runs, warm_up, clock).items()}


def progress(name: str, total: int) -> Iterator[int]:
    """Yield 0 .. total-1 and tell the time left on stderr: on one line of a terminal, else in ten lines of a log."""
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
    """Run `body` in a fresh interpreter; it reads `argument` and may add to `result`. With `show` its stderr is seen;
    `variables` are added to its environment.

    Returns `result` with the wall `seconds` of the body and the process's `peak_bytes`. The peak is VmHWM where there
    is one: ru_maxrss of a child starts at its parent's, which here has PyTorch in it.
    Raises `RuntimeError` with the child's last words when it fails.
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
        told = "" if done.stderr is None else f": {done.stderr.strip()[-2000:]}"
        raise RuntimeError(f"the measured process ended with {done.returncode}{told}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def commit() -> str:
    """The checkout's commit, with "+" when tracked files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no", "--", "runtime", "graphs"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def version(distribution: str) -> str | None:
    """Installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def environment(bundle: Path | None, provider: str, threads: int | None) -> dict[str, Any]:
    """What a number depends on: processor, cores, threads, versions, provider, bundle digest, commit."""
    manifest = bundle / "manifest.json" if bundle is not None else None
    digest = sha256(manifest.read_bytes()).hexdigest() if manifest is not None and manifest.is_file() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("numpy", "onnxruntime", "onnxruntime-gpu", "av")
    return {
        "cpu": cpu_model(),
        "cores": cores,
        "threads": threads,
        "provider": provider,
        "python": platform.python_version(),
        **{name: found for name in names if (found := version(name)) is not None},
        "ffrt": ffrt.__version__,
        "ffrt_from": "checkout" if ROOT in Path(ffrt.__file__).resolve().parents else "installed",
        "bundle": bundle.name if bundle is not None else None,
        "bundle_digest": digest,
        "commit": commit(),
    }


def is_whole(asked: Namespace, usual: Namespace, free: Collection[str]) -> bool:
    """Whether a run is one for `bench/results`: every argument as usual but those that change nothing measured."""
    return all(value == vars(usual)[name] for name, value in vars(asked).items() if name not in free)


def keep(record: Mapping[str, Any], place: Path | None) -> None:
    """Write a record to `place`, where one was asked for, or else a whole one to `bench/results/NAME.json`."""
    if place is None and record["whole"]:
        place = ROOT / "bench" / "results" / f"{record['bench']}.json"
    if place is not None:
        write_json(place, record)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record beside its place, then rename: a killed run leaves the old record or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
