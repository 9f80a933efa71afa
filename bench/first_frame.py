"""`python -m bench.first_frame`: how soon the first frame of a video is there, and how much of the whole that is.

`Generation.frames` makes the demo's video at its highest rate, with `preset="fast"` and with the bundle's own steps.
The timer runs from the first step, with every graph open, to the first frame and to the last one; writing is not in
it. The frames are compared with those of `generation.video` before anything is timed.
"""

from __future__ import annotations

import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.contenders.work import PROMPT
from bench.harness import program
from bench.harness.program import Program, Result, check_counts, target
from bench.harness.record import BenchError
from bench.harness.run import say
from bench.harness.words import markdown, verdict
from ffrt import Pipeline

PRESETS = ("fast", "quality")
MOST_SHARE = 0.25
"""Of the whole, with preset "fast"."""


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--rounds", type=int, default=5, help="videos of each preset (5)")


def check(asked: Namespace) -> None:
    """Raise BenchError for no rounds."""
    check_counts(asked, "rounds")


def measure(asked: Namespace) -> Iterator[Result]:
    """Compare, then time both presets in turn. Raises BenchError if frames differ from those of the video."""
    pipe = Pipeline.from_pretrained(asked.bundle.resolve(), provider=asked.provider, threads=asked.threads)
    fps = max(pipe.bundle.rates)
    generation = pipe.generate(PROMPT, fps=fps, preset="fast")
    early = np.stack(list(generation.frames()))
    if not np.array_equal(early, generation.video.frames):
        raise BenchError("frames in order of time: expected those of the video to the bit, got others")
    timed: dict[str, list[tuple[float, float]]] = {preset: [] for preset in PRESETS}
    for number in range(asked.rounds):
        say(f"round {number + 1} of {asked.rounds}")
        for preset in PRESETS:
            timed[preset].append(seconds_of(pipe, fps, preset))
    found = {
        preset: {
            "first_s": statistics.median(first for first, _ in runs),
            "whole_s": statistics.median(whole for _, whole in runs),
            "share": statistics.median(first / whole for first, whole in runs),
            "shares": [first / whole for first, whole in runs],
        }
        for preset, runs in timed.items()
    }
    fast = statistics.median(first / whole for first, whole in timed["fast"])
    goal = target("share", fast, MOST_SHARE, least=False)
    yield Result({"fps": fps, "frames": len(early), "presets": found, "targets": [goal]})


def seconds_of(pipe: Pipeline, fps: int, preset: str) -> tuple[float, float]:
    """Seconds to the first frame, and to the last."""
    first_s = None
    began_s = time.perf_counter()
    for _ in pipe.generate(PROMPT, fps=fps, preset=preset).frames():
        if first_s is None:
            first_s = time.perf_counter() - began_s
    assert first_s is not None
    return first_s, time.perf_counter() - began_s


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    (item,) = record["targets"]
    rows = []
    for preset, found in record["presets"].items():
        limit = [f"at most {item['target']:.0%}", verdict(item)] if preset == "fast" else ["", ""]
        share = f"{found['share']:.0%}"
        rows.append([f'`preset="{preset}"`', f"{found['first_s']:.1f} s", f"{found['whole_s']:.1f} s", share, *limit])
    head = f"{record['frames']} frames at {record['fps']} fps"
    return "\n".join(markdown([head, "first frame", "last frame", "share", "target", "met"], rows))


PROGRAM = Program("first_frame", __doc__, measure, table, arguments, check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and keep the record. 0: done; 2: not."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
