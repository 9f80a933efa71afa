"""Frames in order of time: those of the video, early, cancelled, left, resumed and streamed."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

import tests.bundles
from ffrt import Bundle, Cancelled, Pipeline, RequestError, Stage, Step, VideoWriteError
from ffrt.media.metadata import read_metadata
from ffrt.stages.graphs import LiveGraph
from tests.runtime.clips import environment

PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with 16 keyframes, whose second pass has five windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tests.bundles, "KEYFRAMES", 16)
        return tests.bundles.write_bundle(tmp_path_factory.mktemp("long") / "bundle")


@pytest.fixture
def own(long: Bundle) -> Iterator[Pipeline]:
    with Pipeline(long, provider="cpu", threads=1) as pipe:
        yield pipe


@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("fps", [2, 8, 30])
def test_frames_are_those_of_the_video(long: Bundle, memory: str, fps: int) -> None:
    pipe = Pipeline(long, provider="cpu", threads=1, memory=memory)
    want = pipe(PROMPT, fps=fps, seed=3).frames
    steps: list[Step] = []
    generation = pipe.generate(PROMPT, fps=fps, seed=3)
    np.testing.assert_array_equal(np.stack(list(generation.frames(on_step=steps.append))), want)
    np.testing.assert_array_equal(generation.video.frames, want)
    assert generation.checkpoint is not None and generation.checkpoint.fps == fps
    assert [step.index for step in steps if step.stage is Stage.DECODING] == list(range(len(want)))
    done = [step.done for step in steps]
    assert done == sorted(set(done)) and done[-1] == steps[0].of and {step.of for step in steps} == {done[-1]}
    assert steps[-1].remaining_s == 0
    np.testing.assert_array_equal(np.stack(list(generation.frames())), want)


def test_a_temporal_decoder_sees_the_clips_of_the_video(long: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = replace(long, video=replace(long.video, temporal_decoder=True))
    sizes: list[int] = []
    run = LiveGraph.__call__

    def recorded(self: LiveGraph, feed: dict) -> dict:
        if self.name == "movq_decoder":
            sizes.append(len(feed["latent"]))
        return run(self, feed)

    monkeypatch.setattr(LiveGraph, "__call__", recorded)
    generation = Pipeline(bundle, provider="cpu", threads=1).generate(PROMPT, fps=30)
    early = np.stack(list(generation.frames()))
    seen = sizes.copy()
    sizes.clear()
    np.testing.assert_array_equal(early, generation.video.frames)
    assert seen == sizes and max(sizes) == 5


def test_frames_come_before_the_last_windows(own: Pipeline) -> None:
    generation = own.generate(PROMPT, fps=30)
    frames = generation.frames()
    next(frames)
    assert generation.checkpoint is not None and generation.checkpoint.fps == 8
    assert len(list(frames)) == 240 and generation.checkpoint.fps == 30


def test_a_reader_that_leaves_closes_the_generation_and_loses_no_stage(own: Pipeline) -> None:
    generation = own.generate(PROMPT, fps=30, seed=3)
    for _ in generation.frames():
        break
    with pytest.raises(RequestError, match="got one that was closed"):
        generation.video  # noqa: B018
    with pytest.raises(RequestError, match="got one that was closed"):
        list(generation.frames())
    resumed = own.generate(PROMPT, fps=30, seed=3, resume=generation.checkpoint)
    np.testing.assert_array_equal(np.stack(list(resumed.frames())), own(PROMPT, fps=30, seed=3).frames)


def test_a_second_reader_is_refused_and_the_first_goes_on(own: Pipeline) -> None:
    generation = own.generate(PROMPT, fps=30)
    frames = generation.frames()
    next(frames)
    with pytest.raises(RequestError, match="one reader of its frames, got a second"):
        next(generation.frames())
    assert len(list(frames)) == 240


def test_another_thread_cancels_in_mid_stream(own: Pipeline) -> None:
    generation = own.generate(PROMPT, fps=30)
    frames = generation.frames()
    next(frames)
    thread = threading.Thread(target=generation.cancel)
    thread.start()
    thread.join()
    with pytest.raises(Cancelled):
        list(frames)
    assert own(PROMPT, fps=2).num_frames == 16


@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_a_stream_is_read_again_with_all_that_a_file_has(own: Pipeline, tmp_path: Path, format: str) -> None:
    class OnlyWritten:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:
            self.data += bytes(data[:1000])
            return min(len(data), 1000)

    file = OnlyWritten()
    video = own.generate(PROMPT, fps=30).stream(file, format=format)  # type: ignore[arg-type]
    path = tmp_path / f"a.{format}"
    path.write_bytes(file.data)
    assert read_metadata(path) == dict(video.metadata)
    with av.open(io.BytesIO(file.data)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 30
        frames = list(container.decode(video=0))
    assert [round(float(frame.time) * 30) for frame in frames] == list(range(241))
    assert {(int(frame.colorspace), int(frame.color_range)) for frame in frames} == {(1, 1)}
    shown = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(int)
    assert np.abs(shown - video.frames).mean() < 8
    assert all(thread.name != "ffrt-encoding" for thread in threading.enumerate())


def test_a_file_that_takes_no_more_ends_the_stream(own: Pipeline) -> None:
    class Full(io.RawIOBase):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    generation = own.generate(PROMPT, fps=30)
    with pytest.raises(VideoWriteError, match="took no more bytes"):
        generation.stream(Full())  # type: ignore[arg-type]
    assert all(thread.name != "ffrt-encoding" for thread in threading.enumerate())


def test_what_cannot_be_streamed_is_refused_before_anything_runs(own: Pipeline) -> None:
    for file, format, words in (
        (io.BytesIO(), "gif", r"format: expected one of \['mp4', 'webm'\]"),
        ("a.mp4", "mp4", "file: expected one that is open for writing bytes"),
        (io.StringIO(), "mp4", "binary mode"),
    ):
        generation = own.generate(PROMPT)
        with pytest.raises(RequestError, match=words):
            generation.stream(file, format=format)  # type: ignore[arg-type]
    assert own.open_graphs == ()


def command(long: Bundle, line: str, *more: str) -> subprocess.CompletedProcess[bytes]:
    words = ["generate", PROMPT, "-o", "-", "--bundle", str(long.folder), "--fps", "30", "--threads", "1", *more]
    shell = ["bash", "-c", line, "bash", sys.executable, "-m", "ffrt", *words]
    return subprocess.run(shell, capture_output=True, env=environment(), timeout=300)


def test_the_command_writes_a_video_to_stdout(long: Bundle) -> None:
    done = command(long, '"$@"', "--format", "webm")
    assert done.returncode == 0, done.stderr
    with av.open(io.BytesIO(done.stdout)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 241


def test_a_reader_that_goes_in_mid_stream_ends_the_command_quietly(long: Bundle) -> None:
    done = command(long, '"$@" | head -c 1000 >&2; exit ${PIPESTATUS[0]}', "--quiet")
    assert done.returncode == 1 and len(done.stderr) == 1000 and b"Traceback" not in done.stderr


def test_a_reader_that_was_never_there_is_noticed_before_the_first_frame(long: Bundle) -> None:
    done = command(long, '"$@" | true; exit ${PIPESTATUS[0]}', "--steps", "1000")
    assert done.returncode == 1 and b"interpolation" not in done.stderr and b"Traceback" not in done.stderr


def test_ctrl_c_ends_a_command_whose_reader_does_not_read(long: Bundle) -> None:
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    words = ["generate", PROMPT, "-o", "-", "--bundle", str(long.folder), "--fps", "30", "--threads", "1"]
    line = [sys.executable, "-m", "ffrt", *words]
    with subprocess.Popen(line, stdout=theirs, stderr=subprocess.PIPE, env=environment()) as process:
        os.close(theirs)
        assert process.stderr is not None
        assert b"keyframes" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    os.close(ours)
    assert process.returncode == 130 and b"stopped, the stream ends before its end" in told


def test_a_terminal_and_other_formats_are_refused(long: Bundle) -> None:
    main, terminal = os.openpty()
    words = ["generate", PROMPT, "-o", "-", "--bundle", str(long.folder)]
    line = [sys.executable, "-m", "ffrt", *words]
    done = subprocess.run(line, stdout=terminal, stderr=subprocess.PIPE, env=environment(), timeout=300)
    os.close(main)
    os.close(terminal)
    assert done.returncode == 2 and b"--output: expected a pipe or a file" in done.stderr
    done = command(long, '"$@"', "--format", "gif")
    assert done.returncode == 2 and b"--format: expected one of ['mp4', 'webm']" in done.stderr
