"""`bench.memory`: estimates lie within 1.0 to 1.5 times measured peaks, and its table says where they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.harness.run import child
from bench.memory.__main__ import LEAST, MEASURE, MOST, SIZES, jobs_of, table
from bench.memory.stages import need_of
from ffrt import Bundle, open_bundle
from ffrt.bundle import find_bundle
from ffrt.memory.room import wanted

RECORD = Path(__file__).parents[2] / "bench" / "results" / "memory.json"

CALLS = [("keyframes", "fast"), ("interpolate", "low"), ("decode", "fast"), ("decode", "low"), ("encode_frames", "low")]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "memory"), CALLS)
def test_estimates_are_within_their_bounds_of_the_measured_peaks(stage: str, memory: str) -> None:
    jobs = [
        one for one in jobs_of([open_bundle(find_bundle())], SIZES) if (one["stage"], one["memory"]) == (stage, memory)
    ]
    assert len(jobs) == 3
    for job in jobs:
        run = child(MEASURE, job)
        assert LEAST <= run["found"]["process"] / run["peak_bytes"] <= MOST, job


def test_every_stage_and_rate_is_measured_in_both_modes(tiny: Bundle) -> None:
    jobs = list(jobs_of([tiny], [(32, 32), (64, 64)]))
    calls = {(job["stage"], job["fps"]) for job in jobs}
    stages = ["encode", "encode_frames", "keyframes", "interpolate", "decode"]
    assert calls == {*((stage, 0) for stage in stages), *(("generate", fps) for fps in tiny.rates)}
    assert len(jobs) == len(calls) * 2 * 2


def test_estimates_are_those_that_the_record_held_to_the_peaks() -> None:
    """A fit that was changed needs `python -m bench.memory` again."""
    demo, record = open_bundle(find_bundle()), json.loads(RECORD.read_text())
    rows = [row for row in record["rows"] if row["family"] == demo.family.name]
    assert len(rows) > 40
    for row in rows:
        need = need_of(demo, row["stage"], row["fps"], row["height"], row["width"])
        assert wanted(demo, need, row["memory"]).process == pytest.approx(row["process"], rel=1e-6), row


def record_of(peak: int) -> dict[str, Any]:
    row = {"family": "kandinsky-1.0", "stage": "decode", "fps": 0, "memory": "low", "height": 64, "width": 32}
    targets = [{"measured": 120e6 / peak, "met": LEAST <= 120e6 / peak <= MOST}] * 2
    environment = {"cpu": "one", "cores": 2}
    return {"rows": [{**row, "process": 120_000_000, "peak": peak}], "targets": targets, "environment": environment}


def test_the_table_says_what_missed() -> None:
    assert "| 1.0 | decode | low | 1.20 (100 MB) |" in table(record_of(100_000_000))
    assert "wanted 1.0 to 1.5, met. one, 2 cores." in table(record_of(100_000_000))
    assert "**0.96 MISSED** (125 MB)" in table(record_of(125_000_000))
    assert "**2.00 MISSED** (60 MB)" in table(record_of(60_000_000))
    assert "**missed**" in table(record_of(60_000_000))
