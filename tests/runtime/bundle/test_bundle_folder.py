"""Bundles as other programs leave them: links of a cache, hard links, foreign files, rights that are missing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ffrt import Bundle, BundleError, Pipeline, open_bundle
from ffrt.backend.graph import Graph
from ffrt.bundle import Manifest, write_manifest
from ffrt.cli.inspect import inspect
from tests.linked import GRAPH, LATENT, WEIGHTS, write_linked


@pytest.fixture
def linked(tmp_path: Path) -> Bundle:
    """A bundle of the test's own, whose decoder has its weights in a file."""
    return write_linked(tmp_path / "bundle")


def decoded(bundle: Bundle, **options: str) -> np.ndarray:
    return Graph(bundle, "movq_decoder", **{"provider": "cpu", **options})({"latent": LATENT})["image"]


def test_a_bit_that_is_turned_in_any_listed_file_is_refused(linked: Bundle) -> None:
    assert {Path(name).suffix for name in linked.files} == {".onnx", ".safetensors", ".json", ""}
    for name in linked.files:
        path = linked.folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BundleError, match=rf"{name}: sha256 .* the file was changed"):
            open_bundle(linked.folder)
        path.write_bytes(whole)
    assert open_bundle(linked.folder).digest == linked.digest


def test_the_cache_of_hugging_face_is_a_bundle(linked: Bundle, tmp_path: Path) -> None:
    """There a snapshot is a folder of links to files that are named by digest."""
    want = decoded(linked)
    snapshot, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in list(linked.folder.iterdir()):
        digest = linked.digest if path.name == "manifest.json" else linked.files[path.name].sha256
        path.rename(blobs / digest)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", digest))
    found = open_bundle(snapshot)
    assert found.digest == linked.digest
    for memory in ("fast", "low"):
        np.testing.assert_array_equal(decoded(found, memory=memory), want)


def test_a_bundle_of_hard_links_is_a_bundle(linked: Bundle, tmp_path: Path) -> None:
    (tmp_path / "hard").mkdir()
    for path in linked.folder.iterdir():
        os.link(path, tmp_path / "hard" / path.name)
    np.testing.assert_array_equal(decoded(open_bundle(tmp_path / "hard")), decoded(linked))


def test_files_that_are_not_listed_are_left_alone(own_bundle: Bundle) -> None:
    for name in (".DS_Store", "README.md", ".gitattributes", ".nfs0000001", "run.py"):
        (own_bundle.folder / name).write_text("not of the bundle")
    for name in (".git", ".cache", "more"):
        (own_bundle.folder / name).mkdir()
    os.mkfifo(own_bundle.folder / "pipe")
    (own_bundle.folder / "broken").symlink_to("nowhere")
    assert open_bundle(own_bundle.folder) == own_bundle


@pytest.mark.parametrize("name", ["manifest.json", "LICENSE", "tokenizer.json", GRAPH])
def test_a_file_without_the_right_to_read_it_is_told(
    own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Root may read everything, so the refusal is the system's answer, not its rights."""
    real = os.open

    def refuse(path, flags, mode=0o777, *, dir_fd=None):
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BundleError, match=rf"{name} cannot be read \(Permission denied\)"):
        open_bundle(own_bundle.folder)


def test_a_folder_that_cannot_be_opened_is_told(own_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere cannot be opened \(No such file or directory\)"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="LICENSE cannot be opened"):
        open_bundle(own_bundle.folder / "LICENSE")
    gone = own_bundle.folder.rename(tmp_path / "gone")
    with pytest.raises(BundleError, match=r"bundle cannot be opened"):
        Graph(own_bundle, "movq_decoder", provider="cpu")
    assert open_bundle(gone).digest == own_bundle.digest


def test_a_pipeline_survives_a_change_of_the_working_directory(
    own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(own_bundle.folder.parent)
    pipe = Pipeline(open_bundle("bundle"), provider="cpu", threads=1)
    monkeypatch.chdir("/")
    assert pipe.encode("a red circle").context.shape == (1, 5, 4)


def test_texts_of_a_foreign_bundle_are_shown_and_not_obeyed(own_bundle: Bundle) -> None:
    strange = "\x1b[2J\x9b2J\r\n"
    manifest = {**vars(own_bundle.manifest), "name": strange, "license": strange, "created_with": {strange: strange}}
    write_manifest(own_bundle.folder, Manifest(**manifest))
    table = inspect(str(own_bundle.folder))
    assert table.count(r"\x1b[2J\x9b2J\r\n") == 4
    assert all(line.isprintable() for line in table.split("\n"))


def test_what_inspect_prints_is_the_manifest_that_was_checked(own_bundle: Bundle) -> None:
    told = json.loads(inspect(str(own_bundle.folder), as_json=True))
    assert told["digest"] == own_bundle.digest
    assert told["files"].keys() == own_bundle.files.keys()


def test_copies_are_of_what_was_checked(linked: Bundle, tmp_path: Path) -> None:
    linked.copy(WEIGHTS, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == linked.path(WEIGHTS).read_bytes() == linked.read(WEIGHTS, 1 << 20)
    with pytest.raises(BundleError, match=f"{WEIGHTS}: expected at most 100 bytes"):
        linked.read(WEIGHTS, 100)
    linked.path("LICENSE").write_text("MIT\n")
    for call in (lambda: linked.copy("LICENSE", tmp_path), lambda: linked.read("LICENSE", 100)):
        with pytest.raises(BundleError, match=r"LICENSE has changed since it was opened: sha256 .* expected, "):
            call()
    shutil.rmtree(linked.folder)
    with pytest.raises(BundleError, match="cannot be opened"):
        linked.read("LICENSE", 100)
