"""What a person waits for: a program that starts, the first frame, a machine that is busy with something else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from bench.contenders.work import PROMPT
from bench.harness.program import target
from bench.harness.record import BenchError
from bench.harness.run import child, progress, ratio_of, summary
from ffrt import Pipeline

START_S, FIRST_SHARE, SLOWER = 1.5, 0.25, 3.0
STARTS = 5
NEIGHBOURS = (1, 3)
"""Busy threads beside ours for each thread of ours: with one, half of the processor is left."""

START = """
def reached(mark):
    result["reached"][mark] = time.monotonic() - argument["began"]
result["reached"] = {}
reached("python")
from ffrt import Pipeline
reached("import")
pipe = Pipeline.from_pretrained(argument["bundle"], provider="cpu", threads=argument["threads"])
reached("bundle")
steps = pipe.generate(argument["prompt"])
next(steps)
reached("text")
next(steps)
reached("step")
"""
"""From the start of a process to the end of its first denoising step."""


def starts_of(bundle: str, threads: int | None, runs: int = STARTS) -> dict[str, Any]:
    """Seconds from the start of a process to each mark of `START`, by mark; files are in the system's cache."""
    found: dict[str, list[float]] = {}
    for index in range(-1, runs):
        argument = {"bundle": bundle, "threads": threads, "prompt": PROMPT, "began": time.monotonic()}
        for mark, seconds in child(START, argument)["reached"].items():
            if index >= 0:
                found.setdefault(mark, []).append(seconds)
    return {mark: asdict(summary(seconds)) for mark, seconds in found.items()}


def first_frames_of(bundle: str, threads: int, runs: int = 3) -> dict[str, Any]:
    """Seconds to the first frame and to the last, at the highest rate, by preset, and their ratio by round.

    With every graph open; nothing is written. Raises BenchError if the frames are not those of the video.
    """
    found: dict[str, dict[str, list[float]]] = {preset: {"first": [], "last": []} for preset in ("fast", "quality")}
    with Pipeline.from_pretrained(bundle, provider="cpu", threads=threads) as pipe:
        fps = max(pipe.bundle.rates)
        generation = pipe.generate(PROMPT, fps=fps, preset="fast", seed=11)
        early = np.stack(list(generation.frames()))
        if not np.array_equal(early, generation.video.frames):
            raise BenchError("frames in order of time: expected those of the video to the bit, got others")
        for _ in progress("first frames", runs):
            for preset, seconds in found.items():
                began = time.perf_counter()
                frames = pipe.generate(PROMPT, fps=fps, preset=preset, seed=11).frames()
                next(frames)
                seconds["first"].append(time.perf_counter() - began)
                for _ in frames:
                    pass
                seconds["last"].append(time.perf_counter() - began)
    return {
        "fps": fps,
        "frames": len(early),
        "presets": {
            preset: {
                **{name: asdict(summary(own)) for name, own in seconds.items()},
                "share": ratio_of(seconds["first"], seconds["last"]),
            }
            for preset, seconds in found.items()
        },
    }


def neighbours_of(bundle: str, threads: int, runs: int = 3) -> dict[str, Any]:
    """A video with `preset="fast"`, alone and beside busy threads, in turn: seconds, and how much slower by round."""
    seconds: dict[str, list[float]] = {str(count): [] for count in (0, *(many * threads for many in NEIGHBOURS))}
    with Pipeline.from_pretrained(bundle, provider="cpu", threads=threads) as pipe:
        made(pipe)
        for turn in progress("beside busy threads", runs):
            for busy in list(seconds)[:: 1 if turn % 2 == 0 else -1]:
                with neighbours(int(busy)):
                    seconds[busy].append(made(pipe))
    return {
        "threads": threads,
        "seconds": {busy: asdict(summary(own)) for busy, own in seconds.items()},
        "slower": {busy: ratio_of(own, seconds["0"]) for busy, own in seconds.items() if busy != "0"},
    }


def made(pipe: Pipeline) -> float:
    """Seconds of a video with `preset="fast"`, to its last frame."""
    began = time.perf_counter()
    for _ in pipe(PROMPT, preset="fast", seed=11).chunks():
        pass
    return time.perf_counter() - began


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """A block with so many processes beside it that never rest."""
    line = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen(line, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


def targets_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is asked of a start, a first frame and a video beside busy threads, where they were measured."""
    rows = []
    if "start" in record:
        first_s = record["start"]["step"]["median_s"]
        rows.append(target("process start to first step", first_s, START_S, least=False, unit="s"))
    if "first_frame" in record:
        found = record["first_frame"]
        percent = 100 * found["presets"]["fast"]["share"]["median"]
        name = f'first frame of a video at {found["fps"]} fps with `preset="fast"`, share of the whole time'
        rows.append(target(name, percent, 100 * FIRST_SHARE, least=False, unit="%"))
    if "neighbour" in record:
        found = record["neighbour"]
        slower = found["slower"][str(found["threads"])]["median"]
        name = "video beside as many busy threads as its own, over alone"
        rows.append(target(name, slower, SLOWER, least=False, unit="times"))
    return rows
