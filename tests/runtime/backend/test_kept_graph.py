"""Optimised graphs are kept for the next process: equal results, and no entry that anybody damaged is used."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffrt import Bundle, Cancelled, Pipeline
from ffrt.backend import kept_graph, onnxruntime
from ffrt.backend.cancel import Cancellation
from ffrt.backend.graph import Graph
from ffrt.backend.kept_graph import KeptGraph, make_room
from tests.serve.processes import environment

Opened = list[bool]
NAME = "movq_decoder"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where entries lie in this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ffrt" / "graphs"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """What ONNX Runtime opened: whether it was an entry, one by one."""
    given: list[bool] = []
    whole = ort.InferenceSession

    def open_(path: str, settings: ort.SessionOptions, *rest: Any, **named: Any) -> Any:
        given.append(settings.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        return whole(path, settings, *rest, **named)

    monkeypatch.setattr(ort, "InferenceSession", open_)
    return given


def decoded(bundle: Bundle, **options: Any) -> np.ndarray[Any, Any]:
    latent = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    return Graph(bundle, NAME, provider="cpu", threads=1, **options)({"latent": latent})["image"]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_the_next_process_opens_what_was_optimised_and_gives_the_same_bits(
    tiny: Bundle, folder: Path, opened: Opened
) -> None:
    first = decoded(tiny)
    (entry,) = entries(folder)
    assert entry.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    assert np.array_equal(decoded(tiny), first)
    assert opened == [False, True, True] and entries(folder) == [entry]


def test_what_was_optimised_gives_the_bits_of_the_plain_graph(
    tiny: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    kept = decoded(tiny)
    monkeypatch.setattr("ffrt.backend.session.MAX_STORED_BYTES", 0)
    assert np.array_equal(decoded(tiny), kept) and opened == [False, True, False]


def test_whole_videos_are_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the demo, whose networks have everything that ONNX Runtime fuses."""
    videos = []
    for most in (kept_graph.MAX_STORED_BYTES, 0):
        monkeypatch.setattr("ffrt.backend.session.MAX_STORED_BYTES", most)
        with Pipeline.from_pretrained(provider="cpu", threads=1) as pipe:
            video = pipe("a red circle moving right on a black background", fps=8, num_inference_steps=1, seed=3)
            videos.append(next(iter(video.chunks())))
    assert np.array_equal(*videos) and len(entries(folder)) == 4


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": lambda entry: entry[:100] + bytes([entry[100] ^ 1]) + entry[101:],
    "cut short": lambda entry: entry[:-1],
    "empty": lambda entry: b"",
    "longer": lambda entry: entry + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_made_again(
    tiny: Bundle, folder: Path, opened: Opened, damage: Callable[[bytes], bytes]
) -> None:
    first = decoded(tiny)
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert np.array_equal(decoded(tiny), first)
    assert opened == [False, True] * 2 and entries(folder)[0].read_bytes()[:100] == whole[:100]


def test_an_entry_of_another_graph_or_of_another_user_is_not_used(tiny: Bundle, folder: Path, opened: Opened) -> None:
    first = decoded(tiny)
    (entry,) = entries(folder)
    Graph(tiny, "text_encoder", provider="cpu", threads=1)
    (other,) = {*entries(folder)} - {entry}
    os.replace(other, entry)
    assert np.array_equal(decoded(tiny), first)
    (entry,) = entries(folder)
    entry.chmod(0o622)
    assert np.array_equal(decoded(tiny), first)
    assert opened == [False, True] * 4 and entries(folder)[0].stat().st_mode & 0o777 == 0o600


def test_an_entry_that_cannot_be_opened_is_made_again(tiny: Bundle, folder: Path, opened: Opened) -> None:
    first = decoded(tiny)
    (entry,) = entries(folder)
    entry.unlink()
    subject, model = entry.name.partition("-")[0], b"no model at all"
    digest = hashlib.sha256(subject.encode() + model).hexdigest()
    (folder / f"{subject}-{digest}.graph").write_bytes(model)
    (folder / f"{subject}-{digest}.graph").chmod(0o600)
    assert np.array_equal(decoded(tiny), first)
    assert opened == [False, True, True, False, True] and len(entries(folder)) == 1


@pytest.mark.parametrize("name", ["__version__", "get_build_info", "features"])
def test_another_engine_or_processor_has_an_entry_of_its_own(
    tiny: Bundle, folder: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    decoded(tiny)
    value = "9.9" if name == "__version__" else lambda: "another"
    monkeypatch.setattr(onnxruntime if name == "features" else ort, name, value)
    decoded(tiny)
    assert len(entries(folder)) == 2 and opened == [False, True] * 2


def test_memory_low_and_large_graphs_keep_none(tiny: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Graph(tiny, "keyframe_unet", provider="cpu", threads=1, memory="low")
    monkeypatch.setattr("ffrt.backend.session.MAX_STORED_BYTES", 1000)
    decoded(tiny)
    assert entries(folder) == []


def test_what_cannot_be_kept_is_made_for_this_process(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = decoded(tiny)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert np.array_equal(decoded(tiny), first)
    assert opened == [False, True] * 2 and (tmp_path / "file").read_text() == "in the way"
    monkeypatch.setattr(tempfile, "TemporaryDirectory", unwritable)
    assert np.array_equal(decoded(tiny), first) and opened[4:] == [False]


def unwritable(**named: Any) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_a_disk_that_fills_up_costs_the_entry_alone(
    tiny: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = decoded(tiny)
    (entry,) = entries(folder)
    entry.unlink()

    def full(kept: KeptGraph, place: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(KeptGraph, "_keep", full)
        assert np.array_equal(decoded(tiny), first)
    assert entries(folder) == []


def test_a_write_that_fails_in_the_engine_costs_the_entry_alone(tiny: Bundle, folder: Path) -> None:
    """A limit of the system on the size of files, which ONNX Runtime meets while it writes."""
    program = f"""
import resource, signal, sys
from ffrt import open_bundle
from ffrt.backend.graph import Graph
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
Graph(open_bundle(sys.argv[1]), {NAME!r}, provider="cpu", threads=1)
print("opened")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny.folder)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "opened\n", "")
    assert entries(folder) == []


def test_processes_at_the_same_time_disturb_each_other_in_nothing(tiny: Bundle, folder: Path, opened: Opened) -> None:
    program = f"""
import sys
from ffrt import open_bundle
from ffrt.backend.graph import Graph
Graph(open_bundle(sys.argv[1]), {NAME!r}, provider="cpu", threads=1)
"""
    line = [sys.executable, "-c", program, str(tiny.folder)]
    processes = [subprocess.Popen(line, env=environment()) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    decoded(tiny)
    assert len(entries(folder)) >= 1 and opened == [True]


def test_a_cancelled_opening_leaves_nothing(tiny: Bundle, folder: Path) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        decoded(tiny, cancellation=cancellation)
    assert entries(folder) == []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("store")


@given(sizes=st.lists(st.integers(1, 50), max_size=8), most=st.integers(1, 200), wanted=st.integers(1, 50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_entries_that_were_used_last_stay(store: Path, sizes: list[int], most: int, wanted: int) -> None:
    for path in store.iterdir():
        path.unlink()
    paths = [store / f"{number:064x}-{0:064x}.graph" for number in range(len(sizes))]
    for age, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        path.write_bytes(bytes(size))
        os.utime(path, (1000 - age, 1000 - age))
    foreign = store / "mine.graph"
    foreign.write_bytes(bytes(1000))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kept_graph, "MAX_BYTES", most)
        make_room(store, wanted)
    stay = [path.exists() for path in paths]
    kept = sum(stay)
    assert stay == [True] * kept + [False] * (len(paths) - kept) and foreign.exists()
    assert sum(sizes[:kept]) + wanted <= most or kept == 0
    assert kept == len(paths) or sum(sizes[: kept + 1]) + wanted > most
