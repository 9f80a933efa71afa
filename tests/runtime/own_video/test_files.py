"""A file in, a file out: exact rates, the same length, the same sound, the same tags, whatever the container."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ffrt import Pipeline
from ffrt.generation.own_video import VideoStep
from ffrt.media.metadata import read_metadata
from ffrt.media.retimed import RetimedWriter
from tests.runtime.clips import psnr
from tests.runtime.own_video.videos import NTSC, facts_of, frames_of, moving, packets_of, turn, write


@pytest.mark.parametrize(
    "rate", [Fraction(24), NTSC, Fraction(30000, 1001), Fraction(25), Fraction(2), Fraction(25, 2)]
)
@pytest.mark.parametrize("times", [4, 16])
def test_rates_stay_exact_and_the_output_lasts_as_long_to_a_frame(
    pipe: Pipeline, tmp_path: Path, rate: Fraction, times: int
) -> None:
    source = write(tmp_path / "a.mp4", moving(7), rate)
    made = pipe.interpolate_video(source, tmp_path / "b.mp4", times=times)
    assert (made.num_frames, made.rate) == (7 * times, times * rate)
    before, after = facts_of(source), facts_of(tmp_path / "b.mp4")
    assert after["rate"] == times * before["rate"] == times * rate
    assert after["duration_s"] == before["duration_s"] == 7 / rate
    shown, _ = frames_of(tmp_path / "b.mp4")
    assert shown == [i / (times * rate) for i in range(7 * times)]


def test_an_hour_later_frames_are_still_where_they_belong(pipe: Pipeline, tmp_path: Path) -> None:
    """A clip that begins an hour late, in a container of milliseconds: frames lie where the exact rate puts them."""
    source = write(tmp_path / "a.mkv", moving(5), NTSC, start=86314, seconds_of_sound=0.5)
    begin = frames_of(source)[0][0]
    assert begin > 3599
    pipe.interpolate_video(source, tmp_path / "b.mkv")
    shown, _ = frames_of(tmp_path / "b.mkv")
    assert len(shown) == 20
    assert all(abs(at - begin - i / (4 * NTSC)) <= Fraction(1, 1000) for i, at in enumerate(shown))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_sound_subtitles_and_metadata_come_along_packet_by_packet(pipe: Pipeline, tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"a{suffix}", moving(48), 24, seconds_of_sound=2, subtitles=True)
    pipe.interpolate_video(source, tmp_path / f"b{suffix}")
    copied = packets_of(tmp_path / f"b{suffix}", "audio")
    assert copied == packets_of(source, "audio") and len(copied) > 90
    said = [
        [(at, data) for at, _, data in packets_of(file, "subtitles") if len(data) > 2]
        for file in (source, tmp_path / f"b{suffix}")
    ]
    assert said[0] == said[1] and len(said[0]) == 2
    with av.open(str(source)) as old, av.open(str(tmp_path / f"b{suffix}")) as new:
        assert new.metadata["title"] == old.metadata["title"] == "Größe 圆"
        assert [stream.language for stream in new.streams] == [stream.language for stream in old.streams]
        assert new.streams[-1].language == "fra"


def test_sound_that_begins_before_the_pictures_keeps_its_distance(pipe: Pipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(12), 24, start=5, seconds_of_sound=1)
    pipe.interpolate_video(source, tmp_path / "b.mp4")
    begins = [frames_of(file)[0][0] - packets_of(file, "audio")[0][0] for file in (source, tmp_path / "b.mp4")]
    assert abs(begins[0] - begins[1]) < Fraction(1, 1000) and begins[0] > Fraction(1, 5)


def test_a_webm_holds_opus(pipe: Pipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mkv", moving(24), 24, seconds_of_sound=1, sound="libopus")
    pipe.interpolate_video(source, tmp_path / "b.webm")
    assert packets_of(tmp_path / "b.webm", "audio") == packets_of(source, "audio")


@pytest.mark.parametrize("turned", [False, True])
def test_the_shape_of_pixels_stays(pipe: Pipeline, tmp_path: Path, turned: bool) -> None:
    source = write(tmp_path / "a.mp4", moving(4), 24, aspect=Fraction(16, 15))
    if turned:
        turn(source, (0, 1, -1, 0))
    pipe.interpolate_video(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        found = container.streams.video[0].sample_aspect_ratio
        assert found == (Fraction(15, 16) if turned else Fraction(16, 15))


def test_ten_bits_become_eight_and_that_is_told(pipe: Pipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(4), 24, pixels="yuv420p10le")
    made = pipe.interpolate_video(source, tmp_path / "b.mp4")
    assert [note.text for note in made.notes] == ["video: 10 bits a colour become 8"]
    old, new = frames_of(source)[1], frames_of(tmp_path / "b.mp4")[1]
    assert min(psnr(a, b) for a, b in zip(old, new[::4], strict=True)) > 30


def test_chapters_come_along(pipe: Pipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(48), 24)
    with av.open(str(source)) as old, av.open(str(tmp_path / "c.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        new.set_chapters(
            [{"id": 1, "start": 0, "end": 900, "time_base": Fraction(1, 1000), "metadata": {"title": "eins"}}]
        )
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    pipe.interpolate_video(tmp_path / "c.mkv", tmp_path / "b.mkv")
    with av.open(str(tmp_path / "b.mkv")) as container:
        (chapter,) = container.chapters()
        assert chapter["metadata"]["title"] == "eins"
        assert chapter["end"] * chapter["time_base"] == Fraction(9, 10)


@pytest.mark.parametrize("colours", [(1, 1, 1, 1), (9, 16, 9, 1), (5, 6, 5, 2), (2, 2, 2, 0)])
def test_colour_tags_and_colours_stay(pipe: Pipeline, tmp_path: Path, colours: tuple[int, int, int, int]) -> None:
    source = write(tmp_path / "a.mp4", moving(6), 24, colours=colours)
    pipe.interpolate_video(source, tmp_path / "b.mp4")
    after = facts_of(tmp_path / "b.mp4")["colours"]
    assert after == facts_of(source)["colours"]
    old, new = (np.stack(_planes(file)) for file in (source, tmp_path / "b.mp4"))
    assert abs(float(new[::4].mean()) - float(old.mean())) < 0.8  # levels as they are stored


def _planes(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray()[: frame.height].astype(np.float64) for frame in container.decode(video=0)]


def test_given_frames_come_back_in_their_places(pipe: Pipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(40, 64, 128), 24)
    made = pipe.interpolate_video(source, tmp_path / "b.mp4", cuts="none")
    old, new = frames_of(source)[1], frames_of(tmp_path / "b.mp4")[1]
    assert made.cuts == ()
    assert min(psnr(a, b) for a, b in zip(old, new[::4], strict=True)) > 33
    for index in (1, 13, 14, 27, 39):  # at windows' edges too, no other frame is nearer
        errors = [float(np.mean((frame.astype(float) - new[4 * index]) ** 2)) for frame in old]
        assert int(np.argmin(errors)) == index


@pytest.mark.parametrize(("height", "width", "suffix"), [(33, 47, ".mp4"), (35, 64, ".mkv"), (64, 37, ".webm")])
def test_odd_sizes_are_padded_and_cropped_back(
    pipe: Pipeline, tmp_path: Path, height: int, width: int, suffix: str
) -> None:
    source = write(tmp_path / "a.mp4", moving(5, height, width), 24, pixels="yuv444p")
    made = pipe.interpolate_video(source, tmp_path / f"b{suffix}")
    old, new = frames_of(source)[1], frames_of(tmp_path / f"b{suffix}")[1]
    assert (made.height, made.width) == (height, width) and new.shape == (20, height, width, 3)
    assert min(psnr(a, b) for a, b in zip(old, new[::4], strict=True)) > 30


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1)),
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
    ],
)
def test_turned_videos_are_written_upright(pipe: Pipeline, tmp_path: Path, matrix: tuple, shown: Any) -> None:
    source = write(tmp_path / "a.mp4", moving(5, 64, 96), 24)
    turn(source, matrix)
    made = pipe.interpolate_video(source, tmp_path / "b.mp4")
    stored, new = frames_of(source)[1], frames_of(tmp_path / "b.mp4")[1]
    assert (made.height, made.width) == shown(stored[0]).shape[:2]
    assert min(psnr(shown(a), b) for a, b in zip(stored, new[::4], strict=True)) > 30
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_frames_that_an_edit_list_hides_stay_hidden(pipe: Pipeline, tmp_path: Path) -> None:
    """As a phone trims a video without encoding it anew: the first five frames are there and not shown."""
    source = write(tmp_path / "a.mp4", moving(24), 24, seconds_of_sound=1)
    with av.open(str(source)) as old, av.open(str(tmp_path / "c.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.size:
                shift = round(5 / 24 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                new.mux(packet)
    made = pipe.interpolate_video(tmp_path / "c.mp4", tmp_path / "b.mp4")
    assert made.num_frames == 4 * 19
    shown, frames = frames_of(tmp_path / "b.mp4")
    assert shown == [i / Fraction(96) for i in range(76)]
    assert psnr(frames[0], frames_of(source)[1][5]) > 30


def test_a_cut_is_told_and_held(pipe: Pipeline, tmp_path: Path) -> None:
    frames = np.concatenate([moving(9), moving(9, hue=1)])
    made = pipe.interpolate_video(write(tmp_path / "a.mp4", frames, 24), tmp_path / "b.mp4")
    new = frames_of(tmp_path / "b.mp4")[1].astype(float)
    assert made.cuts == (9,) and made.num_frames == 72
    before, after = new[32].mean(axis=(0, 1)), new[36].mean(axis=(0, 1))
    for frame in new[33:36]:  # frame 8 of the video for as long as it was shown
        assert np.abs(frame.mean(axis=(0, 1)) - before).max() < 2 < np.abs(before - after).max()


def test_how_it_was_made_is_in_the_file_unless_it_says_something_else(pipe: Pipeline, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mp4", moving(4), NTSC)
    pipe.interpolate_video(source, tmp_path / "b.mp4", seed=4)
    found = read_metadata(tmp_path / "b.mp4")
    assert found.items() >= {"seed": "4", "interpolated_times": "4", "source_rate": "24000/1001"}.items()
    for suffix in (".mov", ".mkv", ".webm"):
        pipe.interpolate_video(source, tmp_path / f"b{suffix}", seed=4)
        assert read_metadata(tmp_path / f"b{suffix}") == found
    source = write(tmp_path / "c.mp4", moving(4), 24, metadata={"comment": "my holiday"})
    pipe.interpolate_video(source, tmp_path / "d.mp4")
    assert facts_of(tmp_path / "d.mp4")["metadata"]["comment"] == "my holiday"


def test_progress_counts_written_frames_and_the_time_left(pipe: Pipeline, tmp_path: Path) -> None:
    seen: list[VideoStep] = []
    pipe.interpolate_video(write(tmp_path / "a.mp4", moving(20), 24), tmp_path / "b.mp4", on_step=seen.append)
    assert [step.frames for step in seen if step.frames] == sorted(step.frames for step in seen if step.frames)
    assert seen[0].frames == 0 and seen[-1].frames == seen[-1].num_frames == 80
    assert seen[-1].remaining_s == 0


def test_the_same_seed_draws_the_same_frames(pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared as they are written, since libx264 itself makes another file now and then."""
    source = write(tmp_path / "a.mp4", moving(4), 24)
    drawn: list[list[np.ndarray]] = []
    add = RetimedWriter.add
    monkeypatch.setattr(RetimedWriter, "add", lambda self, frame: (drawn[-1].append(frame), add(self, frame))[1])
    for seed in (1, 1, 2):
        drawn.append([])
        pipe.interpolate_video(source, tmp_path / "b.mp4", seed=seed)
    one, same, other = (np.stack(frames) for frames in drawn)
    assert np.array_equal(one, same) and not np.array_equal(one, other)
