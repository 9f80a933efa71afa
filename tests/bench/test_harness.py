"""Contenders alternate, summaries are medians, children are measured alone, and pictures can be read."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.harness import pictures, run
from bench.harness.machine import product_rate
from bench.harness.record import BenchError
from bench.harness.words import markdown, number
from ffrt import ProviderError


def test_contenders_alternate() -> None:
    calls: list[str] = []
    ticks = itertools.count()
    times = run.rounds(
        {name: lambda name=name: calls.append(name) for name in "ab"}, runs=3, warm_up=1, clock=lambda: next(ticks)
    )
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert times == {"a": [1, 1, 1], "b": [1, 1, 1]}


def test_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        run.rounds({"a": int}, runs=0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_summary_is_the_median_and_holds_half(seconds: list[float]) -> None:
    found = run.summary(seconds)
    assert found.runs == len(seconds)
    assert 2 * sum(value <= found.median_s * (1 + 1e-12) for value in seconds) >= len(seconds)
    assert 2 * sum(value >= found.median_s * (1 - 1e-12) for value in seconds) >= len(seconds)
    assert 0 <= found.iqr_s <= max(seconds) - min(seconds) + 1e-9


def test_one_slow_run_does_not_move_the_median() -> None:
    assert run.summary([1.0, 1.0, 1.0, 90.0, 1.0]) == run.Timing(1.0, 0.0, 5)


def test_a_childs_peak_is_its_own() -> None:
    ballast = np.ones(300_000_000, np.uint8)
    empty = run.child("pass", {})
    full = run.child("block = bytes(range(250)) * argument['times']; result['n'] = len(block)", {"times": 400_000})
    assert len(ballast) > empty["peak_bytes"] + 100_000_000
    assert full["n"] == 100_000_000 and full["peak_bytes"] - empty["peak_bytes"] > 90_000_000


def test_a_failing_child_says_why() -> None:
    with pytest.raises(run.ChildError, match="ended with 1: .*no such thing"):
        run.child("raise SystemExit('no such thing')", {})


def test_ratios_are_taken_round_by_round() -> None:
    assert run.ratio_of([2.0, 4.0, 9.0], [1.0, 4.0, 3.0]) == {"median": 2.0, "iqr": 1.0}


def test_a_provider_that_is_not_there_has_no_rate() -> None:
    with pytest.raises(ProviderError, match="cuda"):
        product_rate("cuda", 1, runs=1)


def test_numbers_have_the_digits_of_their_unit_and_unknown_units_pass() -> None:
    assert [number(1.23456, unit) for unit in ("%", "dB", "s", "parsecs", "")] == [
        "1.2 %",
        "1.2 dB",
        "1.23 s",
        "1.23 parsecs",
        "1.23",
    ]
    assert number(12.345, "s") == "12.3 s" and number(506.4, "MB") == "506 MB"


def test_a_table_has_a_line_per_row() -> None:
    assert markdown(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]


def test_the_contact_sheet_is_a_picture_that_others_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    clips = [rng.integers(0, 256, (n, 128, 128, 3), dtype=np.uint8) for n in (16, 61, 5)]
    pixels = pictures.contact_sheet(
        [pictures.Row("a prompt", clip, right) for clip, right in zip(clips, (True, False, None), strict=True)]
    )
    pictures.write_png(tmp_path / "sheet.png", pixels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    assert pixels.shape == (2 * 66, 2 * (194 + 8 * 66), 3)
    assert np.array_equal(pixels[:64, 194:258], pictures.thumbnail(clips[0][0], 64))
    assert pixels[0, 0, 1] > pixels[0, 0, 0] and pixels[66, 0, 0] > pixels[66, 0, 1]
    with pytest.raises(BenchError, match="at least one row"):
        pictures.contact_sheet([])
