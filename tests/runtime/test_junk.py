"""Whatever a public call is given, it works or raises an FfrtError."""

from __future__ import annotations

import copy
import io
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffrt import (
    Bundle,
    Checkpoint,
    Context,
    FfrtError,
    OwnVideoRequest,
    Pipeline,
    Plan,
    Request,
    RequestError,
    Stage,
    Video,
    open_bundle,
)
from ffrt.cli import main as cli
from ffrt.media.image import open_image
from ffrt.media.metadata import read_metadata

P = "a red circle"
LATENTS = np.zeros((3, 4, 4, 4), np.float32)
FRAMES = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
VIDEO = Video.from_frames(FRAMES, 8, {"prompt": P})
CONTEXT = Context(np.zeros((1, 3, 8), np.float32), np.ones((1, 3), bool), np.zeros(8, np.float32))
CHECKPOINT = Checkpoint(Request(P), "digest", "cpu", Stage.KEYFRAMES, 2, None, LATENTS)


class OfNumber:
    """A path that is none."""

    def __fspath__(self) -> int:
        return 5


class Failing:
    """A file that is none."""

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        raise ZeroDivisionError

    def write(self, data: bytes) -> int:
        raise ZeroDivisionError


JUNK: list[Any] = [
    *[None, True, 5, -1, 10**400, 2.5, float("nan"), float("inf"), 1j],
    *["", " ", "x", "~", "\ud800", "a\0b", "x" * 300, b"", b"x", b"\xff", memoryview(b"x")],
    *[[], [1], {}, {"a": 1}, {1: "a"}, (), set(), slice(0, 1), slice("a", None), range(3)],
    *[np.zeros(3), np.zeros(0), np.zeros((2, 2, 2, 2)), np.array(["a"]), np.array([None]), np.ma.array([1])],
    *[np.float32(1), np.int64(8), np.bool_(True), np.datetime64("2024-01-01")],
    *[object(), int, Path("x"), io.BytesIO(), io.StringIO(), OfNumber(), Failing(), Exception("x")],
    *[Stage.TEXT, Request("x"), CONTEXT, CHECKPOINT, VIDEO],
]

CALLS: dict[str, Callable[[Pipeline, Any], object]] = {
    "from_pretrained": lambda pipe, junk: Pipeline.from_pretrained(junk, provider="cpu"),
    "provider": lambda pipe, junk: Pipeline.from_pretrained(pipe.bundle.folder, provider=junk),
    "threads": lambda pipe, junk: Pipeline(pipe.bundle, threads=junk),
    "memory": lambda pipe, junk: Pipeline(pipe.bundle, memory=junk),
    "cuda_graph": lambda pipe, junk: Pipeline(pipe.bundle, provider="cpu", cuda_graph=junk),
    "provider_options": lambda pipe, junk: Pipeline(pipe.bundle, provider="cpu", provider_options=junk),
    "provider_options value": lambda pipe, junk: Pipeline(pipe.bundle, provider="cpu", provider_options={"a": junk}),
    "Pipeline": lambda pipe, junk: Pipeline(junk),
    "graph": lambda pipe, junk: pipe.graph(junk),
    "open_bundle": lambda pipe, junk: open_bundle(junk),
    "bundle path": lambda pipe, junk: pipe.bundle.path(junk),
    "bundle read": lambda pipe, junk: pipe.bundle.read(junk, 100),
    "bundle graph_file": lambda pipe, junk: pipe.bundle.graph_file(junk),
    "generate": lambda pipe, junk: pipe.generate(junk),
    "resume": lambda pipe, junk: pipe.generate(P, resume=junk),
    "generation save": lambda pipe, junk: pipe.generate(P, fps=2, num_inference_steps=1).save(junk),
    "plan": lambda pipe, junk: Plan.of(junk, pipe.bundle),
    "plan bundle": lambda pipe, junk: Plan.of(Request(P), junk),
    "plan room": lambda pipe, junk: Plan.of(Request(P), pipe.bundle, junk),
    "encode": lambda pipe, junk: pipe.encode(junk),
    "encode negative": lambda pipe, junk: pipe.encode(P, junk),
    "first_frame": lambda pipe, junk: pipe.first_frame(junk),
    "keyframes": lambda pipe, junk: pipe.keyframes(junk),
    "keyframes rows": lambda pipe, junk: pipe.keyframes(Context(junk, CONTEXT.mask, CONTEXT.null_embedding)),
    "keyframes mask": lambda pipe, junk: pipe.keyframes(Context(CONTEXT.context, junk, CONTEXT.null_embedding)),
    "keyframes null": lambda pipe, junk: pipe.keyframes(Context(CONTEXT.context, CONTEXT.mask, junk)),
    **{
        f"keyframes {name}": lambda pipe, junk, name=name: pipe.keyframes(  # type: ignore[misc]
            pipe.encode(P), **{"num_inference_steps": 1, name: junk}
        )
        for name in (
            *("image", "motion", "num_inference_steps", "guidance_scale", "image_guidance_scale", "seed", "noise"),
            *("noise_augmentation", "frame_noise", "height", "width", "sampler", "cache_interval", "guidance_interval"),
        )
    },
    "interpolate": lambda pipe, junk: pipe.interpolate(junk, fps=8),
    **{
        f"interpolate {name}": lambda pipe, junk, name=name: pipe.interpolate(  # type: ignore[misc]
            LATENTS, **{"fps": 8, "num_inference_steps": 1, name: junk}
        )
        for name in ("context", "fps", "num_inference_steps", "guidance_scale", "seed", "noise", "sampler", "method")
    },
    "interpolate_video": lambda pipe, junk: pipe.interpolate_video(junk, "own.mp4"),
    "interpolate_video path": lambda pipe, junk: pipe.interpolate_video("own.mp4", junk),
    **{
        f"interpolate_video {name}": lambda pipe, junk, name=name: OwnVideoRequest(**{name: junk})  # type: ignore[misc]
        for name in OwnVideoRequest.__dataclass_fields__
        if name != "_"
    },
    "decode": lambda pipe, junk: pipe.decode(junk, 8),
    "decode fps": lambda pipe, junk: pipe.decode(LATENTS, junk),
    "encode_frames": lambda pipe, junk: pipe.encode_frames(junk),
    "from_frames": lambda pipe, junk: Video.from_frames(junk, 8),
    "from_frames fps": lambda pipe, junk: Video.from_frames(FRAMES, junk),
    "metadata": lambda pipe, junk: Video.from_frames(FRAMES[:1], 8, junk).save("metadata.mp4"),
    "metadata value": lambda pipe, junk: Video.from_frames(FRAMES[:1], 8, {"prompt": junk}).save("metadata.mp4"),
    **{
        f"Video {name}": lambda pipe, junk, name=name: Video(  # type: ignore[misc]
            lambda: iter([FRAMES]), **{"num_frames": 2, "height": 8, "width": 8, "fps": 8, "metadata": {}, name: junk}
        )
        for name in ("num_frames", "height", "width", "fps")
    },
    "Video chunks": lambda pipe, junk: (
        None if callable(junk) else Video(junk, num_frames=1, height=8, width=8, fps=8, metadata={})
    ),
    "Video made": lambda pipe, junk: Video(lambda: junk, num_frames=1, height=8, width=8, fps=8, metadata={}).frames,
    "Video chunk": lambda pipe, junk: Video(
        lambda: iter([junk]), num_frames=1, height=8, width=8, fps=8, metadata={}
    ).save("chunk.gif"),
    "save": lambda pipe, junk: VIDEO.save(junk),
    "save as gif": lambda pipe, junk: VIDEO.save(junk, format="gif"),
    "save format": lambda pipe, junk: VIDEO.save(io.BytesIO(), format=junk),
    "save on_frame": lambda pipe, junk: None if callable(junk) else VIDEO.save("on_frame.gif", on_frame=junk),
    "checkpoint save": lambda pipe, junk: CHECKPOINT.save(junk),
    "checkpoint load": lambda pipe, junk: Checkpoint.load(junk),
    "read_metadata": lambda pipe, junk: read_metadata(junk),
    "open_image": lambda pipe, junk: open_image(junk),
    **{
        name: lambda pipe, junk, name=name: Plan.of(Request(P, **{name: junk}), pipe.bundle)  # type: ignore[misc]
        for name in Request.__dataclass_fields__
        if name != "prompt"
    },
}


@pytest.mark.parametrize("call", CALLS)
def test_junk_works_or_is_an_error_of_ours(
    pipe: Pipeline, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for junk in JUNK:
        try:
            CALLS[call](pipe, junk)
        except FfrtError as error:
            told = str(error)
            assert told and "\n" not in told and len(told) < 2000
            told.encode()  # so that it can be printed


def test_a_preview_wants_a_slice(pipe: Pipeline) -> None:
    step = next(step for step in pipe.generate(P, fps=2, num_inference_steps=1) if step.latents is not None)
    for junk in (*(each for each in JUNK if not isinstance(each, slice)), slice("a", None), slice(0, 1, 0)):
        with pytest.raises(RequestError, match="frames: expected a slice"):
            step.preview(junk)
    assert step.preview(slice(0, 1)).shape == (1, 32, 32, 3)


def test_a_function_to_be_told_of_steps_is_asked_for_before_the_work(pipe: Pipeline, tmp_path: Path) -> None:
    generation = pipe.generate(P, fps=2, num_inference_steps=1)
    with pytest.raises(RequestError, match="on_step: expected a function, got 5"):
        generation.save(tmp_path / "a.gif", on_step=5)  # type: ignore[arg-type]
    assert generation.checkpoint is None


def test_a_file_object_that_fails_is_told(tmp_path: Path) -> None:
    closed = io.BytesIO()
    closed.close()
    for file, words in ((closed, "closed file"), (Failing(), "ZeroDivisionError")):
        with pytest.raises(FfrtError, match=f"path: expected a file that is open for writing, got .*{words}"):
            VIDEO.save(file, format="gif")  # type: ignore[arg-type]
        with pytest.raises(FfrtError, match=f"image: expected a file that is open for reading, got .*{words}"):
            open_image(file)


def test_an_empty_negative_prompt_is_none(pipe: Pipeline) -> None:
    options = {"fps": 2, "num_inference_steps": 1, "guidance_scale": 3.0}
    video = pipe(P, **options)  # type: ignore[arg-type]
    again = pipe(P, **options, negative_prompt=video.metadata["negative_prompt"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(video.frames, again.frames)
    assert again.metadata == video.metadata and video.metadata["negative_prompt"] == ""
    assert Request(P, negative_prompt="") == Request(P)
    assert pipe.encode(P, "").negative_context is None
    other = pipe(P, **options, negative_prompt="blue")  # type: ignore[arg-type]
    assert (other.frames != video.frames).any()


def test_a_blank_negative_prompt_is_an_error_as_a_blank_prompt_is() -> None:
    for blank in (" ", "\n\t", "\u3000"):
        with pytest.raises(RequestError, match="negative_prompt: expected a sentence, got .* which is empty"):
            Request(P, negative_prompt=blank)


def test_an_empty_negative_prompt_on_the_command_line_is_none(tiny: Bundle, tmp_path: Path) -> None:
    line = ["generate", P, "--fps=2", "--steps=1", "--threads=1", "-q", f"--bundle={tiny.folder}"]
    assert cli.main([*line, f"--output={tmp_path / 'a.png'}"]) == 0
    assert cli.main([*line, "--negative-prompt", "", f"--output={tmp_path / 'b.png'}"]) == 0
    for number in range(3):
        name = f"{{0}}/{{0}}-{number:05}.png"
        assert (tmp_path / name.format("a")).read_bytes() == (tmp_path / name.format("b")).read_bytes()


def test_a_video_is_an_array_for_numpy() -> None:
    assert np.asarray(VIDEO) is VIDEO.frames
    taken = np.array(VIDEO)
    assert taken.shape == (2, 8, 8, 3) and taken.flags.writeable and not np.shares_memory(taken, VIDEO.frames)
    assert np.asarray(VIDEO, np.float32).dtype == np.float32
    assert np.mean(VIDEO) == FRAMES.mean()  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="copy"):
        np.array(VIDEO, np.float32, copy=False)


def test_a_video_is_pickled_and_copied_with_its_frames() -> None:
    lazy = Video(lambda: iter([VIDEO.frames]), num_frames=2, height=8, width=8, fps=8, metadata={"prompt": P})
    for same in (pickle.loads(pickle.dumps(lazy)), copy.deepcopy(lazy), copy.copy(lazy)):
        np.testing.assert_array_equal(same.frames, VIDEO.frames)
        assert (same.fps, dict(same.metadata), same.frames.flags.writeable) == (8, {"prompt": P}, False)


def test_a_step_is_pickled_and_copied_without_its_decoder(pipe: Pipeline) -> None:
    step = list(pipe.generate(P, fps=2, num_inference_steps=1))[-1]
    for same in (pickle.loads(pickle.dumps(step)), copy.deepcopy(step)):
        assert same == step
        np.testing.assert_array_equal(same.latents, step.latents)
        with pytest.raises(RequestError, match="preview: expected the step itself, got a copy of it"):
            same.preview()


def test_keyframes_in_a_later_pass_are_logged(pipe: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    count = pipe.bundle.keyframes.num_frames
    keyframes = np.zeros((count, 4, 4, 4), np.float32)
    with caplog.at_level(logging.WARNING, "ffrt"):
        between = pipe.interpolate(keyframes, fps=8, num_inference_steps=1)
        pipe.interpolate(between, fps=30, num_inference_steps=1)
        assert caplog.messages == []
        pipe.interpolate(keyframes, fps=30, num_inference_steps=1)
    assert len(caplog.messages) == 1 and "expects those of the pass to 8 fps" in caplog.messages[0]
