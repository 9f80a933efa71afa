"""Text, keyframes, interpolation and decoding, each by itself on the tiny bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ffrt import Bundle, Pipeline, RequestError, open_bundle
from ffrt.backend.arrays import Feed
from ffrt.backend.onnxruntime_session import OnnxRuntimeSession
from ffrt.backend.providers import CPU, PROVIDERS
from ffrt.sampling import Sampling
from ffrt.stages import decode, interpolate, text
from ffrt.stages.keyframes import keyframe_steps, temporal_positions

RED = "a red circle"  # three words and the end token


class Recorder:
    """A graph that remembers what it was fed."""

    def __init__(self, graph: Callable[..., dict[str, np.ndarray]]) -> None:
        self.graph = graph
        self.feeds: list[dict[str, np.ndarray]] = []

    def __call__(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.feeds.append(feed)
        return self.graph(feed)


def test_one_padded_row_is_kept_after_the_end_token(pipe: Pipeline) -> None:
    context = pipe.encode(RED)
    assert context.context.shape == (1, 5, 4) and context.context.dtype == np.float32
    np.testing.assert_array_equal(context.mask, [[True, True, True, True, False]])
    np.testing.assert_array_equal(context.context[0, 4], 0)
    assert context.null_embedding.shape == (4,)


def test_without_a_negative_prompt_the_second_row_is_the_null_embedding(pipe: Pipeline) -> None:
    context = pipe.encode(RED)
    rows, mask = context.rows()
    np.testing.assert_array_equal(rows[:1], context.context)
    np.testing.assert_array_equal(rows[1, 0], context.null_embedding)
    np.testing.assert_array_equal(rows[1, 1:], 0)
    np.testing.assert_array_equal(mask[1], [True, False, False, False, False])


@pytest.mark.parametrize("negative", ["blue", "a blue square moving left on black"])
def test_a_negative_prompt_is_padded_with_the_prompt_to_the_longer(pipe: Pipeline, negative: str) -> None:
    rows, mask = pipe.encode(RED, negative).rows()
    alone = [pipe.encode(RED), pipe.encode(negative)]
    assert [one.notes for one in alone] == [(), ()]
    length = max(c.context.shape[1] for c in alone)
    assert rows.shape == (2, length, 4) and mask.shape == (2, length)
    for row, row_mask, one in zip(rows, mask, alone, strict=True):
        own = one.context.shape[1]
        np.testing.assert_array_equal(row[:own], one.context[0])
        np.testing.assert_array_equal(row_mask[:own], one.mask[0])
        assert not row[own:].any() and not row_mask[own:].any()


@pytest.mark.parametrize("negative", [None, "a blue square moving left on black", "a"])
def test_a_gpu_encodes_text_of_one_length_into_the_same_context(negative: str | None) -> None:
    bundle = open_bundle(Path(__file__).parents[3] / "graphs" / "demo", verify=False)
    pipe = Pipeline(bundle, provider="cpu", threads=1)
    want = pipe.encode(RED, negative)
    encoder = Recorder(pipe.graph("text_encoder"))
    found = text.encode(encoder, pipe.stages.tokenizer, bundle.text, RED, negative, fill=True)
    assert {feed["input_ids"].shape for feed in encoder.feeds} == {(1, bundle.text.max_tokens)}
    for rows, wanted in zip(found.rows(), want.rows(), strict=True):
        assert rows.shape == wanted.shape
        np.testing.assert_allclose(rows, wanted, atol=1e-5)


def test_an_over_long_prompt_is_cut_with_a_note_and_keeps_its_end(pipe: Pipeline) -> None:
    context = pipe.encode("a red circle " * 4, "blue " * 9)
    assert [(note.argument, str(note)) for note in context.notes] == [
        ("prompt", "the prompt has 13 tokens; 8 were kept, the rest left out"),
        ("negative_prompt", "the negative prompt has 10 tokens; 8 were kept, the rest left out"),
    ]
    assert context.mask.all() and context.context.shape == (1, 8, 4)
    end = pipe.encode(RED).context[0, 3]
    np.testing.assert_array_equal(context.context[0, -1], end)


def test_a_full_prompt_has_no_room_for_a_padded_row(pipe: Pipeline) -> None:
    assert pipe.encode("a red circle moving right on black").mask.tolist() == [[True] * 8]


def test_positions_spread_over_the_range() -> None:
    np.testing.assert_array_equal(temporal_positions(16, 180), np.arange(16) * 11)
    assert temporal_positions(16, 180).dtype == np.int64


def keyframes(pipe: Pipeline, scale: float) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    recorder = Recorder(pipe.graph("keyframe_unet"))
    prompt = pipe.encode(RED).rows()
    noise = iter(np.random.default_rng(0).standard_normal((4, 3, 4, 4, 4), dtype=np.float32))
    steps = keyframe_steps(recorder, pipe.bundle.keyframes, prompt, noise, Sampling(4, scale, "ddpm"))
    return list(steps)[-1].x, recorder.feeds


def test_keyframes_run_both_guidance_rows_conditional_first(pipe: Pipeline) -> None:
    latents, feeds = keyframes(pipe, 2.0)
    assert latents.shape == (3, 4, 4, 4) and len(feeds) == 4
    assert [f["time"].tolist() for f in feeds] == [[t, t] for t in (750, 500, 250, 0)]
    for feed in feeds:
        np.testing.assert_array_equal(feed["x"][:3], feed["x"][3:])
        np.testing.assert_array_equal(feed["context_mask"][1], [True, False, False, False, False])
        np.testing.assert_array_equal(feed["temporal_positions"], [0, 60, 120])


def test_guidance_zero_runs_one_row_and_is_the_limit_of_small_guidance(pipe: Pipeline) -> None:
    without, feeds = keyframes(pipe, 0.0)
    assert {len(f["time"]) for f in feeds} == {1}
    assert all(len(f["x"]) == 3 and f["context_mask"].sum() == 4 for f in feeds)
    almost, both = keyframes(pipe, 1e-7)
    assert {len(f["time"]) for f in both} == {2}
    np.testing.assert_allclose(without, almost, atol=1e-5)
    assert np.abs(without - keyframes(pipe, 2.0)[0]).max() > 1e-3


LATENTS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 6), st.just(4), st.integers(1, 3), st.integers(1, 3)),
    elements=st.floats(-1, 1, width=32),
)


@given(LATENTS, st.integers(0, 2**32 - 1))
def test_merge_puts_three_frames_between_neighbours(latents: np.ndarray, seed: int) -> None:
    count, (_, channels, h, w) = len(latents), latents.shape
    made = np.random.default_rng(seed).standard_normal((count - 1, 3, channels, h, w), dtype=np.float32)
    ends = np.zeros((count - 1, 1, channels, h, w), np.float32)
    sequence = np.concatenate([*np.concatenate([ends, made], axis=1), ends[0]])
    denoised: dict[interpolate.Method, np.ndarray] = {
        "group": made,
        "masked": np.concatenate([ends, made, ends], axis=1),
        "masked_sequence": sequence,
    }
    for method, frames in denoised.items():
        merged = interpolate.merge(method, latents, frames.reshape(interpolate.noise_shape(method, latents.shape)))
        assert merged.shape == (4 * count - 3, channels, h, w) and merged.dtype == np.float32
        np.testing.assert_array_equal(merged[::4], latents)
        for g in range(count - 1):
            np.testing.assert_array_equal(merged[4 * g + 1 : 4 * g + 4], made[g])


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_interpolation_runs_all_groups_in_one_batch(pipe: Pipeline, scale: float) -> None:
    recorder = Recorder(pipe.graph("interpolation_unet"))
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((3, 4, 4, 4), dtype=np.float32)
    config = pipe.bundle.interpolation
    steps = interpolate.interpolation_steps(
        recorder,
        config,
        config.passes[0],
        latents,
        iter(rng.standard_normal((4, 2, 12, 4, 4), dtype=np.float32)),
        Sampling(4, scale, "ddpm"),
    )
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as done:
            result = done.value
            break
    np.testing.assert_array_equal(result, interpolate.merge("group", latents, seen[-1].x))
    assert len(recorder.feeds) == 4
    for feed in recorder.feeds:
        assert len(feed["time"]) == (1 if scale == 0 else 2)
        np.testing.assert_array_equal(feed["skip_frames"], [3, 3])
        np.testing.assert_array_equal(feed["perturbation"], [0, 0])
        np.testing.assert_array_equal(feed["x"][:2, :4], latents[:-1])
        np.testing.assert_array_equal(feed["x"][:2, 16:], latents[1:])
        if scale != 0:
            np.testing.assert_array_equal(feed["x"][2:, 4:16], feed["x"][:2, 4:16])
            assert not feed["x"][2:, :4].any() and not feed["x"][2:, 16:].any()


class Echo:
    """A network that answers with what it was asked."""

    def __init__(self) -> None:
        self.feeds: list[dict[str, np.ndarray]] = []

    def __call__(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.feeds.append(feed)
        return {"prediction": feed["x"][:, :4]}


@pytest.mark.parametrize("scale", [0.0, 0.25])
@pytest.mark.parametrize(("method", "windows", "frames"), [("masked", 2, 5), ("masked_sequence", 1, 9)])
def test_masked_interpolation_shows_given_frames_and_where_they_are(
    pipe: Pipeline, method: interpolate.Method, windows: int, frames: int, scale: float
) -> None:
    echo, rng = Echo(), np.random.default_rng(1)
    latents = rng.standard_normal((3, 4, 4, 4), dtype=np.float32)
    noise = rng.standard_normal((1, windows, frames * 4, 4, 4), dtype=np.float32)
    steps = interpolate.interpolation_steps(
        echo,
        pipe.bundle.interpolation,
        pipe.bundle.interpolation.passes[0],
        latents,
        iter(noise),
        Sampling(1, scale, "ddim"),
        method=method,
    )
    list(steps)
    (feed,) = echo.feeds
    rows = 1 if scale == 0 else 2
    x = feed["x"].reshape(rows, windows, frames, 9, 4, 4)
    np.testing.assert_array_equal(x[:, :, :, :4], np.stack([noise[0].reshape(windows, frames, 4, 4, 4)] * rows))
    given = [latents] if windows == 1 else [latents[:2], latents[1:]]
    np.testing.assert_array_equal(x[0, :, ::4, 4:8], np.stack(given))
    assert not x[1:, :, :, 4:8].any()
    known = np.arange(frames) % 4 == 0
    np.testing.assert_array_equal(x[..., 8, :, :].mean((-1, -2)), np.tile(known, (rows, windows, 1)))
    assert not x[:, :, ~known, 4:].any()
    assert len(feed["time"]) == rows * windows and len(feed["skip_frames"]) == len(feed["perturbation"]) == frames


def test_a_method_that_the_bundle_cannot_serve_is_refused(pipe: Pipeline) -> None:
    latents = np.zeros((2, 4, 4, 4), np.float32)
    for method, told in (("mask", "expected one of"), ("masked", "needs the graph masked_interpolation_unet")):
        with pytest.raises(RequestError, match=told):
            pipe.interpolate(latents, fps=8, method=method)


def test_decoding_yields_chunks_and_rounds_to_the_nearest_level(pipe: Pipeline) -> None:
    levels = np.array([-2, -1, 2 * 0.4 / 255 - 1, 2 * 0.6 / 255 - 1, 0.5, 1, 2], np.float32)
    latents = np.zeros((7, 4, 2, 4), np.float32)
    latents[:, 0] = levels[:, None, None]
    chunks = list(decode.decode_chunks(pipe.graph("movq_decoder"), latents))
    assert [c.shape for c in chunks] == [(4, 16, 32, 3), (3, 16, 32, 3)]
    assert {c.dtype for c in chunks} == {np.dtype(np.uint8)}
    assert np.concatenate(chunks)[:, 3, 5].tolist() == [[r, 128, 128] for r in (0, 0, 0, 1, 191, 255, 255)]


@pytest.mark.parametrize("count", [3, 4, 5, 8, 11])
def test_a_gpu_decodes_chunks_of_one_size_into_the_same_frames(tiny: Bundle, count: int) -> None:
    pipe = Pipeline(tiny, provider="cpu", threads=1)
    latents = np.random.default_rng(count).uniform(-1, 1, (count, 4, 2, 4)).astype(np.float32)
    frames = pipe.decode(latents, 8).frames
    assert len(frames) == count
    decoder = Recorder(pipe.graph("movq_decoder"))
    np.testing.assert_array_equal(np.concatenate(list(decode.decode_chunks(decoder, latents, fill=True))), frames)
    assert {len(feed["latent"]) for feed in decoder.feeds} == {min(count, 4)}


@given(st.integers(0, 2**32 - 1))
def test_image_levels_survive_the_round_trip(seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (2, 3, 4, 3), np.uint8)
    image = decode.to_image(frames)
    assert image.shape == (2, 3, 3, 4) and image.dtype == np.float32
    assert image.min() >= -1 and image.max() <= 1
    np.testing.assert_array_equal(decode.to_frames(image), frames)


@pytest.mark.parametrize(("one_shape", "sizes"), [(True, [4, 4, 4]), (False, [4, 4, 1])])
def test_chunks_are_filled_for_providers_that_compile_a_shape(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, one_shape: bool, sizes: list[int]
) -> None:
    monkeypatch.setitem(PROVIDERS, "cpu", dataclasses.replace(CPU, one_shape=one_shape))
    seen, run = [], OnnxRuntimeSession.run

    def record(self: OnnxRuntimeSession, feed: Feed, *others: object) -> dict[str, np.ndarray]:
        seen.append(len(feed["latent"]))
        return run(self, feed, *others)

    monkeypatch.setattr(OnnxRuntimeSession, "run", record)
    with Pipeline(tiny, provider="cpu", threads=1) as own:
        assert len(own.decode(np.zeros((9, 4, 4, 4), np.float32), 8).frames) == 9
    assert seen == sizes


def test_frames_are_encoded_in_chunks(pipe: Pipeline) -> None:
    frames = np.zeros((6, 32, 48, 3), np.uint8)
    frames[:, :, :, 0] = (np.arange(6) * 50)[:, None, None]
    latents = pipe.encode_frames(frames)
    assert latents.shape == (6, 4, 4, 6)
    np.testing.assert_allclose(latents[:, 0, 0, 0], np.arange(6) * 50 / 127.5 - 1, atol=1e-5)
    np.testing.assert_array_equal(pipe.decode(latents, 8).frames, frames)


@given(st.integers(-5, 6000), st.sampled_from([16, 32, 64]))
def test_a_side_is_legal_or_refused_with_its_neighbours(size: int, multiple: int) -> None:
    if size % multiple == 0 and multiple <= size <= 4096:
        assert decode.check_side("width", size, multiple) == size
        return
    with pytest.raises(RequestError, match=f"width: expected a multiple of {multiple}.*got {size}") as caught:
        decode.check_side("width", size, multiple)
    if multiple < size < 4096:
        below = size // multiple * multiple
        assert f"the nearest are {below} and {below + multiple}" in str(caught.value)


def test_stage_modules_know_nothing_of_each_other(tiny: Bundle) -> None:
    stages = {"text", "keyframes", "interpolate", "decode"}
    package = Path(decode.__file__).parent
    for stage in stages:
        source = (package / f"{stage}.py").read_text()
        imported = {name for name in stages - {stage} if f"ffrt.stages.{name}" in source or f"import {name}" in source}
        assert not imported, (stage, imported)
