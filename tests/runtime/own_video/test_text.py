"""Networks that read text are told what the video shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ffrt import Pipeline, RequestError
from ffrt.bundle import Bundle
from tests.runtime.own_video.videos import frames_of, moving, write


@pytest.mark.slow
def test_a_bundle_of_1_1_wants_a_prompt_and_draws_by_it(kv11: Bundle, tmp_path: Path) -> None:
    pipe = Pipeline(kv11, provider="cpu", threads=1)
    source = write(tmp_path / "a.mp4", moving(5))
    with pytest.raises(RequestError, match="prompt: expected what the video shows, since the network .* reads text"):
        pipe.interpolate_video(source, tmp_path / "b.mp4")
    assert os.listdir(tmp_path) == ["a.mp4"]
    made = pipe.interpolate_video(source, tmp_path / "b.mp4", prompt="a square", num_inference_steps=2)
    assert made.num_frames == len(frames_of(tmp_path / "b.mp4")[0]) == 20
