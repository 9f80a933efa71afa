"""What interpolation is compared with keeps the keyframes and puts every frame at its time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.contenders import baselines
from bench.datasets.shapes import truth
from bench.metrics.base import Frames
from bench.metrics.pixels import psnr_db
from export.datasets import shapes
from ffrt.families import KANDINSKY_1_0


def test_methods_are_those_with_a_graph() -> None:
    assert baselines.methods_of(["interpolation_unet"]) == (["group"], ["masked", "masked_sequence"])
    assert baselines.methods_of(KANDINSKY_1_0.contract) == (["group", "masked", "masked_sequence"], [])


def ramp(count: int = 6) -> Frames:
    return np.broadcast_to((np.arange(count) * 40).astype(np.uint8)[:, None, None, None], (count, 48, 64, 3))


@pytest.mark.parametrize("factor", [4, 16])
def test_minterpolate_frames_stand_at_their_times(factor: int) -> None:
    """Brightness is time: ffmpeg's own blending must agree with ours frame by frame, up to its limited-range YUV."""
    frames = baselines.minterpolate(ramp(), factor, "blend")
    assert frames.shape == (5 * factor + 1, 48, 64, 3)
    assert np.abs(frames[:, 20, 30, 0] - 40 * np.arange(len(frames)) / factor).max() <= 2.5


def test_minterpolate_follows_motion() -> None:
    clip = shapes.Clip("white", "square", "moving right", "black", None, 20.0, (64.0, 64.0))
    exact = truth(clip, 8)
    frames, blended = baselines.minterpolate(exact[::4], 4), baselines.linear(exact[::4], 4)
    assert psnr_db(frames, exact) > psnr_db(blended, exact) + 3


@pytest.mark.parametrize("method", [baselines.hold, baselines.linear, baselines.minterpolate])
def test_baselines_keep_the_keyframes(method: Any) -> None:
    keyframes = ramp()
    assert np.abs(method(keyframes, 4)[::4].astype(int) - keyframes).max() <= 2


def test_blend_is_exact_between() -> None:
    assert baselines.linear(ramp(), 4)[:6, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert baselines.hold(ramp(), 4)[:6, 0, 0, 0].tolist() == [0, 0, 0, 0, 40, 40]
