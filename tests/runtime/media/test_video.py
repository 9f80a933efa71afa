"""Video and its files: what is written comes back, nothing is half written, memory does not grow."""

from __future__ import annotations

import gc
import io
import os
import textwrap
import weakref
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ffrt.errors import RequestError, VideoWriteError
from ffrt.media.colours import BT709, to_rgb
from ffrt.media.metadata import read_metadata
from ffrt.media.video import Video
from ffrt.media.video_file import SUFFIXES, check_target
from tests.runtime.clips import METADATA, circle, decode, psnr, run_python, saved_files


@pytest.mark.parametrize("fps", [2, 8, 30])
@pytest.mark.parametrize(("suffix", "floor_db"), [(".mp4", 30.0), (".webm", 30.0), (".gif", 50.0)])
def test_frames_rate_and_metadata_come_back(tmp_path: Path, suffix: str, floor_db: float, fps: int) -> None:
    frames = circle(17)
    path = tmp_path / f"circle{suffix}"
    Video.from_frames(frames, fps, METADATA).save(path)
    assert saved_files(tmp_path) == [path.name]
    found = decode(path)
    assert found.shape == frames.shape
    assert min(psnr(a, b) for a, b in zip(frames, found, strict=True)) > floor_db
    assert read_metadata(path) == METADATA
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert container.duration is not None
        assert container.duration / 1e6 == pytest.approx(17 / fps, abs=0.011)  # a gif counts in centiseconds
        if suffix != ".gif":
            assert stream.average_rate == fps
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert container.metadata["title"] == METADATA["prompt"]
            assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)


@pytest.mark.parametrize("fps", [2, 8, 30, 50])
def test_every_frame_of_a_gif_is_shown_as_long_as_the_rate_says(tmp_path: Path, fps: int) -> None:
    from PIL import Image

    Video.from_frames(circle(17), fps).save(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        shown = []
        for index in range(16):  # the last one has nothing behind it
            image.seek(index)
            shown.append(image.info["duration"])
    assert all(abs(ms - 1000 / fps) < 10 for ms in shown), shown  # a gif counts in hundredths of a second
    assert abs(sum(shown) - 16 * 1000 / fps) < 10


def test_mp4_has_its_index_first(tmp_path: Path) -> None:
    Video.from_frames(circle(3), 8).save(tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    assert data[4:8] == b"ftyp"
    assert data.index(b"moov") < data.index(b"mdat")


def test_png_frames_are_exact_and_carry_metadata(tmp_path: Path) -> None:
    from PIL import Image

    frames = np.random.default_rng(0).integers(0, 256, (3, 33, 65, 3), np.uint8)
    Video.from_frames(frames, 8, METADATA).save(tmp_path / "a.png")
    assert saved_files(tmp_path) == ["a"]
    assert saved_files(tmp_path / "a") == ["a-00000.png", "a-00001.png", "a-00002.png"]
    for frame, name in zip(frames, saved_files(tmp_path / "a"), strict=True):
        with Image.open(tmp_path / "a" / name) as image:
            assert np.array_equal(np.asarray(image), frame)
        assert np.array_equal(decode(tmp_path / "a" / name)[0], frame)
        assert read_metadata(tmp_path / "a" / name) == METADATA


def test_a_single_frame_png_is_exactly_that_file(tmp_path: Path) -> None:
    Video.from_frames(circle(1), 2).save(tmp_path / "still.PNG")
    assert saved_files(tmp_path) == ["still.PNG"]
    assert np.array_equal(decode(tmp_path / "still.PNG"), circle(1))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.sampled_from([".webm", ".gif", ".png"]))
def test_any_size_keeps_its_size(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, n: int, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("size") / f"a{suffix}"
    Video.from_frames(np.full((n, height, width, 3), 100, np.uint8), 8).save(path)
    files = sorted(file for file in path.parent.rglob("*") if file.is_file())
    found = np.concatenate([decode(file) for file in files])
    assert found.shape == (n, height, width, 3)
    assert np.abs(found.astype(int) - 100).max() <= 3


def test_mp4_refuses_odd_sizes_and_says_what_takes_them(tmp_path: Path) -> None:
    with pytest.raises(VideoWriteError, match=r"must be even, got 33x64.*\.webm"):
        Video.from_frames(np.zeros((2, 33, 64, 3), np.uint8), 8).save(tmp_path / "a.mp4")
    assert saved_files(tmp_path) == []


class Source:
    """Chunks made on demand; counts how many are alive at once and how many were made."""

    def __init__(self, chunks: int, size: int) -> None:
        self.chunks, self.size = chunks, size
        self.made = self.alive = self.most_alive = 0

    def __call__(self) -> Iterator[NDArray[np.uint8]]:
        for i in range(self.chunks):
            chunk = np.full((self.size, 64, 64, 3), i % 256, np.uint8)
            self.made += 1
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
            weakref.finalize(chunk, self.gone)
            yield chunk
            del chunk

    def gone(self) -> None:
        self.alive -= 1

    def video(self) -> Video:
        return Video(self, num_frames=self.chunks * self.size, height=64, width=64, fps=30, metadata={})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_saving_holds_at_most_two_chunks(tmp_path: Path, suffix: str) -> None:
    source = Source(chunks=30, size=4)
    source.video().save(tmp_path / f"a{suffix}")
    gc.collect()
    assert source.made == 30
    assert source.most_alive <= 2
    assert source.alive == 0


def test_peak_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import resource, sys
        import numpy as np
        from ffrt.media.video import Video
        n = int(sys.argv[1])
        def chunks():
            for i in range(n):
                yield np.full((4, 256, 256, 3), i % 256, np.uint8)
        for suffix in (".mp4", ".gif"):
            Video(chunks, num_frames=4 * n, height=256, width=256, fps=30, metadata={}).save(sys.argv[2] + suffix)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        """
    )
    peak_kib = [int(run_python(program, str(n), str(tmp_path / "a"))) for n in (25, 100)]
    all_frames_kib = 300 * 256 * 256 * 3 / 1024
    assert peak_kib[1] - peak_kib[0] < all_frames_kib / 3, peak_kib


def test_frames_are_lazy_iterable_again_and_kept_once_asked_for() -> None:
    source = Source(chunks=3, size=2)
    video = source.video()
    assert (source.made, len(video), video.duration_s) == (0, 6, 0.2)
    assert [int(frame[0, 0, 0]) for frame in video] == [0, 0, 1, 1, 2, 2]
    assert [int(frame[0, 0, 0]) for frame in video] == [0, 0, 1, 1, 2, 2]
    assert source.made == 6
    assert video.frames.shape == (6, 64, 64, 3)
    assert video.frames.dtype == np.uint8
    assert video.frames is video.frames
    assert len(list(video)) == 6
    assert source.made == 9
    with pytest.raises(ValueError, match="read-only"):
        video.frames[0] = 0


def test_frames_in_memory_are_not_copied() -> None:
    frames = circle(4)
    assert np.shares_memory(next(Video.from_frames(frames, 8).chunks()), frames)


@pytest.mark.parametrize("promised", [3, 5])
def test_chunks_that_break_their_promise_write_nothing(tmp_path: Path, promised: int) -> None:
    frames = circle(4)
    video = Video(lambda: iter([frames]), num_frames=promised, height=64, width=96, fps=8, metadata={})
    with pytest.raises(VideoWriteError, match=f"announced with {promised} frames"):
        video.save(tmp_path / "a.mp4")
    with pytest.raises(VideoWriteError, match="announced"):
        _ = video.frames
    assert saved_files(tmp_path) == []


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (np.zeros((1, 64, 96, 3), np.float32), "uint8 .* got float32"),
        (np.zeros((1, 64, 64, 3), np.uint8), r"64, 96, 3\], got uint8 \[1, 64, 64, 3\]"),
    ],
)
def test_a_wrong_chunk_is_named(tmp_path: Path, chunk: NDArray[np.uint8], words: str) -> None:
    video = Video(lambda: iter([chunk]), num_frames=1, height=64, width=96, fps=8, metadata={})
    with pytest.raises(VideoWriteError, match=words):
        video.save(tmp_path / "a.png")
    assert saved_files(tmp_path) == []


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 4), np.uint8), [[[[0, 0, 0]]]]],
)
def test_from_frames_says_what_it_wants(frames: NDArray[np.uint8]) -> None:
    with pytest.raises(RequestError, match=r"uint8 array \[N, H, W, 3\], got"):
        Video.from_frames(frames, 8)


@pytest.mark.parametrize("fps", [0, -1, 2.5, True, "8"])
def test_a_rate_is_a_positive_whole_number(fps: int) -> None:
    with pytest.raises(RequestError, match="fps: expected a whole number from 1 to"):
        Video.from_frames(circle(1), fps)


def test_bad_targets_are_named_before_the_first_chunk(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "file").write_text("")
    source = Source(chunks=1, size=1)
    for name, words in [
        ("a.avi", r"known are \.mp4, \.webm, \.gif, \.png, got '\.avi'"),
        ("a", "the suffix decides the format"),
        ("folder.mp4", "is a folder"),
        ("pipe.mp4", "not a plain file"),
        ("missing/a.mp4", "there is no folder .*missing"),
        ("file/a.mp4", "there is no folder|Not a directory"),
        ("x" * 300 + ".mp4", "too long"),
        ("a\0.mp4", "is no file name"),
    ]:
        for attempt in (check_target, lambda p: source.video().save(p)):
            with pytest.raises(VideoWriteError, match=words):
                attempt(tmp_path / name)
    assert source.made == 0
    assert saved_files(tmp_path) == ["file", "folder.mp4", "pipe.mp4"]


def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write anywhere but in /proc
        locked = Path("/proc")
    with pytest.raises(VideoWriteError, match="was not written"):
        check_target(locked / "a.mp4")


def test_no_frames_are_no_video(tmp_path: Path) -> None:
    empty = Video.from_frames(np.zeros((0, 8, 8, 3), np.uint8), 8)
    assert empty.frames.shape == (0, 8, 8, 3)
    with pytest.raises(VideoWriteError, match="no frames"):
        empty.save(tmp_path / "a.mp4")
    assert saved_files(tmp_path) == []


def test_a_gif_has_a_fastest_rate(tmp_path: Path) -> None:
    with pytest.raises(VideoWriteError, match="at most 50 frames per second, got 60"):
        Video.from_frames(circle(2), 60).save(tmp_path / "a.gif")


def test_a_png_series_is_replaced_as_a_whole_and_nothing_else_is(tmp_path: Path) -> None:
    Video.from_frames(circle(3), 8).save(tmp_path / "a.png")
    Video.from_frames(circle(2), 8).save(tmp_path / "a.png")
    assert saved_files(tmp_path / "a") == ["a-00000.png", "a-00001.png"]
    (tmp_path / "a" / "a-00007.png").write_bytes(b"a frame of somebody else")
    with pytest.raises(VideoWriteError, match=r"go to the folder '.*/a', which is there and holds 'a-00007.png'"):
        Video.from_frames(circle(2), 8).save(tmp_path / "a.png")
    assert saved_files(tmp_path / "a") == ["a-00000.png", "a-00001.png", "a-00007.png"]


def test_a_link_is_followed_and_the_old_file_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_text("old")
    (tmp_path / "link.png").symlink_to("real.png")
    Video.from_frames(circle(1), 8).save(tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert np.array_equal(decode(tmp_path / "real.png"), circle(1))


@pytest.mark.parametrize("name", ["num_frames", "height", "width", "fps"])
def test_a_video_has_no_side_of_0_and_no_rate_of_0(name: str) -> None:
    sizes = {"num_frames": 1, "height": 1, "width": 1, "fps": 1}
    Video(lambda: iter(()), metadata={}, **sizes)
    with pytest.raises(RequestError, match=f"{name}: expected"):
        Video(lambda: iter(()), metadata={}, **{**sizes, name: -1 if name == "num_frames" else 0})


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_colours_keep_their_brightness(tmp_path: Path, suffix: str) -> None:
    """To within half a level of 255 in the mean."""
    plain = np.array([(200, 60, 40), (20, 90, 95), (110, 80, 50), (240, 240, 240), (15, 15, 20)], np.uint8)
    frames = np.broadcast_to(plain[:, None, None], (5, 64, 64, 3))
    Video.from_frames(frames, 5).save(tmp_path / f"a{suffix}")
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        read = np.stack([to_rgb(frame, BT709) for frame in container.decode(video=0)])
    error = read.astype(float) - frames
    assert abs(error.mean()) < 0.5 and np.abs(error.mean((1, 2))).max() < 2.5


@pytest.mark.parametrize("format", ["mp4", "webm", "gif"])
def test_a_file_object_holds_a_video_of_every_format_but_not_several_pictures(format: str) -> None:
    file = io.BytesIO()
    Video.from_frames(circle(3), 8).save(file, format=format)
    with av.open(io.BytesIO(file.getvalue())) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    with pytest.raises(VideoWriteError, match="one file object cannot hold 3 png pictures"):
        Video.from_frames(circle(3), 8).save(file, format="png")
