"""`bench.step_quality` counts, judges and chooses right, on a tiny bundle and on invented rows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.datasets.judge import ATTRIBUTES
from bench.datasets.prompts import cases
from bench.datasets.shapes import held_out
from bench.harness.record import environment
from bench.step_quality import __main__ as step_quality
from bench.step_quality import measure, settings
from bench.step_quality.settings import Plan, Setting, plan_of
from bench.step_quality.table import keyframe_table, table
from ffrt import Bundle, Pipeline

FLOPS = {"whole": 100, "shallow": 25}


@pytest.fixture(scope="module")
def record(pipe: Pipeline) -> dict[str, Any]:
    keyframes = (Setting("ddpm", 4), Setting("dpm++", 2), Setting("ddim", 8))
    between = (Setting("ddpm", 4), Setting("ddim", 1))
    plan = Plan(keyframes, between, tuple(cases(2, "tune")), tuple(held_out(1)), references=1, reference_steps=8)
    rows = measure.with_costs(measure.measure_keyframes(pipe, plan), FLOPS)
    filled = measure.with_costs(measure.measure_interpolation(pipe, plan), None)
    return {
        "bench": "step_quality",
        "whole": True,
        "split": "tune",
        "prompts": 2,
        "clips": 1,
        "references": 1,
        "reference_steps": 8,
        "least_steps": 8,
        "environment": environment(None, "cpu", None),
        "step_flops": FLOPS,
        "keyframes": rows,
        "interpolation": filled,
        "fast": {"keyframes": measure.choose(rows), "interpolation": measure.choose(filled)},
    }


def test_a_row_holds_scores_costs_and_how_far_it_is_from_the_limit(record: dict[str, Any]) -> None:
    default, few, limit = record["keyframes"]
    assert default["converged_db"] is None and default["cost"] == 1 and default["scores"]["all"]["of"] == 2
    assert (few["whole_runs"], few["shallow_runs"], few["cost"]) == (2, 0, 0.5)
    assert limit["converged_db"] == 60 > few["converged_db"], "eight steps of ddim are the limit itself"
    assert [row["cost"] for row in record["interpolation"]] == [1, 0.25]
    assert all(np.isfinite(row["psnr_db"]) for row in record["interpolation"])
    json.dumps(record, allow_nan=False)


def test_runs_and_their_cost_count_cached_steps() -> None:
    assert Setting("ddim", 15, 2).runs == (8, 7) and Setting("ddim", 15).runs == (15, 0)
    rows = measure.with_costs([asdict(Setting("ddpm", 20)), asdict(Setting("dpm++", 9, 3))], FLOPS)
    assert rows[1]["cost"] == (3 + 6 * 0.25) / 20


def test_prompts_won_and_lost_are_counted_apart() -> None:
    here = [{"colour": True}, {"colour": False, "size": True}, {"colour": True, "size": True}]
    there = [{"colour": False}, {"colour": True, "size": True}, {"colour": True, "size": False}]
    assert [measure.changed(here, there, name) for name in ("colour", "size")] == [1, 1]
    assert [measure.changed(there, here, name) for name in ("colour", "size")] == [1, 0]


def row(cost: float, **shares: float) -> dict[str, Any]:
    scores = {name: {"share": shares.get(name, 1.0)} for name in ATTRIBUTES}
    return {**asdict(Setting("dpm++", round(100 * cost))), "cost": cost, "scores": scores}


def test_the_cheapest_that_is_close_in_every_score_is_chosen() -> None:
    rows = [row(1.0, shape=0.95), row(0.1, shape=0.89), row(0.2, shape=0.91, colour=0.99), row(0.3)]
    assert measure.choose(rows)["num_inference_steps"] == 20
    assert measure.choose([rows[0], rows[1]])["num_inference_steps"] == 100, "the default, if none is as good"
    filled = [{**asdict(Setting("ddim", n)), "cost": n / 4, "psnr_db": 30 + n / 10} for n in (4, 2, 1)]
    assert measure.choose(filled)["num_inference_steps"] == 2


def test_the_table_is_made_of_the_record(record: dict[str, Any]) -> None:
    said = table(record)
    assert "ddpm 4 (the default" in said and "| ddim 1" in said and "25 % of the FLOP" in said
    cached = {**record["keyframes"][1], **asdict(Setting("dpm++", 4, 2)), "whole_runs": 2, "shallow_runs": 2}
    lines = keyframe_table({**record, "keyframes": [*record["keyframes"], cached]})
    assert lines[-1].startswith("| dpm++ 4, deep levels every 2 steps | 2 + 2 shallow | 50 % |")


def test_what_cannot_be_measured_is_said(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "record.json"
    for wrong, words in (
        ([], "U-Net of two levels"),
        (["--prompts", "0"], "--prompts: expected 1 or more, got 0"),
        (["--provider", "x"], "provider"),
    ):
        assert step_quality.main(["--bundle", str(tiny.folder), "--json", str(place), *wrong]) == 2
        assert words in capsys.readouterr().err and not place.exists()


def test_the_plan_begins_with_the_bundles_own_settings(tiny: Bundle) -> None:
    whole, quick = (plan_of(tiny, 3, "tune", 2, few) for few in (False, True))
    assert whole.keyframes[0] == Setting("ddpm", 4) == whole.interpolation[0]
    assert whole.keyframes[1:] == settings.KEYFRAMES and len(whole.prompts) == 3 and len(whole.clips) == 2
    assert len(quick.keyframes) == 3 and len(quick.prompts) == len(quick.clips) == 1
    fast = replace(tiny, interpolation=replace(tiny.interpolation, sampler="ddim"))
    assert plan_of(fast, 1, "tune", 1, False).interpolation == settings.INTERPOLATION
