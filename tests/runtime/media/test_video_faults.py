"""Whatever happens while a video is written, its path is the old file or the whole new one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ffrt.errors import FfrtError, RequestError, VideoWriteError
from ffrt.media.video import Video
from ffrt.media.video_file import SUFFIXES
from ffrt.media.writers import AvWriter
from tests.runtime.clips import circle, environment, run_python, saved_files


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), RequestError("no")])
def test_an_error_on_the_way_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, suffix: str, error: BaseException
) -> None:
    def chunks() -> Iterator[NDArray[np.uint8]]:
        yield circle(2)
        raise error

    path = tmp_path / f"a{suffix}"
    path.write_text("the old file")
    with pytest.raises(type(error)) as caught:
        Video(chunks, num_frames=4, height=64, width=96, fps=8, metadata={}).save(path)
    assert caught.value is error
    assert path.read_text() == "the old file"
    assert saved_files(tmp_path) == [path.name]


def test_on_frame_counts_and_may_stop_the_writing(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    Video.from_frames(circle(3), 8).save(tmp_path / "a.webm", on_frame=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("suffix", "limit"),
    [(suffix, limit) for suffix in SUFFIXES for limit in (100, 6000, 60_000) if (suffix, limit) != (".png", 60_000)],
)
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, suffix: str, limit: int) -> None:
    """A limit on the file size stands for the disk: the same failing write(2), without the rights to mount one."""
    program = textwrap.dedent(
        """
        import resource, signal, sys
        import numpy as np
        from ffrt.errors import VideoWriteError
        from ffrt.media.video import Video
        frames = np.random.default_rng(0).integers(0, 256, (12, 128, 128, 3), np.uint8)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
        try:
            Video.from_frames(frames, 8).save(sys.argv[1])
        except VideoWriteError as error:
            print("refused:", error)
        """
    )
    path = tmp_path / f"a{suffix}"
    assert "refused:" in run_python(program, str(path), str(limit))
    assert saved_files(tmp_path) == []


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
def test_a_frame_that_a_muxer_has_lost_is_missed(tmp_path: Path, suffix: str) -> None:
    """Formats that end in an index may drop the error of a full disk, so frames are counted in the finished file."""
    writer = AvWriter.at(tmp_path / "a", suffix, 64, 96, 8, {})
    for frame in circle(3):
        writer.add(frame)
    writer.count += 1
    with pytest.raises(OSError, match="3 of 4 frames reached the disk"):
        writer.finish()


def test_no_space_left_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, *arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(VideoWriteError, match="the disk of .* is full; free some space") as caught:
        Video.from_frames(circle(2), 8).save(tmp_path / "a.png")
    assert isinstance(caught.value, FfrtError)
    assert saved_files(tmp_path) == []


SLOW_WRITER = textwrap.dedent(
    """
    import sys, time
    import numpy as np
    from ffrt.media.video import Video
    def chunks():
        for i in range(200):
            yield np.full((1, 64, 64, 3), i, np.uint8)
            if i == 5:
                print("writing", flush=True)
            if i > 5:
                time.sleep(0.05)
    Video(chunks, num_frames=200, height=64, width=64, fps=8, metadata={}).save(sys.argv[1])
    """
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("suffix", [".mp4", ".png"])
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path, suffix: str, number: signal.Signals) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("the old file")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(number)
    assert process.wait(timeout=60) != 0
    assert path.read_text() == "the old file"
    left = [name for name in saved_files(tmp_path) if name != path.name]
    if number == signal.SIGINT:
        assert left == []
    else:  # nothing can run after SIGKILL: one hidden folder, and nothing that looks like a video
        assert all(name.startswith(".ffrt-") and name.endswith(".part") for name in left)
