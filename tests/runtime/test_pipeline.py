"""The whole path on the tiny bundle: stages one by one and the whole are the same, and a seed names a video."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ffrt import Bundle, Pipeline, Stage, __version__
from ffrt.backend.graph import Graph
from ffrt.sampling import normal_noise

PROMPT = "a red circle moving right"


@pytest.mark.parametrize(("fps", "frames"), [(2, 3), (8, 9), (30, 33)])
def test_a_rate_has_its_number_of_frames(pipe: Pipeline, fps: int, frames: int) -> None:
    video = pipe(PROMPT, fps=fps)
    assert (video.fps, video.num_frames, video.height, video.width) == (fps, frames, 32, 32)
    assert video.frames.shape == (frames, 32, 32, 3) and video.frames.dtype == np.uint8


def test_sizes_are_as_asked(pipe: Pipeline) -> None:
    assert pipe(PROMPT, fps=2, height=48, width=16).frames.shape == (3, 48, 16, 3)


@pytest.mark.parametrize("sampler", [None, "ddim", "dpm++"])
def test_the_stages_one_by_one_are_the_whole(pipe: Pipeline, sampler: str | None) -> None:
    whole = pipe(PROMPT, negative_prompt="blue", fps=30, seed=11, sampler=sampler)
    latents = pipe.keyframes(pipe.encode(PROMPT, "blue"), seed=11, sampler=sampler)
    latents = pipe.interpolate(latents, fps=8, seed=11, sampler=sampler)
    latents = pipe.interpolate(latents, fps=30, seed=11, sampler=sampler)
    np.testing.assert_array_equal(pipe.decode(latents, 30).frames, whole.frames)


def test_given_noise_takes_the_place_of_the_seed(pipe: Pipeline) -> None:
    context = pipe.encode(PROMPT)
    source = normal_noise(5, 0, (3, 4, 4, 4))
    noise = np.stack([next(source) for _ in range(4)])
    latents = pipe.keyframes(context, seed=5)
    np.testing.assert_array_equal(pipe.keyframes(context, noise=noise), latents)
    source = normal_noise(5, 2, (2, 12, 4, 4))
    noise = np.stack([next(source) for _ in range(4)])
    np.testing.assert_array_equal(
        pipe.interpolate(latents, fps=30, noise=noise), pipe.interpolate(latents, fps=30, seed=5)
    )


def test_a_seed_names_a_video(pipe: Pipeline) -> None:
    first, again, other = (pipe(PROMPT, seed=seed).frames for seed in (2**63 - 1, np.int64(2**63 - 1), 0))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_every_choice_matters_and_zero_is_not_the_default(pipe: Pipeline) -> None:
    base = pipe(PROMPT, seed=1).frames
    for choice in (
        {"guidance_scale": 0},
        {"interpolation_guidance_scale": 0},
        {"num_inference_steps": 1},
        {"negative_prompt": "blue"},
        {"sampler": "ddim"},
    ):
        assert (pipe(PROMPT, seed=1, **choice).frames != base).any(), choice
    same = pipe(PROMPT, seed=1, guidance_scale=2.0, interpolation_guidance_scale=0.25, num_inference_steps=4).frames
    np.testing.assert_array_equal(same, base)


def test_leaving_the_loop_stops_the_work(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_runs(monkeypatch)
    for step in Pipeline(tiny, provider="cpu", threads=1).generate(PROMPT):
        if step.stage is Stage.KEYFRAMES and step.index == 1:
            break
    assert [name for name, _ in calls] == ["text_encoder", "keyframe_unet", "keyframe_unet"]


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, dict[str, Any]]] = []

    def counted(method: str) -> None:
        run = getattr(Graph, method)

        def call(self: Graph, feed: dict[str, Any], cancellation: Any = None) -> Any:
            calls.append((self.name, feed))
            return run(self, feed, cancellation)

        monkeypatch.setattr(Graph, method, call)

    counted("__call__")
    counted("on_device")
    return calls


def test_a_graph_is_loaded_once_and_only_when_used(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    init = Graph.__init__

    def counted(self: Graph, bundle: Bundle, name: str, **options: Any) -> None:
        loaded.append(name)
        init(self, bundle, name, **options)

    monkeypatch.setattr(Graph, "__init__", counted)
    own = Pipeline.from_pretrained(tiny.folder, provider="cpu", threads=1)
    assert loaded == []
    video = own(PROMPT, fps=2)
    assert loaded == ["text_encoder", "keyframe_unet"]
    assert video.frames.shape == own(PROMPT, fps=2).frames.shape
    assert loaded == ["text_encoder", "keyframe_unet", "movq_decoder"]


def test_decoding_streams(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    video = Pipeline(tiny, provider="cpu", threads=1)(PROMPT, fps=30)
    calls = count_runs(monkeypatch)
    frames = iter(video)
    next(frames)
    assert [len(feed["latent"]) for _, feed in calls] == [4]
    assert len(list(frames)) == 32 and [len(feed["latent"]) for _, feed in calls] == [4] * 8 + [1]


def test_the_request_travels_with_the_video(pipe: Pipeline) -> None:
    video = pipe(PROMPT, seed=7, guidance_scale=0, negative_prompt="blue")
    assert dict(video.metadata) == {
        "prompt": PROMPT,
        "negative_prompt": "blue",
        "seed": "7",
        "num_inference_steps": "4",
        "guidance_scale": "0.0",
        "sampler": "ddpm",
        "interpolation_num_inference_steps": "4",
        "interpolation_guidance_scale": "0.25",
        "interpolation_sampler": "ddpm",
        "bundle": "tiny",
        "bundle_digest": pipe.bundle.digest,
        "ffrt_version": __version__,
    }


def test_auto_is_a_provider_that_the_session_got(tiny: Bundle) -> None:
    assert Pipeline(tiny, threads=1).graph("movq_decoder").provider in ("cpu", "cuda")
