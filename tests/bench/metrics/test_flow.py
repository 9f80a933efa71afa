"""Flow sees how things move: known moves, and each damage by the features that should see it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2")
from bench.harness.record import BenchError
from bench.metrics.base import Frames
from bench.metrics.features.flow import ANGLES, directions, flow, motion_features, warp_difference
from bench.metrics.sets import Estimate, kernel_distance, scaled
from tests.bench.metrics.folders import clip


def textured(side: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    spectrum = np.fft.fft2(rng.normal(size=(side, side)))
    rows = np.fft.fftfreq(side)
    smooth = np.fft.ifft2(spectrum * np.exp(-200 * (rows[:, None] ** 2 + rows**2))).real
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def moved(count: int, dx: int, dy: int) -> Frames:
    return np.stack([np.roll(textured(), (index * dy, index * dx), (0, 1)) for index in range(count)])


def test_flow_of_a_move_is_the_move() -> None:
    found = flow(*moved(2, 2, -1))
    assert np.median(found[16:48, 16:48], axis=(0, 1)) == pytest.approx([2, -1], abs=0.1)


def test_directions_of_one_vector_fall_into_one_bin() -> None:
    right = np.zeros((2, 6, 6, 2))
    right[..., 0] = 0.5
    found = directions(right).reshape(9, ANGLES)
    assert found[:, 0] == pytest.approx(np.full(9, 0.5)) and found[:, 1:] == pytest.approx(0)


def test_directions_between_two_bins_are_shared() -> None:
    angle = np.pi / ANGLES
    between = np.broadcast_to([np.cos(angle), np.sin(angle)], (1, 3, 3, 2))
    found = directions(np.array(between)).reshape(9, ANGLES)
    assert found[:, :2] == pytest.approx(np.full((9, 2), 0.5)) and found[:, 2:] == pytest.approx(0)


def test_steady_motion_has_no_acceleration_and_stillness_no_motion() -> None:
    steady, still = motion_features(moved(5, 2, 0)), motion_features(moved(5, 0, 0))
    assert still == pytest.approx(0, abs=1e-9)
    assert steady[:72].sum() > 5 * steady[72:].sum()
    assert steady[:72].reshape(9, ANGLES)[:, 0].sum() == pytest.approx(9 * 2 / 64, rel=0.15)


def test_flicker_raises_the_warped_difference_and_motion_does_not() -> None:
    still, moving = warp_difference(moved(5, 0, 0)), warp_difference(moved(5, 2, 1))
    flickering = moved(5, 2, 1)
    flickering[::2] = np.clip(flickering[::2].astype(int) + 25, 0, 255)
    assert still == 0 and moving < 0.5 < 5 < warp_difference(flickering)


DAMAGES = {
    "frozen after half": lambda frames, rng: np.concatenate([frames[:8], frames[7:8].repeat(8, axis=0)]),
    "shuffled": lambda frames, rng: frames[rng.permutation(16)],
    "held": lambda frames, rng: frames[::2].repeat(2, axis=0),
    "jitter": lambda frames, rng: np.stack([np.roll(one, rng.integers(-2, 3, 2), (0, 1)) for one in frames]),
    "noise": lambda frames, rng: np.clip(frames + rng.normal(0, 25, frames.shape), 0, 255).astype(np.uint8),
}


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return np.array([motion_features(clip(seed)) for seed in range(24)])


@pytest.fixture(scope="module")
def undamaged(real: np.ndarray) -> Estimate:
    other = np.array([motion_features(clip(seed)) for seed in range(100, 124)])
    return kernel_distance(*scaled(real, other))


def test_undamaged_clips_are_at_no_distance(undamaged: Estimate) -> None:
    assert undamaged.low < 0 < undamaged.high


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_motion_is_seen(damage: str, real: np.ndarray, undamaged: Estimate) -> None:
    rng = np.random.default_rng(0)
    damaged = np.array([motion_features(DAMAGES[damage](clip(seed), rng)) for seed in range(100, 124)])
    found = kernel_distance(*scaled(real, damaged))
    assert found.value > undamaged.value + 2 * undamaged.deviation and found.low > 0


def test_clips_without_motion_to_see_are_refused() -> None:
    with pytest.raises(BenchError, match="at least 3 frames, got 2"):
        motion_features(clip(0, 2))
    with pytest.raises(BenchError, match="at least 2 frames, got 1"):
        warp_difference(clip(0, 1))
    with pytest.raises(BenchError, match="at least 16 px"):
        motion_features(clip(0, 4, 12))
