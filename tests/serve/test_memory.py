"""A server gives back what it frees: circles are collected, and buffers leave the process."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable

import pytest

from ffrt.serve import memory
from ffrt.serve.keeper import Keeper
from tests.serve.fakes import Running

BUFFERS, SIZE = 400, 200_000
HOLES = f"""
import ctypes, sys
from ffrt.serve import memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "mapped":
    memory.map_buffers()
for _ in range(3):
    del (warm := [bytearray(8_000_000)])[:]  # glibc maps nothing smaller by itself from now on, unless it was told to
before = resident()
kept = []
buffers = []
for number in range({BUFFERS}):
    buffers.append(bytearray(b"x") * {SIZE})
    kept.append(bytearray(2_000))  # between two buffers
full = resident()
buffers.clear()
print(full - before, resident() - before)
"""


class Circle:
    """Reaches itself."""

    def __init__(self) -> None:
        self.me = self


def held(how: str) -> tuple[int, int]:
    """Bytes of a fresh process above its start: with all buffers, and after they were freed."""
    done = subprocess.run([sys.executable, "-c", HOLES, how], capture_output=True, text=True, check=True)
    full, after = done.stdout.split()
    return int(full), int(after)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and glibc is asked")
def test_freed_buffers_leave_no_holes() -> None:
    full, after = held("mapped")
    assert full > BUFFERS * SIZE * 0.9
    assert after < full * 0.1


def test_circles_go_though_nothing_else_is_made() -> None:
    gc.disable()
    try:
        circle = Circle()
        seen = weakref.ref(circle)
        del circle
        assert seen() is not None
        memory.tidy()
        assert seen() is None
    finally:
        gc.enable()


def test_what_is_loaded_is_not_looked_through() -> None:
    looked = "memory.keep_loaded(); print(gc.get_freeze_count() > len(gc.get_objects()))"
    code = f"import gc; from ffrt.serve import memory; {looked}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_round_of_the_keeper_tidies(running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> None:
    server = running()
    tidied: list[bool] = []
    monkeypatch.setattr(memory, "tidy", lambda: tidied.append(True))
    Keeper(server.store, server.data, server.options.limits).once()
    assert tidied == [True]
