"""Metadata come back from what `Video.save` wrote; any other file is one without, or a RequestError."""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ffrt import RequestError, Video
from ffrt.cli import main as cli
from ffrt.media.metadata import read_metadata

METADATA = {"prompt": "a red circle", "seed": "7"}
SUFFIXES = ("mp4", "webm", "gif", "png")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    video = Video.from_frames(np.zeros((1, 16, 16, 3), np.uint8), 8, METADATA)
    for suffix in SUFFIXES:
        video.save(folder / f"a.{suffix}")
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_come_back_however_the_path_is_written(
    videos: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(videos))
    place = videos / f"a.{suffix}"
    for path in (place, str(place), os.fsencode(place), f"~/a.{suffix}"):
        assert read_metadata(path) == METADATA


def with_comment(path: Path, comment: str) -> Path:
    if path.suffix == ".png":
        info = PngInfo()
        info.add_text("Comment", comment)
        Image.new("RGB", (2, 2)).save(path, pnginfo=info)
        return path
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 16
        file.metadata["comment"] = comment
        file.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["png", "mp4"])
@pytest.mark.parametrize("comment", ["made elsewhere", "[" * 100_000, "[1, 2]", '{"a":' * 2000, "9" * 5000, ""])
def test_another_comment_is_no_metadata(tmp_path: Path, suffix: str, comment: str) -> None:
    assert read_metadata(with_comment(tmp_path / f"a.{suffix}", comment)) == {}


def test_a_comment_in_latin_1_is_no_metadata(tmp_path: Path) -> None:
    path = with_comment(tmp_path / "a.mp4", "QQQQ crME brulME")
    path.write_bytes(path.read_bytes().replace(b"crME brulME", "crème brûlé".encode("latin-1")))
    assert read_metadata(path) == {}


def test_metadata_of_a_stranger_are_shown_and_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comment = json.dumps({"prompt": "\x1b[2J\u009b2J half \ud800", "été": "crème"})
    path = with_comment(tmp_path / "a.png", comment)
    assert cli.main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\\x1b[2J\\x9b2J half ?" in shown and "crème" in shown
    assert cli.main(["inspect", "--json", str(path)]) == 0


def test_what_is_no_video_is_refused(videos: Path, tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        os.mkfifo(tmp_path / f"pipe.{suffix}")
        (tmp_path / f"text.{suffix}").write_text("not a video")
        (tmp_path / f"short.{suffix}").write_bytes((videos / f"a.{suffix}").read_bytes()[:20])
        for name, words in (
            ("text", "cannot be read as a video"),
            ("short", "cannot be read as a video"),
            ("missing", "cannot be read .No such file"),
            ("pipe", "expected a plain file, got a FIFO"),
        ):
            with pytest.raises(RequestError, match=words):
                read_metadata(tmp_path / f"{name}.{suffix}")
    for path, words in (
        (tmp_path / "a.avi", r"ending in \.png"),
        (5, "video: expected a path, got 5"),
        ("", "file name"),
    ):
        with pytest.raises(RequestError, match=words):
            read_metadata(path)


def test_a_playlist_with_the_name_of_a_video_opens_nothing(videos: Path, tmp_path: Path) -> None:
    listed = f"ffconcat version 1.0\nfile '{videos / 'a.mp4'}'\n"
    (tmp_path / "list.mp4").write_text(listed)
    with pytest.raises(RequestError, match="cannot be read as a video"):
        read_metadata(tmp_path / "list.mp4")


@given(st.sampled_from(SUFFIXES), st.integers(0, 2000), st.binary(min_size=1, max_size=4))
def test_a_damaged_video_is_read_or_refused(videos: Path, suffix: str, at: int, patch: bytes) -> None:
    data = bytearray((videos / f"a.{suffix}").read_bytes())
    at %= len(data)
    data[at : at + len(patch)] = patch
    path = videos / f"damaged.{suffix}"
    path.write_bytes(data)
    try:
        read_metadata(path)
    except RequestError as error:
        assert "cannot be read as a video" in str(error)


def test_a_box_may_say_its_size_in_64_bits(tmp_path: Path) -> None:
    """As those of files above 4 GB do: one comes in front of the index."""
    path = tmp_path / "a.mp4"
    Video.from_frames(np.zeros((2, 32, 32, 3), np.uint8), 8, {"prompt": "p"}).save(path)
    data, at = path.read_bytes(), 0
    boxes = []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        boxes.append((data[at + 4 : at + 8], data[at + 8 : at + size]))
        at += size
    filler = (1).to_bytes(4, "big") + b"free" + (16 + 40).to_bytes(8, "big") + bytes(40)
    first, *rest = [(8 + len(body)).to_bytes(4, "big") + kind + body for kind, body in boxes]
    path.write_bytes(first + filler + b"".join(rest))  # frames are then not where the index says, but nobody reads them
    assert read_metadata(path)["prompt"] == "p"
