"""The tables of README and docs, by the bench of their record."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench import device_memory, export_memory, real_footage, skip_values
from bench.demo_quality import table as demo_quality
from bench.harness.record import BenchError, Record
from bench.harness.words import markdown, number, verdict
from bench.interp_speed import table as interp_speed
from bench.pipeline_speed import table as pipeline_speed
from bench.report.records import load
from bench.step_quality import table as step_quality

BLOCK = re.compile(r"<!-- bench:(\S+) -->\n.*?<!-- /bench -->", re.DOTALL)
Part = Callable[[Record], list[str]]

TABLES: dict[str, Callable[[Record], str]] = {
    "demo_quality": demo_quality.table,
    "interp_speed": interp_speed.table,
    "export_memory": export_memory.table,
    "device_memory": device_memory.table,
    "real_footage": real_footage.table,
    "skip_values": skip_values.table,
    "pipeline_speed": pipeline_speed.table,
    "step_quality": step_quality.table,
}
"""What makes the whole table of a record, by the record's `bench`."""
PARTS: dict[str, Mapping[str, Part]] = {
    "demo_quality": demo_quality.PARTS,
    "interp_speed": interp_speed.PARTS,
    "pipeline_speed": pipeline_speed.PARTS,
    "step_quality": step_quality.PARTS,
}
"""What makes one part of it, where it has several."""
HEADLINE = "headline"
"""A table of a few targets from several records."""


def with_tables(text: str, results: Path) -> str:
    """A page with every table made from its record in the folder `results`. Raises BenchError where one cannot be."""
    return BLOCK.sub(partial(block, results), text)


def block(results: Path, match: re.Match[str]) -> str:
    """One marked table, made from its record."""
    marker = match[1]
    name, _, part = marker.partition("/")
    if name == HEADLINE:
        lines = "\n".join(headline(results))
    else:
        record = load(results, name)
        bench = record["bench"]
        if not record["whole"]:
            raise BenchError(f"{name}.json is of a partial run, which is not for the README")
        if bench not in TABLES or not name.startswith(bench):
            raise BenchError(f"{name}.json: expected a record of one of {sorted(TABLES)}, got {bench!r}")
        if part == "":
            lines = TABLES[bench](record)
        elif part in PARTS.get(bench, {}):
            lines = "\n".join(PARTS[bench][part](record))
        else:
            raise BenchError(f"bench:{marker}: expected a part of {sorted(PARTS.get(bench, {}))}, got {part!r}")
    return f"<!-- bench:{marker} -->\n{lines}\n<!-- /bench -->"


def headline(results: Path) -> list[str]:
    """At most six targets, from the records that are there."""
    return markdown(["", "measured", "target", "met"], headline_rows(results))


def headline_rows(results: Path) -> Iterator[list[str]]:
    """One row per target: prompts, interpolation, speed, import, memory."""
    targets = {
        name: load(results, name)["targets"]
        for name in ("demo_quality", "pipeline_speed", "device_memory")
        if (results / f"{name}.json").is_file()
    }

    def rows(record: str, name: str, words: str) -> Iterator[list[str]]:
        for item in targets.get(record, []):
            if item["name"] == name and item.get("contender", "optimised") == "optimised":
                yield [words, *measured(item), verdict(item)]

    yield from rows("demo_quality", "action right", "prompts whose motion is right")
    yield from rows(
        "demo_quality", "interpolation 8 to 30 fps, over linear", "interpolation 8 to 30 fps, over blending"
    )
    yield from rows("pipeline_speed", "keyframe_step", "keyframe step, PyTorch over ours, both in float32")
    yield from rows("pipeline_speed", "end_to_end_fast", 'whole video, PyTorch over `preset="fast"`, both in float32')
    yield from rows("pipeline_speed", "import ffrt", "`import ffrt`")
    yield from rows("device_memory", "most", "GPU memory of a full-size video")


def measured(item: Mapping[str, Any]) -> tuple[str, str]:
    """What was measured and what was asked for, in the unit of a target; bytes in GB."""
    bytes_asked = item["name"] == "most"
    scale, unit = (1e-9, "GB") if bytes_asked else (1.0, item.get("unit", "times"))
    bound = "at least" if item["least"] else "at most"
    return number(item["measured"] * scale, unit), f"{bound} {number(item['target'] * scale, unit)}"
