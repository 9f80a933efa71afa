"""Which test passes through which line, and how long it takes: ``python -m tests.mutation.watch FILE [TESTS]``.

Tests that run the program in a process of its own are not seen there. A test is charged for its shared fixtures, since
it has to make them when it runs alone.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).parents[2]
LONG = ("session", "package", "module")


class Watch:
    """A plugin of pytest that names each test to `coverage`."""

    def __init__(self, covered: coverage.Coverage) -> None:
        self.seconds: dict[str, float] = {}
        self._covered = covered
        self._fixtures: dict[str, float] = {}
        self._passed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        begin = time.perf_counter()
        made = yield
        if fixturedef.scope in LONG:
            self._fixtures[fixturedef.argname] = time.perf_counter() - begin
        return made

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Iterator[None]:
        self._covered.switch_context(item.nodeid)
        known, begin = set(self._fixtures), time.perf_counter()
        done = yield
        taken = time.perf_counter() - begin
        self._covered.switch_context("")
        if item.nodeid in self._passed:
            shared = sum(self._fixtures[name] for name in item.fixturenames if name in known)
            self.seconds[item.nodeid] = taken + shared
        return done

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)


def main() -> None:
    """Run the tests and write `{"tests": {id: seconds}, "lines": {file: {line: [number of the test]}}}`."""
    out, *arguments = sys.argv[1:]
    covered = coverage.Coverage(
        data_file=None, include=[f"{ROOT}/{place}/*" for place in ("runtime", "graphs", "export")]
    )
    covered.start()
    watch = Watch(covered)
    pytest.main(["-q", "-p", "no:cacheprovider", "-m", "not slow and not attack", *arguments], plugins=[watch])
    covered.stop()
    number = {name: index for index, name in enumerate(watch.seconds)}
    data = covered.get_data()
    lines: dict[str, dict[int, list[int]]] = defaultdict(dict)
    for file in sorted(data.measured_files()):
        for line, contexts in data.contexts_by_lineno(file).items():
            lines[str(Path(file).relative_to(ROOT))][line] = sorted(number[c] for c in contexts if c in number)
    Path(out).write_text(json.dumps({"tests": watch.seconds, "lines": lines}))


if __name__ == "__main__":
    main()
