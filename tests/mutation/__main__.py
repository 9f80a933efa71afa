"""How many small wrong changes the tests notice: ``python -m tests.mutation --watched FILE --out RECORD``.

Needs ``pip install cosmic-ray coverage`` and the file of ``python -m tests.mutation.watch``. Changes are drawn by seed
from each package, and every one of them is tried in a copy of the tree with the tests that pass through its line,
the quickest first. A change that no test notices within the time is a survivor. Started again with the same RECORD it
goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.mutation.mutants import PACKAGES, Mutant, difference, in_function, mutants, mutated

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
"""Of tests for one change, by the times that were watched."""
MOST_TESTS = 150
ALWAYS = "tests/test_layering.py::test_dataclasses_are_frozen"
"""Reads the sources, so that it passes through no line of them."""
ORDINARY = "not slow and not attack"
LOADED = ("numpy", "onnxruntime", "onnx", "onnx_ir", "onnxscript", "torch", "av", "PIL.Image", "pytest")
"""Imported once, and then forked with every change."""


def tests_for(mutant: Mutant, source: str, watched: dict[str, Any]) -> tuple[list[str], float]:
    """Names of the tests that pass through the line, the quickest first, and their seconds."""
    names, seconds = list(watched["tests"]), watched["tests"]
    lines = watched["lines"].get(mutant.file, {})
    if in_function(source, mutant.line):
        numbers = set(lines.get(str(mutant.line), ()))
        if not numbers:  # a later line of a statement
            before = [int(line) for line in lines if int(line) < mutant.line]
            numbers = set(lines[str(max(before))]) if before else set()
    else:
        numbers = {number for found in lines.values() for number in found}
    chosen, total = [ALWAYS], 0.0
    for name in sorted((names[number] for number in numbers), key=lambda name: (seconds[name], name))[:MOST_TESTS]:
        total += seconds[name]
        if total > PATIENCE_S and len(chosen) > 1:
            break
        chosen.append(name)
    return chosen, total


def survives(tests: list[str], limit_s: float, tree: Path) -> str:
    """What a forked child finds: "killed", "survived" or "timeout"."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(tree)
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        import pytest

        code: int = 70
        with contextlib.suppress(BaseException):
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", ORDINARY, *tests]))
        os._exit(code)
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "killed"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def try_mutant(mutant: Mutant, tree: Path, watched: dict[str, Any]) -> dict[str, Any] | None:
    """A row of the record, or None where the change changes nothing."""
    path = tree / mutant.file
    source = path.read_text()
    changed = mutated(source, mutant)
    if changed is None:
        return None
    tests, seconds = tests_for(mutant, source, watched)
    row = {"file": mutant.file, "line": mutant.line, "change": difference(source, changed)}
    try:
        path.write_text(changed)
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*"):
            cached.unlink()
        found = survives(tests, 30 + 5 * seconds, tree)
    finally:
        path.write_text(source)
    return row | {"found": found, "tests": len(tests)}


def copied() -> Path:
    """A clone of the committed tree, which children import from."""
    tree = Path(tempfile.mkdtemp(prefix="ffrt-mutation-")) / "tree"
    subprocess.run(["git", "clone", "-q", ROOT, tree], check=True)
    subprocess.run([sys.executable, "-m", "compileall", "-q", tree], check=True)
    paths = [str(tree / "runtime"), str(tree)]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:0] = paths
    return tree


def main() -> None:
    """Try what is left of the draw, a line for each change."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--watched", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--package", choices=PACKAGES, action="append", help="(all)")
    parser.add_argument("--sample", type=int, default=100, help="changes of each package (100)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    watched = json.loads(args.watched.read_text())
    rows = json.loads(args.out.read_text()) if args.out.exists() else {}
    tree = copied()
    for name in LOADED:
        import_module(name)
    quick = sorted(watched["tests"], key=lambda name: float(watched["tests"][name]))[:200]
    if survives(quick, 600, tree) != "survived":
        raise SystemExit("python -m tests.mutation: tests fail before anything was changed; watch them again")
    try:
        for package in args.package if args.package is not None else PACKAGES:
            every = list(mutants(tree, package))
            random.Random(args.seed).shuffle(every)
            done = sum(key.startswith(f"{package}/") for key in rows)
            while every and done < args.sample:
                mutant = every.pop(0)
                key = f"{package}/{mutant.file}:{mutant.line}:{mutant.operator}:{mutant.occurrence}"
                row = None if key in rows else try_mutant(mutant, tree, watched)
                if row is None:
                    continue
                rows[key] = row
                done += 1
                args.out.write_text(json.dumps(rows, indent=1))
                print(f"{done}/{args.sample} {row['found']} {key}", *row["change"], sep="\n  ", flush=True)
    finally:
        shutil.rmtree(tree.parent)


if __name__ == "__main__":
    main()
