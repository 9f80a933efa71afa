"""Bundles that change and graphs that are damaged, at random: races, mutated bytes, a mapping that is cut."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from ffrt import Bundle, BundleError, bundle, open_bundle
from ffrt.backend.graph import Graph
from ffrt.backend.providers import PROVIDERS, is_available
from ffrt.bundle import find_bundle
from ffrt.bundle.onnx_file import check_graph
from tests.damaged import damage_bytes, damage_graph
from tests.linked import LATENT, WEIGHTS, write_linked, write_weights

pytestmark = pytest.mark.attack

RACES = 60
INSTALLED = [name for name in ("cpu", "openvino") if is_available(PROVIDERS[name])]


@pytest.fixture
def linked(tmp_path: Path) -> Bundle:
    """A bundle in a folder of its own, beside one with other weights of the same size."""
    write_linked(tmp_path / "bundle")
    shutil.copytree(tmp_path / "bundle", tmp_path / "other")
    write_weights(tmp_path / "other" / WEIGHTS, 0.5)
    return open_bundle(tmp_path / "bundle")


def swap(one: Path, other: Path, aside: Path) -> None:
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def files(folder: Path) -> None:
    """Weights take each other's place."""
    swap(folder / WEIGHTS, folder.parent / "other" / WEIGHTS, folder.parent / "aside")


def folders(folder: Path) -> None:
    """Bundles take each other's place."""
    swap(folder, folder.parent / "other", folder.parent / "aside")


def links(folder: Path) -> None:
    """A link leads to the weights, or to the others; both in the folder, since OpenVINO follows no other links."""
    target = "own" if str((folder / WEIGHTS).readlink()) == "others" else "others"
    (folder.parent / "link").symlink_to(target)
    os.replace(folder.parent / "link", folder / WEIGHTS)


def contents(folder: Path) -> None:
    """Weights are written in place, with the time that they had."""
    before = os.stat(folder / WEIGHTS)
    raw = (folder.parent / "blob").read_bytes()
    other = (folder.parent / "other" / WEIGHTS).read_bytes()
    with open(folder / WEIGHTS, "r+b") as file:
        now = file.read()
        file.seek(0)
        file.write(other if now == raw else raw)
    os.utime(folder / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextmanager
def exchanged(folder: Path, change: Callable[[Path], None], seed: int) -> Iterator[Callable[[], int]]:
    """`change` at random moments, an even number of times, while the block runs; tells how often so far.

    Some of the pauses are longer than an opening and others shorter, so that a change falls before, into or after it.
    """
    ended, rng, count = threading.Event(), random.Random(seed), 0

    def run() -> None:
        nonlocal count
        while not ended.is_set() or count % 2:
            change(folder)
            count += 1
            ended.wait(rng.choice((0, 0.0005, 0.01, 0.03, 0.1)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lambda: count
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("provider", INSTALLED)
@pytest.mark.parametrize("change", [files, folders, links, contents])
def test_a_race_never_ends_with_other_weights(linked: Bundle, change: Callable[[Path], None], provider: str) -> None:
    folder = linked.folder
    (want,) = Graph(linked, "movq_decoder", provider=provider, threads=1)({"latent": LATENT}).values()
    shutil.copyfile(folder / WEIGHTS, folder.parent / "blob")
    if change is links:
        shutil.copyfile(folder.parent / "other" / WEIGHTS, folder / "others")
        (folder / WEIGHTS).rename(folder / "own")
        (folder / WEIGHTS).symlink_to("own")
    opened, refused, raced = 0, 0, Counter[str]()
    with exchanged(folder, change, 0) as changes:
        while raced.total() < RACES or opened == 0:
            before, came = changes(), "refused"
            try:
                (got,) = Graph(linked, "movq_decoder", provider=provider, threads=1)({"latent": LATENT}).values()
            except BundleError:
                refused += 1
            else:
                opened, came = opened + 1, "opened"
                np.testing.assert_array_equal(got, want)
            raced[came] += changes() > before
    print(f"{provider}, {change.__name__}: {opened} opened, {refused} refused; raced: {dict(raced)}")
    assert refused > 0


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_race_with_the_hashing_itself(linked: Bundle, memory: str) -> None:
    """The folder is another bundle by its manifest as well: whichever is opened, its own weights run."""
    other = linked.folder.parent / "other"
    want = {linked.digest: Graph(linked, "movq_decoder", provider="cpu", threads=1)({"latent": LATENT})["image"]}
    manifest = bundle.Manifest(**{**vars(linked.manifest), "name": "other", "files": bundle.list_files(other)})
    second = bundle.write_manifest(other, manifest)
    want[second.digest] = Graph(second, "movq_decoder", provider="cpu", threads=1)({"latent": LATENT})["image"]
    seen = set()
    with exchanged(linked.folder, folders, 1):
        for _ in range(RACES):
            try:
                found = open_bundle(linked.folder)
                got = Graph(found, "movq_decoder", provider="cpu", threads=1, memory=memory)({"latent": LATENT})
            except BundleError:
                continue
            seen.add(found.digest)
            np.testing.assert_array_equal(got["image"], want[found.digest])
    assert seen, "every opening was refused, so that no weights were compared"


CUT = """
import os, sys
from ffrt import BundleError, open_bundle
from ffrt.backend.graph import Graph
from tests.linked import LATENT, WEIGHTS

graph = Graph(open_bundle(sys.argv[1]), "movq_decoder", provider=sys.argv[2], threads=1, memory="low")
graph({"latent": LATENT})
os.truncate(os.path.join(sys.argv[1], WEIGHTS), 64)
try:
    graph({"latent": LATENT})
except BundleError as error:
    print("has changed since it was opened" in str(error))
"""


@pytest.mark.parametrize("provider", INSTALLED)
def test_a_mapped_file_that_was_cut_between_runs_ends_no_process(linked: Bundle, provider: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(linked.folder), provider],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_thousands_of_mutated_graphs_are_judged_as_protobuf_reads_them() -> None:
    """What passes, protobuf reads as a graph, and its external data lie in the listed file; nothing else is raised."""
    folder = find_bundle("demo")
    rng = random.Random(0)
    passed = 0
    for name in ("text_encoder", "movq_encoder"):
        path = folder / f"{name}.onnx"
        raw, weights = path.read_bytes(), {f"{name}.safetensors": (folder / f"{name}.safetensors").stat().st_size}
        for _ in range(3000):
            data = rng.choice((damage_bytes, damage_graph))(raw, rng)
            try:
                named = check_graph(path, data, weights).weights
            except BundleError:
                continue
            passed += 1
            read = onnx.load_from_string(data)
            tensors = [*read.graph.initializer, *(a.t for node in read.graph.node for a in node.attribute)]
            assert {e.value for t in tensors for e in t.external_data if e.key == "location"} == set(named)
    print(f"{passed} of 6000 passed")
    assert 500 < passed < 5500


ENGINE = """
import random, sys
from pathlib import Path
from ffrt import FfrtError, open_bundle
from ffrt.backend.graph import Graph
from ffrt.bundle import Bundle
from tests.damaged import damage_bytes, damage_graph, with_graph

bundle, provider, count = open_bundle(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rng, file = random.Random(5), "movq_encoder.onnx"
raw = bundle.path(file).read_bytes()
opened = 0
for _ in range(count):
    with_graph(bundle, file, rng.choice((damage_bytes, damage_graph))(raw, rng))
    try:
        Graph(open_bundle(bundle.folder), "movq_encoder", provider=provider, threads=1)
        opened += 1
    except FfrtError:
        pass
print("ended")
"""


@pytest.mark.parametrize("provider", INSTALLED)
def test_engines_survive_what_passes(linked: Bundle, tmp_path: Path, provider: str) -> None:
    shutil.copytree(find_bundle("demo"), tmp_path / "demo")
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, str(tmp_path / "demo"), provider, "300"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=3000,
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr[-2000:]
