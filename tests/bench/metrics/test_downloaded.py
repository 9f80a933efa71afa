"""Networks that packages carry: known answers, and the order of damage. Skipped where they were not fetched yet."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.base import Frames
from bench.metrics.dists import dists
from bench.metrics.features.cuts import cut_inside, cut_probabilities
from bench.metrics.features.frame import frame_features
from bench.metrics.networks.catalogue import DISTS, EFFICIENTNET, TRANSNET
from bench.metrics.networks.fetched import place_of
from bench.metrics.networks.network import Network, graph_files, source_of
from bench.metrics.sets import kernel_distance, scaled
from bench.metrics.vmaf import FfmpegError, ffmpeg, vmaf
from tests.bench.metrics.folders import clip

KNOWN_DISTS = [0.0, 0.26917, 0.40047, 0.42638]
"""Equal, noise of 10, noise of 40, negative."""
KNOWN_FRAME = (0.152150, 4.118965)
"""Mean and largest."""


def needs(network: Network) -> None:
    """Skip unless the graph was made: `python -m bench.metrics get`."""
    if not all(place_of(one).is_file() for one in network.files):
        pytest.skip(f"type: {network.command}")
    if not all(file.is_file() for file in graph_files(network, source_of(network)).values()):
        pytest.skip(f"type: {network.command}")


def noisy(frames: Frames, level: float) -> Frames:
    noise = np.random.default_rng(0).normal(0, level, frames.shape)
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)


def blurred(frames: Frames, times: int) -> Frames:
    found = frames.astype(np.float64)
    for _ in range(times):
        for axis in (1, 2):
            found = (np.roll(found, 1, axis) + 2 * found + np.roll(found, -1, axis)) / 4
    return np.rint(found).astype(np.uint8)


def test_dists_of_known_pictures() -> None:
    needs(DISTS)
    truth = clip(0, 2, 64)
    found = [dists(one, truth) for one in (truth, noisy(truth, 10), noisy(truth, 40), 255 - truth)]
    assert found[0] == pytest.approx(0, abs=1e-6) and found == sorted(found)
    assert found == pytest.approx(KNOWN_DISTS, abs=2e-4)


def test_dists_grows_with_blur() -> None:
    needs(DISTS)
    truth = noisy(clip(0, 1, 64), 15)
    found = [dists(blurred(truth, times), truth) for times in (0, 1, 4, 16)]
    assert found == sorted(found) and found[3] > 0.1


def test_frame_features_are_what_they_were() -> None:
    needs(EFFICIENTNET)
    found = frame_features(clip(0, 2, 64))
    assert found.shape == (1280,) and found.min() >= 0
    assert (found.mean(), found.max()) == pytest.approx(KNOWN_FRAME, rel=1e-3)


def test_frame_features_see_noise_and_blur_and_no_order() -> None:
    needs(EFFICIENTNET)
    real = np.array([frame_features(clip(seed, 2, 64)) for seed in range(12)])
    others = [clip(seed, 2, 64) for seed in range(100, 112)]
    values = [
        kernel_distance(*scaled(real, np.array([frame_features(damage(one)) for one in others]))).value
        for damage in (lambda x: x, lambda x: noisy(x, 10), lambda x: noisy(x, 40), lambda x: blurred(x, 60))
    ]
    assert values[0] < values[1] < values[2] and values[0] < values[3]
    assert frame_features(others[0][::-1]) == pytest.approx(frame_features(others[0]), rel=1e-6)


def test_a_cut_is_found_where_it_is() -> None:
    needs(TRANSNET)
    joined = np.concatenate([clip(0, 8, 64), 255 - clip(5, 8, 64)])
    assert cut_probabilities(joined).argmax() == 7 and len(cut_probabilities(joined)) == 16
    assert cut_inside(joined) > 0.5 > 0.1 > cut_inside(clip(0, 16, 64))


def test_vmaf_falls_with_noise() -> None:
    try:
        ffmpeg()
    except FfmpegError as error:
        pytest.skip(str(error))
    truth = clip(0, 8, 64)
    found = [vmaf(one, truth) for one in (truth, noisy(truth, 10), noisy(truth, 40))]
    assert found[0] > 90 and found == sorted(found, reverse=True)


def test_without_libvmaf_there_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.metrics import vmaf as module

    monkeypatch.setattr(module, "candidates", lambda: [])
    with pytest.raises(FfmpegError, match="pip install imageio-ffmpeg"):
        module.ffmpeg.__wrapped__()
