"""How far an array is from the one it should be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphs.metrics import psnr, relative_rms


def test_relative_rms_is_the_error_over_the_size_of_what_was_wanted() -> None:
    want = np.array([3.0, -4.0])
    assert relative_rms(want + 0.5, want) == pytest.approx(0.5 / math.sqrt(12.5))
    zeros = np.zeros(3)
    assert relative_rms(zeros, zeros) == 0
    assert relative_rms(np.ones(3), zeros) == math.inf
    assert math.isnan(relative_rms(np.array([np.nan]), np.ones(1)))


def test_psnr_is_in_decibels_below_the_peak() -> None:
    dark, bright = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    assert psnr(dark, dark) == math.inf
    assert psnr(dark, bright) == psnr(bright, dark) == 0
    assert psnr(np.full(8, 0.1), np.zeros(8), peak=1.0) == pytest.approx(20)
