"""Killed before any line that may touch a file, an output is the old or the new one, and the next run tidies up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.clips import environment

PROGRAM = Path(__file__).with_name("everywhere.py")


@pytest.mark.parametrize(
    ("case", "least"), [("file", 15), ("folder", 25), ("folder in two renames", 25), ("kept folder", 25)]
)
def test_a_kill_at_any_line_leaves_old_or_new(tmp_path: Path, case: str, least: int) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, case, tmp_path], capture_output=True, text=True, env=environment(), timeout=300
    )
    assert done.returncode == 0, done.stderr
    kills = re.fullmatch(r"(\d+) kills\n", done.stdout)
    assert kills is not None, done.stdout
    assert int(kills[1]) >= least
