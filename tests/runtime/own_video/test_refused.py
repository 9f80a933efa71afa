"""What cannot be worked on is a typed error that says what to do, and nothing is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ffrt import Cancelled, OutOfMemoryError, Pipeline, RequestError, VideoReadError, VideoWriteError
from ffrt.backend.free_memory import FreeMemory
from ffrt.bundle import Bundle
from ffrt.generation.own_video.options import OwnVideoRequest
from ffrt.generation.own_video.plan import OwnVideoPlan
from ffrt.media.retimed import RetimedWriter
from ffrt.media.source import open_source
from ffrt.memory.room import Room
from tests.runtime.own_video.videos import frames_of, moving, turn, write

Maker = Callable[[Path], Path]


def text(folder: Path) -> Path:
    path = folder / "a.mp4"
    path.write_text("this is no video\n" * 99)
    return path


def playlist(folder: Path) -> Path:
    path = folder / "a.m3u8"
    path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/hostname\n")
    return path


def empty(folder: Path) -> Path:
    path = folder / "a.mp4"
    path.touch()
    return path


def folder_itself(folder: Path) -> Path:
    return folder


def nothing(folder: Path) -> Path:
    return folder / "missing.mp4"


def cut_short(folder: Path) -> Path:
    path = write(folder / "a.mp4", moving(24), options={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[:-700])
    return path


def without_its_index(folder: Path) -> Path:
    path = write(folder / "a.mp4", moving(24))
    path.write_bytes(path.read_bytes()[:-700])
    return path


def cut_matroska(folder: Path) -> Path:
    path = write(folder / "a.mkv", moving(72), seconds_of_sound=3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def one_frame(folder: Path) -> Path:
    return write(folder / "a.mp4", moving(1))


def sound_alone(folder: Path) -> Path:
    source = write(folder / "b.mp4", moving(3), seconds_of_sound=1)
    with av.open(str(source)) as old, av.open(str(folder / "a.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(audio=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    source.unlink()
    return folder / "a.mp4"


def transparent(folder: Path) -> Path:
    frames = np.concatenate([moving(4), np.full((4, 64, 64, 1), 100, np.uint8)], axis=-1)
    return write(folder / "a.mov", frames, codec="png", pixels="rgba")


def transparent_webm(folder: Path) -> Path:
    frames = np.concatenate([moving(4), np.full((4, 64, 64, 1), 100, np.uint8)], axis=-1)
    return write(folder / "a.webm", frames, codec="libvpx-vp9", pixels="yuva420p")


def turned_askew(folder: Path) -> Path:
    path = write(folder / "a.mp4", moving(4))
    turn(path, (1, 1, -1, 1))
    return path


def interlaced(folder: Path) -> Path:
    path = folder / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
        stream.height = stream.width = 64
        for frame in moving(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def varying(folder: Path) -> Path:
    times = [0, 40, 81, 120, 200, 239, 280, 400]
    return write(folder / "a.mp4", moving(8), 25, times=times, time_base=Fraction(1, 1000))


def transport_stream(folder: Path) -> Path:
    return write(folder / "a.ts", moving(6))


BAD: list[tuple[Maker, str]] = [
    (text, "expected an MP4, QuickTime or Matroska file.*ffmpeg -i FILE -c copy FILE.mkv"),
    (playlist, "expected an MP4, QuickTime or Matroska file"),
    (empty, "expected an MP4, QuickTime or Matroska file"),
    (folder_itself, "expected a plain file, got a folder"),
    (nothing, "cannot be read .No such file"),
    (cut_short, "damaged or cut short at its frame"),
    (without_its_index, "cannot be read as a video.*damaged or cut short"),
    (cut_matroska, "cut short: it should last 3.0 s, and ends after 1"),
    (one_frame, "expected at least two frames, got 1"),
    (sound_alone, "expected a file with moving pictures, got none"),
    (transparent, "is transparent .rgba.*lay it on a colour first"),
    (transparent_webm, "is transparent"),
    (turned_askew, "turned by -?45 degrees or scaled; expected quarters"),
    (interlaced, "is interlaced.*bwdif"),
    (varying, "expected a constant frame rate, got frames that are 39.0 to 120.0 ms apart.*make it 25 fps with"),
    (transport_stream, "expected an MP4, QuickTime or Matroska file"),
]


@pytest.mark.parametrize(("make", "words"), BAD, ids=[make.__name__ for make, _ in BAD])
def test_a_bad_video_is_refused_before_anything_runs(tiny: Bundle, tmp_path: Path, make: Maker, words: str) -> None:
    own = tmp_path / "in"
    own.mkdir()
    (tmp_path / "out").mkdir()
    pipe = Pipeline(tiny, provider="cpu", threads=1)
    with pytest.raises(VideoReadError, match=words):
        pipe.interpolate_video(make(own), tmp_path / "out" / "b.mp4")
    assert pipe.open_graphs == () and os.listdir(tmp_path / "out") == []


def test_damage_in_the_middle_ends_the_run_and_leaves_the_old_file(pipe: Pipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(48), options={"movflags": "+faststart"})
    data = bytearray(source.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + 900] = bytes(900)
    source.write_bytes(bytes(data))
    (tmp_path / "b.mp4").write_text("the old file")
    with pytest.raises(VideoReadError, match=r"frame \d+ of .*cannot be decoded|cannot be read as a video"):
        pipe.interpolate_video(source, tmp_path / "b.mp4")
    assert (tmp_path / "b.mp4").read_text() == "the old file"
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_varying_rate_is_made_constant_when_that_is_wanted(pipe: Pipeline, tmp_path: Path, suffix: str) -> None:
    made = pipe.interpolate_video(varying(tmp_path), tmp_path / f"b{suffix}", constant_rate=True)
    assert (made.rate, made.num_frames) == (100, 44)  # 400 ms, and 40 for the last frame
    assert "made 25 fps, with 3 frames repeated and 0 left out" in made.notes[0].text
    shown, frames = frames_of(tmp_path / f"b{suffix}")
    assert [round(float(at), 3) for at in shown] == [i / 100 for i in range(44)]
    old = frames_of(tmp_path / "a.mp4")[1]
    nearest = [int(np.argmin([np.mean((one.astype(float) - frame) ** 2) for one in old])) for frame in frames[::4]]
    assert nearest == [0, 1, 2, 3, 3, 4, 5, 6, 6, 6, 7]


def test_what_the_container_cannot_hold_is_named_with_what_can(pipe: Pipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mkv", moving(24), seconds_of_sound=1, subtitles=True)
    with pytest.raises(
        RequestError, match=r"a .mp4 file cannot hold.*subtitles in (srt|subrip).*write .mkv.*--drop subtitle"
    ):
        pipe.interpolate_video(source, tmp_path / "b.mp4")
    with pytest.raises(RequestError, match=r"sound in aac, subtitles in (srt|subrip).*--drop audio --drop subtitle"):
        pipe.interpolate_video(source, tmp_path / "b.webm")
    assert os.listdir(tmp_path) == ["a.mkv"]
    pipe.interpolate_video(source, tmp_path / "b.mp4", drop=["subtitle"])
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"times": 8}, "times: expected 4 or 16, got 8"),
        ({"times": True}, "times: expected 4 or 16, got True"),
        ({"keep_originals": 1}, "keep_originals: expected True or False, got 1"),
        ({"cuts": "some"}, r"cuts: expected one of \['auto', 'none'\], got 'some'"),
        ({"cuts": [1.5]}, "cuts: expected a whole number"),
        ({"cuts": [1, 3]}, "cuts: expected numbers of frames up to 2, the last of the video, got 3"),
        ({"cuts": 3}, "cuts: expected 'auto', 'none' or numbers of frames, got 3"),
        ({"skip_frames": 20}, "skip_frames: expected a whole number from 0 to 19, got 20"),
        ({"drop": "audio"}, "drop: expected a list"),
        ({"drop": ["video"]}, "drop: expected one of .*, got 'video'"),
        ({"prompt": "a circle"}, "prompt: expected None, got one; this bundle interpolates without text"),
        ({"num_inference_steps": 0}, "num_inference_steps: expected a whole number from 1"),
        ({"sampler": "euler"}, "sampler: expected one of"),
        ({"preset": "slow"}, "preset: expected one of"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"on_step": 3}, "on_step: expected a function, got 3"),
    ],
)
def test_a_wrong_option_is_named(pipe: Pipeline, tmp_path: Path, options: dict, words: str) -> None:
    source = write(tmp_path / "a.mp4", moving(3))
    with pytest.raises(RequestError, match=words):
        pipe.interpolate_video(source, tmp_path / "b.mp4", **options)
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("b.gif", r"the suffix decides the format; known are .mp4, .mov, .mkv, .webm, got '.gif'"),
        ("missing/b.mp4", "there is no folder"),
        ("a.mp4", "is the video itself; choose another name"),
        ("link.mp4", "is the video itself; choose another name"),
    ],
)
def test_an_output_that_cannot_be_is_refused(pipe: Pipeline, tmp_path: Path, name: str, words: str) -> None:
    source = write(tmp_path / "a.mp4", moving(3))
    (tmp_path / "link.mp4").symlink_to(source)
    before = source.read_bytes()
    with pytest.raises(VideoWriteError, match=words):
        pipe.interpolate_video(source, tmp_path / name)
    assert source.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["a.mp4", "link.mp4"]


def test_a_video_too_large_for_memory_is_refused_with_what_would_fit(tiny: Bundle, tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.mp4", moving(3, 512, 512)))
    room = Room("fast", False, FreeMemory(160_000_000, "the test"))
    with pytest.raises(
        OutOfMemoryError, match="a video of 512x512 with memory='fast' needs .*the video scaled down to"
    ):
        OwnVideoPlan.of(OwnVideoRequest(), source, tiny, room)


def test_cancel_ends_it_and_leaves_nothing(pipe: Pipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(40))
    with pytest.raises(Cancelled):
        pipe.interpolate_video(
            source, tmp_path / "b.mp4", on_step=lambda step: pipe.cancel() if step.frames > 9 else None
        )
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert pipe.interpolate_video(source, tmp_path / "b.mp4").num_frames == 160


def test_no_space_left_is_told_in_words(pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: RetimedWriter, frame: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = write(tmp_path / "a.mp4", moving(5))
    monkeypatch.setattr(RetimedWriter, "add", full)
    with pytest.raises(VideoWriteError, match="the disk of .* is full; free some space"):
        pipe.interpolate_video(source, tmp_path / "b.mp4")
    assert os.listdir(tmp_path) == ["a.mp4"]
