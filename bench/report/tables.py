"""The tables of README and docs, by the bench of their record."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench import device_memory, export_memory, real_footage
from bench.demo_quality import table as demo_quality
from bench.harness.record import BenchError, Record
from bench.harness.words import markdown, number, verdict
from bench.interp_speed import table as interp_speed
from bench.memory.__main__ import table as memory
from bench.pipeline_speed import table as pipeline_speed
from bench.report.records import load
from bench.serving import table as serving
from bench.skip_values import film
from bench.skip_values import table as skip_values
from bench.step_quality import table as step_quality

BLOCK = re.compile(r"<!-- bench:(\S+) -->\n.*?<!-- /bench -->", re.DOTALL)
Part = Callable[[Record], list[str]]

TABLES: dict[str, Callable[[Record], str]] = {
    "demo_quality": demo_quality.table,
    "interp_speed": interp_speed.table,
    "export_memory": export_memory.table,
    "device_memory": device_memory.table,
    "memory": memory,
    "real_footage": real_footage.table,
    "skip_values.film": film.table,
    "skip_values": skip_values.table,
    "pipeline_speed": pipeline_speed.table,
    "serving": serving.table,
    "step_quality": step_quality.table,
}
"""What makes the whole table of a record, by the record's `bench`."""
PARTS: dict[str, Mapping[str, Part]] = {
    "demo_quality": demo_quality.PARTS,
    "interp_speed": interp_speed.PARTS,
    "pipeline_speed": pipeline_speed.PARTS,
    "serving": serving.PARTS,
    "skip_values.film": film.PARTS,
    "skip_values": skip_values.PARTS,
    "step_quality": step_quality.PARTS,
}
"""What makes one part of it, where it has several."""
PICTURE = "picture"
"""The part that is the picture of a record, as a link."""
HEADLINE = "headline"
"""A table of a few targets from several records."""
SERVING = "serving/targets"
"""One of the targets of all parts of that bench."""


def with_tables(text: str, page: Path, results: Path) -> str:
    """The text of a page with every table made from its record in the folder `results`.

    Raises BenchError for a record that may not be shown; where there is none, the page says how to make it.
    """
    return BLOCK.sub(partial(block, page, results), text)


def block(page: Path, results: Path, match: re.Match[str]) -> str:
    """One marked table, made from its record."""
    marker = match[1]
    name, _, part = marker.partition("/")
    if name == HEADLINE:
        lines = headline(results)
    elif f"{name}/{part}" == SERVING:
        lines = serving_targets(page, results)
    elif (results / f"{name}.json").is_file():
        lines = shown(load(results, name), name, part, page, results)
    else:
        bench_of(name)
        lines = [] if part in (PICTURE, "conditions") else [missing(name)]
    return "\n".join([f"<!-- bench:{marker} -->", *lines, "<!-- /bench -->"])


def shown(record: Record, name: str, part: str, page: Path, results: Path) -> list[str]:
    """The lines of a table, of one part of it, or of its picture. Raises BenchError for what may not be shown."""
    bench = record["bench"]
    if not record["whole"]:
        raise BenchError(f"{name}.json is of a partial run, which is not for the README")
    if bench not in TABLES or not name.startswith(bench):
        raise BenchError(f"{name}.json: expected a record of one of {sorted(TABLES)}, got {bench!r}")
    if part == "":
        return [TABLES[bench](record)]
    if part == PICTURE and (results / f"{name}.png").is_file():
        return [f"![{bench}]({Path(os.path.relpath(results, page.parent)).as_posix()}/{name}.png)"]
    if part not in PARTS.get(bench, {}):
        raise BenchError(f"bench:{name}/{part}: expected a part of {sorted(PARTS.get(bench, {}))}, got {part!r}")
    return PARTS[bench][part](record)


def bench_of(name: str) -> str:
    """The bench that makes a record of this name. Raises BenchError if none does."""
    found = [bench for bench in TABLES if name.startswith(bench)]
    if not found:
        raise BenchError(f"bench:{name}: expected the name of a record of one of {sorted(TABLES)}")
    return found[0]


def missing(name: str) -> str:
    """What a page says in place of a table without a record."""
    return f"*Not measured for the shipped bundle yet: `python -m bench.{bench_of(name)}` does.*"


def serving_targets(page: Path, results: Path) -> list[str]:
    """The targets of every part of `bench.serving` that was measured, as one table."""
    lines: list[str] = []
    for name in sorted(path.stem for path in results.glob("serving_*.json")):
        own = shown(load(results, name), name, "targets", page, results)
        lines += own[2:] if lines else own
    return lines if lines else [missing("serving")]


def headline(results: Path) -> list[str]:
    """At most six targets, from the records that are there."""
    rows = list(headline_rows(results))
    return markdown(["", "measured", "target", "met"], rows) if rows else [missing("demo_quality")]


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
