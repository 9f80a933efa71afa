"""What an output may replace. Everything else is refused before any work, and stays as it is."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffrt import Bundle, OutputError, Video, VideoWriteError
from ffrt.bundle import why_no_bundle
from ffrt.output.place import is_mount_point
from ffrt.output.whole_file import whole_file
from ffrt.output.whole_folder import check_folder, whole_folder
from tests.runtime.clips import circle


def everything_in(folder: Path) -> dict[str, object]:
    """Names, kinds, rights and contents below a folder."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def immutable(path: Path, on: bool) -> None:
    """Set or clear the immutable flag, where that can be done."""
    done = subprocess.run(["chattr", "+i" if on else "-i", path], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("chattr: " + done.stderr.decode())


FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a folder of the user's": (lambda f: f / "mine", "is there and no bundle"),
    "a file": (lambda f: f / "mine" / "notes.txt", "is a file"),
    "below a file": (lambda f: f / "mine" / "notes.txt" / "x", "lies below '.*notes.txt', which is no folder"),
    "a link to a bundle": (lambda f: f / "link", "is a link; give the folder itself"),
    "a link to nothing": (lambda f: f / "dangling", "is a link"),
    "the working folder": (lambda f: Path("."), "is the working folder, or holds it"),
    "the folder above": (lambda f: Path(".."), "is the working folder, or holds it"),
    "a folder above, by name": (lambda f: f, "is the working folder, or holds it"),
    "up and down": (lambda f: f / "mine" / ".." / "cwd", "is the working folder, or holds it"),
    "the root": (lambda f: Path("/"), "is the working folder, or holds it"),
    "a mount point": (lambda f: Path("/proc"), "is a mount point"),
    "a bundle with more in it": (lambda f: f / "more", "holds 'notes.txt', which is not of the bundle there"),
    "a bundle with a folder in it": (lambda f: f / "deep", "holds '.git', which is not of the bundle there"),
    "a read-only bundle": (lambda f: f / "locked", "is read-only; make it writable with chmod"),
    "a bundle of read-only files": (lambda f: f / "kept", "holds 'LICENSE', which is read-only"),
    "another manifest": (lambda f: f / "web", "is there and no bundle"),
}


@pytest.fixture
def crowded(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with bundles and with things of the user's, and a working folder in it."""
    folder, bundle = own_bundle.folder.parent, own_bundle.folder
    for name in ("mine", "cwd", "web"):
        (folder / name).mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    (folder / "web" / "manifest.json").write_text('{"name": "site", "files": []}')
    (folder / "link").symlink_to(bundle)
    (folder / "dangling").symlink_to("nowhere")
    for name in ("more", "deep", "locked", "kept"):
        subprocess.run(["cp", "-r", bundle, folder / name], check=True)
    (folder / "more" / "notes.txt").write_text("mine")
    (folder / "deep" / ".git").mkdir()
    (folder / "locked").chmod(0o555)
    (folder / "kept" / "LICENSE").chmod(0o444)
    monkeypatch.chdir(folder / "cwd")
    return folder


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_no_bundle_is_refused_at_the_start(crowded: Path, case: str) -> None:
    place, words = FOLDERS[case]
    before = everything_in(crowded)
    for attempt in (check_folder, whole_folder(place(crowded), why_no_bundle).__enter__):
        with pytest.raises(OutputError, match=f"^out: '.*' {words}"):
            attempt(*([place(crowded), why_no_bundle] if attempt is check_folder else []))
    assert everything_in(crowded) == before


def test_a_bundle_an_empty_folder_and_a_new_one_are_taken(own_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (own_bundle.folder, tmp_path / "empty", tmp_path / "far" / "away", tmp_path / "a b é"):
        with whole_folder(place, why_no_bundle) as new:
            (new / "file").write_text("new")
        assert [path.name for path in place.iterdir()] == ["file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b é", "bundle", "empty", "far"]


def test_what_comes_to_be_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is there and no bundle"), whole_folder(tmp_path / "out", why_no_bundle):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


FILES: dict[str, tuple[str, str]] = {
    "folder": ("folder.mp4", "is a folder"),
    "read-only": ("locked.mp4", "is read-only; make it writable with chmod"),
    "fifo": ("pipe.mp4", "is there and not a plain file"),
    "device": ("/dev/null", "is there and not a plain file"),
    "no folder": ("none/a.mp4", "there is no folder"),
    "link to a folder": ("link.mp4", "is a folder"),
    "link to a read-only file": ("hidden.mp4", "is read-only"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_replaced_is_refused_at_the_start(tmp_path: Path, case: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "locked.mp4").write_text("mine")
    (tmp_path / "locked.mp4").chmod(0o444)
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("folder.mp4")
    (tmp_path / "hidden.mp4").symlink_to("locked.mp4")
    name, words = FILES[case]
    before = everything_in(tmp_path)
    with pytest.raises(OutputError, match=words):
        whole_file(tmp_path / name).__enter__()
    if name.endswith(".mp4"):
        with pytest.raises(VideoWriteError, match=words):
            Video.from_frames(circle(1), 8).save(tmp_path / name)
    assert everything_in(tmp_path) == before


def test_an_immutable_file_or_folder_is_refused_at_the_start(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.mp4", tmp_path / "out"
    file.write_text("mine")
    folder.mkdir()
    immutable(file, True)
    try:
        with pytest.raises(OutputError, match="is read-only"):
            whole_file(file).__enter__()
    finally:
        immutable(file, False)
    immutable(folder, True)
    try:
        with pytest.raises(OutputError, match="is read-only"):
            whole_folder(folder, why_no_bundle).__enter__()
    finally:
        immutable(folder, False)


def test_mount_points_are_known_by_their_names(tmp_path: Path) -> None:
    assert is_mount_point(Path("/proc"))
    assert is_mount_point(Path("/"))
    assert not is_mount_point(tmp_path)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_file_keeps_its_rights_and_a_link_its_target(tmp_path: Path, mode: int) -> None:
    (tmp_path / "real.png").write_text("old")
    (tmp_path / "real.png").chmod(mode)
    (tmp_path / "link.png").symlink_to("real.png")
    Video.from_frames(circle(1), 8).save(tmp_path / "link.png")
    assert os.readlink(tmp_path / "link.png") == "real.png"
    assert stat.S_IMODE((tmp_path / "real.png").stat().st_mode) == mode
    assert (tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")


def test_a_new_file_has_the_rights_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for suffix in (".mp4", ".webm", ".gif", ".png"):
            Video.from_frames(np.zeros((1, 16, 16, 3), np.uint8), 8).save(tmp_path / f"a{suffix}")
            assert stat.S_IMODE((tmp_path / f"a{suffix}").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_a_bundle_keeps_the_rights_of_its_folder_and_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    (out / "a").write_text("old")
    (out / "a").chmod(0o600)
    with whole_folder(out, lambda folder: None) as new:
        for name in "ab":
            (new / name).write_text("new")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (out, out / "a")] == [0o700, 0o600]
    assert (out / "a").read_text() == (out / "b").read_text() == "new"


def test_a_link_to_a_new_file_makes_it(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("later.png")
    Video.from_frames(circle(1), 8).save(tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "later.png").is_file()
