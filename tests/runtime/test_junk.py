"""Whatever a public call is given, it works or raises an FfrtError."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffrt import Checkpoint, FfrtError, Pipeline, Plan, Request, RequestError, Video, open_bundle
from ffrt.media.metadata import read_metadata

P = "a red circle"
LATENTS = np.zeros((3, 4, 4, 4), np.float32)
JUNK: list[Any] = [
    5,
    -1,
    2.5,
    "x",
    b"x",
    "",
    [],
    {},
    (),
    object(),
    float("nan"),
    np.zeros(3),
    np.float32(1),
    print,
    True,
]
VIDEO = Video.from_frames(np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3), 8, {"prompt": P})

CALLS: dict[str, Callable[[Pipeline, Any], object]] = {
    "from_pretrained": lambda pipe, junk: Pipeline.from_pretrained(junk),
    "provider": lambda pipe, junk: Pipeline.from_pretrained(pipe.bundle.folder, provider=junk),
    "threads": lambda pipe, junk: Pipeline(pipe.bundle, threads=junk),
    "memory": lambda pipe, junk: Pipeline(pipe.bundle, memory=junk),
    "provider_options": lambda pipe, junk: Pipeline(pipe.bundle, provider="cpu", provider_options=junk),
    "Pipeline": lambda pipe, junk: Pipeline(junk),
    "open_bundle": lambda pipe, junk: open_bundle(junk),
    "generate": lambda pipe, junk: pipe.generate(junk),
    "resume": lambda pipe, junk: pipe.generate(P, resume=junk),
    "encode": lambda pipe, junk: pipe.encode(junk),
    "encode negative": lambda pipe, junk: pipe.encode(P, junk),
    "keyframes": lambda pipe, junk: pipe.keyframes(junk),
    "interpolate": lambda pipe, junk: pipe.interpolate(junk, fps=8),
    "interpolate fps": lambda pipe, junk: pipe.interpolate(LATENTS, fps=junk),
    "interpolate method": lambda pipe, junk: pipe.interpolate(LATENTS, fps=8, method=junk, num_inference_steps=1),
    "decode": lambda pipe, junk: pipe.decode(junk, 8),
    "decode fps": lambda pipe, junk: pipe.decode(LATENTS, junk),
    "encode_frames": lambda pipe, junk: pipe.encode_frames(junk),
    "from_frames": lambda pipe, junk: Video.from_frames(junk, 8),
    "from_frames fps": lambda pipe, junk: Video.from_frames(np.zeros((1, 2, 2, 3), np.uint8), junk),
    "load": lambda pipe, junk: Checkpoint.load(junk),
    "read_metadata": lambda pipe, junk: read_metadata(junk),
    **{
        name: lambda pipe, junk, name=name: Plan.of(Request(P, **{name: junk}), pipe.bundle)  # type: ignore[misc]
        for name in Request.__dataclass_fields__
        if name != "prompt"
    },
}


@pytest.mark.parametrize("call", CALLS)
def test_junk_is_refused_with_an_error_of_ours(
    pipe: Pipeline, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for junk in JUNK:
        try:
            CALLS[call](pipe, junk)
        except FfrtError as error:
            assert str(error) and len(str(error)) < 2000


def test_an_empty_negative_prompt_is_none(pipe: Pipeline) -> None:
    video = pipe(P, fps=2, num_inference_steps=1)
    again = pipe(P, fps=2, num_inference_steps=1, negative_prompt=video.metadata["negative_prompt"])
    np.testing.assert_array_equal(video.frames, again.frames)
    assert again.metadata["negative_prompt"] == "" and Request(P, negative_prompt="") == Request(P)
    assert pipe.encode(P, "").negative_context is None
    with pytest.raises(RequestError, match="negative_prompt: expected a sentence, got ' '"):
        Request(P, negative_prompt=" ")


def test_a_video_is_an_array_for_numpy() -> None:
    assert np.asarray(VIDEO) is VIDEO.frames
    taken = np.array(VIDEO)
    assert taken.shape == (2, 8, 8, 3) and taken.flags.writeable and not np.shares_memory(taken, VIDEO.frames)
    assert np.asarray(VIDEO, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.array(VIDEO, np.float32, copy=False)


def test_a_video_is_pickled_and_copied_with_its_frames() -> None:
    lazy = Video(lambda: iter([VIDEO.frames]), num_frames=2, height=8, width=8, fps=8, metadata={"prompt": P})
    for same in (pickle.loads(pickle.dumps(lazy)), copy.deepcopy(lazy), copy.copy(lazy)):
        np.testing.assert_array_equal(same.frames, VIDEO.frames)
        assert (same.fps, dict(same.metadata), same.frames.flags.writeable) == (8, {"prompt": P}, False)


def test_keyframes_in_a_later_pass_are_logged(pipe: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    count = pipe.bundle.keyframes.num_frames
    keyframes = np.zeros((count, 4, 4, 4), np.float32)
    with caplog.at_level(logging.WARNING, "ffrt"):
        between = pipe.interpolate(keyframes, fps=8, num_inference_steps=1)
        pipe.interpolate(between, fps=30, num_inference_steps=1)
        assert caplog.messages == []
        pipe.interpolate(keyframes, fps=30, num_inference_steps=1)
    assert len(caplog.messages) == 1 and "expects those of the pass to 8 fps" in caplog.messages[0]


def test_warnings_of_the_process_are_left_alone(pipe: Pipeline, tmp_path: Path) -> None:
    before = warnings.filters[:], warnings.showwarning
    pipe(P, fps=2, num_inference_steps=1).save(tmp_path / "a.png")
    read_metadata(tmp_path / "a-00000.png")
    assert (warnings.filters, warnings.showwarning) == before
