"""Pictures become first frames, and keyframes follow them: what the networks are fed, before any network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.checkpoints.defaults import INTERPOLATION_1_1, KEYFRAMES_1_1
from ffrt import RequestError
from ffrt.generation.plan import image_conditioning, sampling_of
from ffrt.media.image import fit_image, too_small
from ffrt.sampling import Sampling, add_noise, drain, zero_snr_alpha_bars
from ffrt.stages.decode import clip_frames
from ffrt.stages.first_frame import first_frame_steps, noise_shape
from ffrt.stages.interpolate import interpolation_steps
from ffrt.stages.keyframes import ImageConditioning, image_keyframe_steps

Feed = dict[str, np.ndarray]


class Recorder:
    """A network that predicts a tenth of the noised channels and keeps what it was fed."""

    def __init__(self, first: int) -> None:
        self.first, self.feeds = first, list[Feed]()

    def __call__(self, feed: Feed) -> Feed:
        self.feeds.append(feed)
        return {"prediction": feed["x"][:, self.first : self.first + 4] * np.float32(0.1)}


def prompt() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((2, 3, 5), dtype=np.float32), np.array([[True, True, False], [True, False, False]])


def keyframes(guidance: float, image_guidance: float) -> tuple[Recorder, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    config, network = replace(KEYFRAMES_1_1, num_frames=3, position_range=3), Recorder(0)
    frame, uniform = rng.standard_normal((4, 2, 2), dtype=np.float32), rng.random((4, 2, 2), dtype=np.float32)
    noise = rng.standard_normal((2, 3, 4, 2, 2), dtype=np.float32)
    steps = image_keyframe_steps(
        network,
        config,
        prompt(),
        frame,
        uniform,
        iter(noise),
        Sampling(2, guidance, "ddpm"),
        ImageConditioning(50, image_guidance, 20),
    )
    return network, frame, uniform, drain(steps)


def test_keyframes_see_text_and_frame_then_frame_then_neither() -> None:
    network, frame, uniform, _ = keyframes(4.0, 2.5)
    context, mask = prompt()
    for feed in network.feeds:
        np.testing.assert_array_equal(feed["context"], context[[0, 1, 1]])
        np.testing.assert_array_equal(feed["context_mask"], mask[[0, 1, 1]])
        x = feed["x"].reshape(3, 3, 9, 2, 2)
        np.testing.assert_array_equal(x[0, :, :4], x[2, :, :4])
        np.testing.assert_array_equal(x[:2, 0, 4:8], [add_noise(frame, uniform, 20)] * 2)
        np.testing.assert_array_equal(x[:, :, 8].mean((-1, -2)), [[1, 0, 0], [1, 0, 0], [0, 0, 0]])
        assert not x[:2, 1:, 4:8].any() and not x[2, :, 4:8].any()
        assert feed["noise_augmentation"].tolist() == [20] * 3 and feed["motion_score"].tolist() == [50] * 3


@pytest.mark.parametrize(("guidance", "image", "rows"), [(1.0, 1.0, 1), (2.5, 2.5, 2), (4.0, 1.0, 2), (4.0, 2.5, 3)])
def test_a_row_that_guidance_does_not_use_is_not_run(guidance: float, image: float, rows: int) -> None:
    network, _, _, made = keyframes(guidance, image)
    assert {len(feed["time"]) for feed in network.feeds} == {rows}
    np.testing.assert_allclose(made, keyframes(1.0, 1.0)[3], atol=1e-5)  # every row predicts the same: weights sum to 1


def test_a_first_frame_is_made_with_nothing_given_and_twice_as_large() -> None:
    network, rng = Recorder(0), np.random.default_rng(1)
    shape = noise_shape((12, 4, 3, 5))
    assert shape == (1, 4, 6, 10)
    steps = first_frame_steps(
        network,
        KEYFRAMES_1_1,
        prompt(),
        iter(rng.standard_normal((2, *shape), dtype=np.float32)),
        Sampling(2, 5.0, "ddpm"),
    )
    assert drain(steps).shape == shape
    for feed in network.feeds:
        assert feed["x"].shape == (2, 9, 6, 10) and not feed["x"][:, 4:].any()


def test_interpolation_that_sees_text_switches_its_temporal_layers_off_without() -> None:
    network, rng = Recorder(4), np.random.default_rng(1)

    def predict(feed: Feed) -> Feed:
        network(feed)
        return {"prediction": feed["x"][:, 4:16] * np.float32(0.1)}

    latents = rng.standard_normal((3, 4, 2, 2), dtype=np.float32)
    for scale, rows in ((0.5, 2), (0.0, 1)):
        network.feeds.clear()
        drain(
            interpolation_steps(
                predict,
                INTERPOLATION_1_1,
                INTERPOLATION_1_1.passes[0],
                latents,
                iter(rng.standard_normal((2, 2, 12, 2, 2), dtype=np.float32)),
                Sampling(2, scale, "ddpm"),
                prompt=prompt(),
            )
        )
        for feed in network.feeds:
            assert feed["temporal_mask"].tolist() == [1.0, 0.0][:rows]
            np.testing.assert_array_equal(feed["context"], prompt()[0][:rows])
        assert [feed["time"][0] for feed in network.feeds] == [999.0, 499.0]


def test_noise_levels_of_a_given_frame() -> None:
    bars = zero_snr_alpha_bars()
    assert bars.shape == (1000,) and bars[-1] == 0 and (np.diff(bars) < 0).all() and bars[0] > 0.9999
    x, noise = np.full((4, 1, 1), 2, np.float32), np.full((4, 1, 1), 3, np.float32)
    np.testing.assert_allclose(add_noise(x, noise, 20), 2 * bars[20] ** 0.5 + 3 * (1 - bars[20]) ** 0.5, rtol=1e-6)
    np.testing.assert_array_equal(add_noise(x, noise, 999), noise)


@given(st.integers(1, 500))
def test_clips_are_those_of_the_release(count: int) -> None:
    """torch.chunk into count // 4 pieces, which needs at least four frames."""
    size = clip_frames(count)
    assert size >= min(count, 4) and size <= 7
    if count >= 4:
        assert -(-count // size) <= count // 4 and (size == 1 or -(-count // (size - 1)) > count // 4)


@given(st.integers(40, 120), st.integers(40, 120), st.integers(1, 40), st.integers(1, 40))
def test_a_picture_is_shrunk_and_cut_to_its_middle(height: int, width: int, to_height: int, to_width: int) -> None:
    rng = np.random.default_rng(height * width)
    picture = rng.integers(0, 256, (height, width, 3), np.uint8)
    fitted = fit_image(picture, to_height, to_width)
    assert fitted.shape == (to_height, to_width, 3) and fitted.dtype == np.uint8
    plain = np.full_like(picture, 77)
    np.testing.assert_array_equal(fit_image(plain, to_height, to_width), 77)  # no border, no black
    np.testing.assert_array_equal(fit_image(picture, height, width), picture)


def test_a_small_picture_stands_in_black_and_says_so() -> None:
    picture = np.full((2, 4, 3), 9, np.uint8)
    assert "2x4 is smaller than the video's 4x4" in str(too_small(picture, 4, 4)) and too_small(picture, 2, 4) is None
    fitted = fit_image(picture, 4, 4)
    np.testing.assert_array_equal(fitted[..., 0].mean(1), [0, 9, 9, 0])


def test_how_to_follow_is_checked() -> None:
    usual = image_conditioning(KEYFRAMES_1_1, None, None, None, None)
    assert usual == ImageConditioning(motion_score=10, guidance_scale=2.0, noise_augmentation=20)
    assert image_conditioning(KEYFRAMES_1_1, None, "extreme", 0, 0) == ImageConditioning(100, 0.0, 0)
    assert image_conditioning(KEYFRAMES_1_1, None, 7, None, None).motion_score == 7
    plain = replace(KEYFRAMES_1_1, image=None)
    assert image_conditioning(plain, None, None, None, None) is None
    with pytest.raises(RequestError, match="num_inference_steps: expected 1 to 999"):
        sampling_of(KEYFRAMES_1_1, 1000, None, None)
    assert sampling_of(INTERPOLATION_1_1, 1000, None, None).num_inference_steps == 1000
    for given_value, words in (
        ((None, "wild", None, None), "motion: expected one of"),
        ((None, 1001, None, None), "motion: expected a whole number from 0 to 1000"),
        ((None, True, None, None), "motion"),
        ((None, None, -1, None), "image_guidance_scale: expected a number from 0"),
        ((None, None, None, 1000), "noise_augmentation: expected a whole number from 0 to 999"),
    ):
        with pytest.raises(RequestError, match=words):
            image_conditioning(KEYFRAMES_1_1, *given_value)
