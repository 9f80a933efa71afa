"""A server over a fake executor, for tests that need no worker; and a Ray cluster on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ffrt import Bundle

if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("httpx") is None:
    collect_ignore_glob = ["test_*.py", "ray/test_*.py"]


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


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two machines of one processor each at 127.0.0.2 and 127.0.0.3; whoever kills one adds it again."""
    from tests.serve.ray.cluster import cluster

    with cluster(tmp_path_factory.mktemp("ray"), "127.0.0.2", "127.0.0.3") as started:
        yield started
