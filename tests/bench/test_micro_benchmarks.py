"""The micro-benchmarks run, apart from the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from bench.contenders import baselines
from bench.harness.record import ROOT
from ffrt import Bundle


def micro(used: Bundle, *more: str) -> subprocess.CompletedProcess[str]:
    """The micro-benchmarks, each run once and not timed; the tiny vocabulary cuts their prompt."""
    options = ["-q", "--benchmark-disable", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "bench", *options, *more],
        cwd=ROOT,
        env={**os.environ, "FFRT_BENCH_BUNDLE": str(used.folder), "FFRT_BENCH_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_micro_benchmarks_run(masked: Bundle) -> None:
    done = micro(masked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_micro_benchmarks_without_a_graph_are_skipped(tiny: Bundle) -> None:
    absent = baselines.methods_of(tiny.graphs)[1]
    done = micro(tiny, "-k", "interpolation_step")
    assert done.returncode == 0, done.stdout + done.stderr
    assert absent and f"1 passed, {len(absent)} skipped" in done.stdout


def test_micro_benchmarks_are_not_among_the_tests(pytestconfig: Any) -> None:
    assert pytestconfig.getini("testpaths") == ["tests"]
