"""Peak memory of every contender, each in a fresh process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.contenders.process import ONE_RUN
from bench.contenders.work import DENOISING, Scale
from bench.harness.run import child, progress
from bench.pipeline_speed.stages import LONG_FPS, OURS, VIDEO_FPS
from ffrt import Bundle


def memory_of(bundles: Mapping[str, Bundle], kinds: Mapping[str, Scale], threads: int) -> dict[str, Any]:
    """Peak bytes of fresh processes: a stage of every contender and scale, and whole videos, short and long.

    `bundles` by kind and contender ("small plain"). torch.compile is left out: its compiler would be measured.
    """
    jobs: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def add(path: tuple[str, ...], kind: str, contender: str, memory: str, work: dict[str, Any]) -> None:
        folder = bundles[f"{kind} {contender if contender in OURS else 'plain'}"].folder
        provider = "openvino" if contender == "openvino" else "cpu"
        opening = {"provider": provider, "threads": threads, "memory": memory, "contender": contender}
        opening |= {"bundle": str(folder), "networks": kind, "scale": asdict(kinds[kind])}
        jobs.append((path, {**opening, **work}))

    for kind in kinds:
        for stage in (*DENOISING, "decode_frame"):
            for contender in ("eager", "plain", *(name for name in OURS if f"{kind} {name}" in bundles)):
                add(("stages", kind, stage, contender), kind, contender, "fast", {"stage": stage})
    add(("videos", "eager", f"{VIDEO_FPS} fps"), "demo", "eager", "fast", {"fps": VIDEO_FPS})
    for memory in ("fast", "low"):
        for fps in (VIDEO_FPS, LONG_FPS):
            for contender in (name for name in OURS if f"demo {name}" in bundles):
                add(("videos", f"{contender}, {memory}", f"{fps} fps"), "demo", contender, memory, {"fps": fps})
    peaks: dict[str, Any] = {}
    for index in progress("memory", len(jobs)):
        (*path, last), job = jobs[index]
        place = peaks
        for key in path:
            place = place.setdefault(key, {})
        place[last] = child(ONE_RUN, job)["peak_bytes"]
    return peaks
