"""A server over a fake executor, for tests that need no worker."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ffrt import Bundle

if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("httpx") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def running(tiny: Bundle, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A function that starts a server: `running(script, keys=True, **fields of Limits)`."""
    from ffrt.serve.limits import Limits
    from ffrt.serve.options import ServeOptions
    from tests.serve.fakes import FakeExecutor, Running, at_once

    started: list[Running] = []

    def start(script: Any = at_once, *, options: ServeOptions | None = None, **limits: Any) -> Running:
        free = {"disk_floor": 0, "disk_wait_s": 0.0, **limits}
        options = ServeOptions(limits=Limits(**free)) if options is None else options
        started.append(Running(tmp_path / "data", tiny, FakeExecutor(script), options))
        return started[-1]

    yield start
    for one in started:
        one.close()
