"""Folders of videos are read whole, or said to be what they are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.metrics.base import Frames
from bench.metrics.videos import VideoFolderError, captions_of, pairs, videos_in
from ffrt import Video
from tests.bench.metrics.folders import clip, written


def saved(frames: Frames, prompt: str, path: Path) -> None:
    count, height, width = frames.shape[:3]
    metadata = {"prompt": prompt}
    Video(lambda: iter([frames]), num_frames=count, height=height, width=width, fps=8, metadata=metadata).save(path)


def test_every_format_is_read_with_all_its_frames(tmp_path: Path) -> None:
    frames = clip(0)
    written(tmp_path, {"series": frames})
    for suffix in ("mp4", "webm", "gif"):
        saved(frames, "a spot", tmp_path / f"{suffix}.{suffix}")
    (tmp_path / "notes.txt").write_text("no video")
    found = videos_in(tmp_path)
    assert found.names == ("gif", "mp4", "series", "webm")
    by_name = dict(zip(found.names, found.clips(), strict=True))
    assert np.array_equal(by_name["series"], frames)
    for name, limit in (("gif", 12), ("mp4", 12), ("webm", 12)):
        assert by_name[name].shape == frames.shape
        assert np.abs(by_name[name].astype(int) - frames).mean() < limit


def test_pairs_are_of_one_name_and_one_shape(tmp_path: Path) -> None:
    ours = written(tmp_path / "ours", {"a": clip(0), "b": clip(1)})
    true = written(tmp_path / "true", {"a": clip(0), "b": clip(1)})
    assert [name for name, _, _ in pairs(videos_in(ours), videos_in(true))] == ["a", "b"]
    short = written(tmp_path / "short", {"a": clip(0), "b": clip(1)[:9]})
    with pytest.raises(VideoFolderError, match=r"b: expected two videos of one shape.*\[16, .*\[9, .*nothing is cut"):
        list(pairs(videos_in(ours), videos_in(short)))
    other = written(tmp_path / "other", {"a": clip(0), "c": clip(1)})
    with pytest.raises(VideoFolderError, match="in one alone: b, c"):
        list(pairs(videos_in(ours), videos_in(other)))


def test_what_holds_no_video_is_said(tmp_path: Path) -> None:
    with pytest.raises(VideoFolderError, match="which is none"):
        videos_in(tmp_path / "nowhere")
    with pytest.raises(VideoFolderError, match="expected videos"):
        videos_in(tmp_path)
    written(tmp_path, {"a": clip(0, 2)})
    with pytest.raises(VideoFolderError, match="a folder of their own"):
        videos_in(tmp_path / "a")
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(VideoFolderError, match=r"bad\.mp4"):
        list(videos_in(tmp_path).clips())


def test_frames_of_two_sizes_make_no_clip(tmp_path: Path) -> None:
    written(tmp_path, {"a": clip(0, 2, 32)})
    written(tmp_path / "b", {"a": clip(0, 1, 48)})
    (tmp_path / "b" / "a" / "000.png").rename(tmp_path / "a" / "009.png")
    with pytest.raises(VideoFolderError, match="frames of one size"):
        next(videos_in(tmp_path).clips())


def test_a_digest_belongs_to_the_content(tmp_path: Path) -> None:
    one, same, other = (written(tmp_path / name, {"a": clip(seed)}) for name, seed in (("1", 0), ("2", 0), ("3", 1)))
    assert videos_in(one).digest() == videos_in(same).digest() != videos_in(other).digest()


def test_captions_come_from_a_file_or_from_the_video(tmp_path: Path) -> None:
    found = videos_in(written(tmp_path, {"a": clip(0, 2), "b": clip(1, 2)}))
    with pytest.raises(VideoFolderError, match=r"a: expected a caption in .*captions\.json"):
        captions_of(found)
    (tmp_path / "captions.json").write_text(json.dumps({"a": "a spot", "b": "two spots"}))
    assert captions_of(found) == ["a spot", "two spots"]
    (tmp_path / "captions.json").write_text("[]")
    with pytest.raises(VideoFolderError, match="got a list"):
        captions_of(found)


def test_a_video_of_ours_has_its_prompt_as_caption(tmp_path: Path) -> None:
    saved(clip(0), "a red spot", tmp_path / "a.mp4")
    assert captions_of(videos_in(tmp_path)) == ["a red spot"]
