"""Thousands of damaged files, each opened in a child with limits: `python -m tests.attack.campaign --cases 2000`.

Prints a table, and what was found with the command that repeats it; ends with 1 if something was. A case may end or
raise an FfrtError. A traceback, a signal, 10 seconds of CPU, a minute of waiting or more than 1 GB are findings.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ffrt import FfrtError
from tests.attack.subjects import SUBJECTS, numbered

HANG_S = 10.0
"""CPU time of a case, which other programs do not prolong."""
WAIT_S = 60.0
"""Time on the clock, for a case that waits for something that never comes."""
FAT_KB = 1_000_000
BATCH = 200
"""Cases of one child. What it takes is measured from its first case on."""


def child(name: str, folder: Path, seed: int, numbers: range, pipe: int) -> None:
    """Run cases and tell of each: `number begins`, then `number outcome`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        os.write(pipe, f"{number} begins\n".encode())
        signal.setitimer(signal.ITIMER_PROF, HANG_S)  # ends the process, wherever it is
        try:
            numbered(name, folder, seed, number)
            came = "read"
        except FfrtError:
            came = "refused"
        except BaseException:
            came = "traceback " + traceback.format_exc(limit=-2).strip().replace("\n", " | ")[-400:]
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if taken > FAT_KB:
            came, before = f"fat {taken >> 10} MB, {came}", before + taken
        os.write(pipe, f"{number} {came}\n".encode())
    os._exit(0)


def outcomes(name: str, folder: Path, seed: int, numbers: range) -> Iterator[tuple[int, str]]:
    """What came of each case: of one that ends its child or hangs, too."""
    first = numbers.start
    while first < numbers.stop:
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            child(name, folder, seed, range(first, numbers.stop), writing)
        os.close(writing)
        at, began = first, time.monotonic()
        with os.fdopen(reading, "rb", buffering=0) as told:
            rest = b""
            while True:
                ready, _, _ = select.select([told], [], [], max(0.0, began + WAIT_S - time.monotonic()))
                raw = told.read(65536) if ready else b""
                if not raw:
                    break
                *lines, rest = (rest + raw).split(b"\n")
                for line in lines:
                    number, _, came = line.decode(errors="replace").partition(" ")
                    at, began = int(number), time.monotonic()
                    if came != "begins":
                        yield at, came
                        at += 1
        hung = not ready
        if hung:
            os.kill(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if at < numbers.stop:
            busy = status == -signal.SIGPROF
            told_of = f"hang over {HANG_S:.0f} s of CPU" if busy else f"hang over {WAIT_S:.0f} s"
            yield at, told_of if busy or hung else f"abort {status}"
        first = at + 1


def run(name: str, folder: Path, seed: int, numbers: range) -> tuple[Counter[str], list[str]]:
    """How often each outcome came, and the findings."""
    counted, findings = Counter[str](), list[str]()
    for start in range(numbers.start, numbers.stop, BATCH):
        for number, came in outcomes(name, folder, seed, range(start, min(start + BATCH, numbers.stop))):
            kind = came.split()[0]
            counted[kind] += 1
            if kind not in ("read", "refused"):
                findings.append(f"{name} {seed} {number}: {came}")
    return counted, findings


def prepared(name: str, folder: Path) -> Path:
    """The folder of a subject, filled by a child: what it loads would be in the way of a fork."""
    place = folder / name.replace(" ", "_")
    place.mkdir(parents=True)
    process = os.fork()
    if process == 0:
        try:
            SUBJECTS[name].make(place)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != 0:
        raise RuntimeError(f"{name}: nothing to damage")
    return place


def main(arguments: list[str] | None = None) -> int:
    """Run cases of every subject, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="in all")
    parser.add_argument("--minutes", type=float, help="new seeds, one after the other, until then")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=SUBJECTS, help="one subject")
    parser.add_argument("--case", type=int, help="one case of it, here in this process, with its traceback")
    args = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="ffrt-attack-"))
    try:
        names = [args.only] if args.only else list(SUBJECTS)
        places = {name: prepared(name, folder) for name in names}
        if args.case is not None:
            numbered(args.only, places[args.only], args.seed, args.case)
            return 0
        return campaign(places, args.seed, args.cases, args.minutes)
    finally:
        shutil.rmtree(folder)


def campaign(places: dict[str, Path], seed: int, cases: int, minutes: float | None) -> int:
    """Rounds of cases until their number or the time is reached."""
    counted: dict[str, Counter[str]] = {name: Counter() for name in places}
    findings: list[str] = []
    end = time.monotonic() + 60 * (0 if minutes is None else minutes)
    shares = sum(SUBJECTS[name].share for name in places)
    while True:
        for name, place in places.items():
            count = max(1, cases * SUBJECTS[name].share // shares)
            new, found = run(name, place, seed, range(count))
            counted[name] += new
            findings += found
            print(f"seed {seed}, {name}: {dict(new)}", *found, sep="\n  ", file=sys.stderr, flush=True)
        if time.monotonic() >= end:
            break
        seed += 1
    heads = ["read", "refused", "traceback", "abort", "hang", "fat"]
    print("| | cases | " + " | ".join(heads) + " |\n|---|" + "---|" * (len(heads) + 1))
    for name, found_of in [*counted.items(), ("all", sum(counted.values(), Counter[str]()))]:
        print(f"| {name} | {sum(found_of.values())} | " + " | ".join(str(found_of[head]) for head in heads) + " |")
    for finding in findings:
        name, _, number = finding.partition(":")[0].rpartition(" ")
        name, _, of_seed = name.rpartition(" ")
        print(f"{finding}\n  python -m tests.attack.campaign --only '{name}' --seed {of_seed} --case {number}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
