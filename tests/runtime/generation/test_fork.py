"""A pipeline that was used lives on in forked, spawned and served children, or says at once that it cannot."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.clips import environment

FORKS = Path(__file__).with_name("forks.py")


def told(*arguments: str) -> dict[str, set[str]]:
    done = subprocess.run(
        [sys.executable, str(FORKS), *arguments], capture_output=True, text=True, env=environment(), timeout=500
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        name, _, rest = line.partition(": ")
        found.setdefault(name, set()).add(rest)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["fast", "low"])
def test_children_make_the_same_frames_on_the_cpu(memory: str) -> None:
    found = told("cpu", memory)
    generation = found.pop("generation")
    assert found.pop("closing") == {"None"}
    assert found == {way: {"True"} for way in ("after use", "while running", "fork", "forkserver", "spawn")}
    assert all("expected one that this process began" in line for line in generation)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_says_at_once_that_it_does_not_survive_a_fork() -> None:
    found = told("openvino", "fast")
    for way in ("while running", "fork"):
        assert all("opened before this process was forked" in line for line in found[way])
    assert found["forkserver"] == found["spawn"] == {"True"}, "such a child opens the pipeline itself"
