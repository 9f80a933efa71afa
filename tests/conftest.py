"""Fixtures of all tests: tiny bundles, the wheel for CUDA, small releases and their exports."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from bench.cuda import wheel as cuda_wheel
from bench.metrics.networks import fetched
from ffrt import Pipeline, ProviderError, bundle
from tests.bundles import MASKED_GRAPHS, write_bundle

# A busy machine is no fault: hypothesis would fail an example that takes 200 ms.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell's background job starts with Ctrl-C ignored, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
# Tests keep optimised graphs in a cache folder of their own; what was fetched once is linked from the user's.
CACHE = Path(tempfile.mkdtemp(prefix="ffrt-tests-"))
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
for place in (cuda_wheel.cache_folder().parent, fetched.cache_folder()):
    place.mkdir(parents=True, exist_ok=True)
    (CACHE / "ffrt").mkdir(exist_ok=True)
    (CACHE / "ffrt" / place.name).symlink_to(place)
os.environ["XDG_CACHE_HOME"] = str(CACHE)

RELEASES = {"kv10": "1.0", "kv11": "1.1"}
"""Fixtures that are small releases as bundles, and the version of each."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    """The tiny bundle, shared: never write into its folder."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    """The tiny bundle with a masked network as well, shared."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "masked", MASKED_GRAPHS)


@pytest.fixture(scope="session")
def pipe(tiny: bundle.Bundle) -> Pipeline:
    """A pipeline over the tiny bundle, on one thread of the CPU."""
    return Pipeline(tiny, provider="cpu", threads=1)


@pytest.fixture
def own_bundle(tmp_path: Path) -> bundle.Bundle:
    """A tiny bundle of the test's own, to be damaged."""
    return write_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The onnxruntime-gpu wheel (256 MB), fetched once into the user's cache folder; for slow tests alone."""
    try:
        return cuda_wheel.fetch_wheel(cuda_wheel.cache_folder())
    except ProviderError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    """The demo as `python -m graphs optimise demo --provider cuda` writes it, in float16 and in parts."""
    from graphs.optimise import optimise

    out = tmp_path_factory.mktemp("variant") / "cuda"
    demo = bundle.open_bundle(ROOT / "graphs" / "demo", verify=False)
    return optimise(demo, out, provider="cuda", dtype="float16", verify=False)


@pytest.fixture(scope="session")
def releases() -> ModuleType:
    """The module that writes small release folders; it imports PyTorch, which most tests do without."""
    from tests import releases as module

    return module


@pytest.fixture(scope="session", autouse=True)
def exports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The folders of the exports of small releases that tests of this run ask for.

    They take minutes of one core each, so both start now and run in parallel with all other tests. Of the processes
    that share a run, one exports for all.
    """
    asked = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    own = tmp_path_factory.getbasetemp()
    base = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folders, started = {}, []
    try:
        for name in sorted(asked & RELEASES.keys(), reverse=True):  # 1.1 takes longer
            folders[name] = base / f"exported {name}"
            with contextlib.suppress(FileExistsError):  # another process exports it
                folders[name].mkdir()
                started.append(request.getfixturevalue("releases").start_export(RELEASES[name], folders[name]))
        yield folders
    finally:
        stopped = request.session.shouldstop or request.session.shouldfail
        for process in started:
            if stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def kv10(exports: dict[str, Path], releases: ModuleType) -> bundle.Bundle:
    """Kandinsky Video 1.0, small, exported; shared."""
    exported: bundle.Bundle = releases.exported(exports["kv10"])
    return exported


@pytest.fixture(scope="session")
def kv11(exports: dict[str, Path], releases: ModuleType) -> bundle.Bundle:
    """Kandinsky Video 1.1 of golden parameters, exported; shared."""
    exported: bundle.Bundle = releases.exported(exports["kv11"])
    return exported
