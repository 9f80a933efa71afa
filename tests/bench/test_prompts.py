"""The prompts of the benches are the demo's own, evenly spread, and tuning never sees those that are reported."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench.datasets.prompts import SHAPE_ACTIONS, cases
from bench.datasets.shapes import held_out, truth
from bench.harness.record import BenchError
from export.datasets import captions, shapes


def test_prompts_are_the_grammars_and_spread_evenly() -> None:
    drawn = cases(60)
    for case in drawn:
        cell = shapes.Combination(case.colour, case.shape, case.action, case.background, case.size)
        assert case.prompt == captions.canonical(shapes.sample_parameters(cell, np.random.default_rng(0)))
    for name, kinds in (("colour", 6), ("background", 4), ("size", 3)):
        counts = [
            len(list(group)) for _, group in itertools.groupby(sorted(str(getattr(case, name)) for case in drawn))
        ]
        assert len(counts) == kinds and max(counts) - min(counts) <= 2
    assert {(case.shape, case.action) for case in drawn} == set(SHAPE_ACTIONS)


def test_tuning_never_sees_the_reported_prompts_or_seeds() -> None:
    test, tune = cases(300), cases(300, "tune")
    for name in ("prompt", "seed"):
        values = [{getattr(case, name) for case in found} for found in (test, tune)]
        assert [len(found) for found in values] == [300, 300] and not values[0] & values[1]
    assert cases(7) == test[:7]


@pytest.mark.parametrize(
    ("count", "split", "words"),
    [(0, "test", "1 to 300"), (301, "tune", "1 to 300"), (3, "x", "split: expected one of")],
)
def test_prompts_out_of_range_are_refused(count: int, split: str, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        cases(count, split)


def test_truth_agrees_across_rates() -> None:
    clip = held_out(1)[0]
    frames = {rate: truth(clip, rate) for rate in (2, 8, 32)}
    assert [len(found) for found in frames.values()] == [16, 61, 241]
    assert np.array_equal(frames[2], frames[8][::4]) and np.array_equal(frames[8], frames[32][::4])
