"""Calls of the system that fail: old or new, one typed error or none, and nothing left open."""

from __future__ import annotations

import errno
import logging
import os
import textwrap
from pathlib import Path

import av
import numpy as np
import pytest

from ffrt import Video, VideoWriteError
from ffrt.output import whole_folder as folders
from ffrt.output.whole_file import whole_file
from ffrt.output.whole_folder import whole_folder
from ffrt.output.work import kept_folder, sweep, work_folder
from tests.runtime.clips import circle, run_python, saved_files


def fails(code: int):
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".png"])
def test_what_cannot_be_tidied_up_is_no_failure(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "ffrt"):
        patch.setattr(os, "rmdir", fails(errno.EBUSY))
        Video.from_frames(circle(2), 8).save(tmp_path / f"a{suffix}")
    assert "could not be removed" in caplog.text
    left = [name for name in saved_files(tmp_path) if name.startswith(".ffrt-")]
    assert left, "the folder that could not be removed"
    Video.from_frames(circle(2), 8).save(tmp_path / f"b{suffix}")
    assert saved_files(tmp_path) == ([f"a{suffix}", f"b{suffix}"] if suffix != ".png" else ["a", "b"])


CALLS = {suffix: ("fsync", "replace", "chmod") for suffix in (".mp4", ".webm", ".gif")}
CALLS[".png"] = ("fsync", "rename", "chmod")


@pytest.mark.parametrize(("suffix", "call"), [(suffix, call) for suffix, calls in CALLS.items() for call in calls])
def test_a_call_that_fails_before_the_end_leaves_the_old_one(
    tmp_path: Path, suffix: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    Video.from_frames(circle(2), 8).save(path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    monkeypatch.setattr(os, call, fails(errno.EIO))
    if suffix == ".png":  # a folder is swapped without them where the disk can
        monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    with pytest.raises(VideoWriteError, match="was not written"):
        Video.from_frames(circle(3), 8).save(path)
    monkeypatch.undo()
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_names_in_the_folder_need_not_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def only_files(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EIO, "Input/output error")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    with whole_file(tmp_path / "a") as part:
        part.write_text("new")
    assert (tmp_path / "a").read_text() == "new"
    assert saved_files(tmp_path) == ["a"]


def test_an_old_folder_that_was_moved_aside_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    rename = os.rename

    def second_fails(source: Path, target: Path) -> None:
        if target == out and source.parent.name.endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output"), whole_folder(out, lambda folder: None) as new:
        (new / "a").write_text("new")
    assert (out / "a").read_text() == "old"
    assert saved_files(tmp_path) == ["out"]


LIMITED = textwrap.dedent(
    """
    import os, resource, signal, sys
    import numpy as np
    from ffrt.errors import VideoWriteError
    from ffrt.media.video import Video
    video = Video.from_frames(np.random.default_rng(0).integers(0, 256, (12, 128, 128, 3), np.uint8), 8)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    open_files = lambda: len(os.listdir("/proc/self/fd"))
    for suffix in (".mp4", ".webm", ".gif", ".png"):
        counts = []
        for limit in (100, 6000, 40_000, 100, 6000, 40_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                video.save(sys.argv[1] + suffix)
            except VideoWriteError:
                counts.append(open_files())
        assert len(counts) >= 4 and len(set(counts)) == 1, (suffix, counts)
    """
)


def test_a_full_disk_leaves_no_file_open(tmp_path: Path) -> None:
    run_python(LIMITED, str(tmp_path / "a"))
    assert saved_files(tmp_path) in ([], ["a"])


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_header_that_cannot_be_written_again_is_a_failure(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg goes back to the beginning of the file when a video ends, and does not ask whether it got there."""
    opened, failed = av.open, []

    class NoWayBack:
        """The file that FFmpeg writes to, on a disk where the way back to the beginning fails once."""

        def __init__(self, file) -> None:
            self.file = file
            self.read, self.write, self.tell, self.close = file.read, file.write, file.tell, file.close

        def seek(self, offset: int, whence: int = 0) -> int:
            if offset < self.file.tell() and not failed:
                failed.append(offset)
                raise OSError(errno.EIO, "Input/output error")
            return self.file.seek(offset, whence)

    def through(file, mode, **named):
        return opened(NoWayBack(file) if mode == "w" else file, mode, **named)

    monkeypatch.setattr(av, "open", through)
    with pytest.raises(VideoWriteError, match="Input/output error"):
        Video.from_frames(circle(5), 8).save(tmp_path / f"a{suffix}")
    assert failed
    assert saved_files(tmp_path) == []


def test_a_kept_folder_that_cannot_be_removed_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ffrt"), kept_folder(tmp_path / ".out.writing") as work:
        (work / "file").write_text("")
        monkeypatch.setattr(os, "rename", fails(errno.EIO))
    assert "could not be removed" in caplog.text
    monkeypatch.undo()
    with kept_folder(tmp_path / ".out.writing") as work:
        assert (work / "file").is_file(), "the next try goes on from there"
    assert saved_files(tmp_path) == []


def test_a_live_folder_does_not_keep_a_dead_one(tmp_path: Path) -> None:
    with work_folder(tmp_path) as live:
        for number in range(8):  # some before the live one and some behind it, in whatever order they are listed
            (live.with_name(live.name[:-13] + f"{number:08x}.part")).mkdir()
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [live]


def test_a_folder_at_work_is_left_alone_and_so_is_one_of_another_host(tmp_path: Path) -> None:
    foreign = tmp_path / ".ffrt-00000000-12345678.part"
    foreign.mkdir()
    with work_folder(tmp_path) as first, work_folder(tmp_path) as second:
        (first / "file").write_text("")
        with work_folder(tmp_path):
            assert first.is_dir() and second.is_dir() and (first / "file").is_file()
    assert list(tmp_path.iterdir()) == [foreign]


def test_a_full_disk_is_told_in_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A real one, where a small one can be mounted. PyAV prints no traceback of its own."""
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=64k none {tmp_path} 2>/dev/null") != 0:
        pytest.skip("mounting needs rights")
    try:
        noise = np.random.default_rng(0).integers(0, 256, (12, 128, 128, 3), np.uint8)
        for suffix in (".mp4", ".webm", ".gif", ".png"):
            with pytest.raises(VideoWriteError, match="the disk of .* is full"):
                Video.from_frames(noise, 8).save(tmp_path / f"a{suffix}")
            assert saved_files(tmp_path) == []
        assert capfd.readouterr() == ("", "")
    finally:
        os.system(f"umount {tmp_path}")
