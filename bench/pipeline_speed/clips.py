"""What a user waits for: `import ffrt`, and whole clips of the demo from prompt to mp4, in fresh processes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.harness.program import target
from bench.harness.run import child, progress, summary

WALL_S, IMPORT_S, PEAK_BYTES = 60.0, 0.3, 1_000_000_000
SHORT_FRAMES = "61"
"""Frames of the clip whose wall time has a target."""

GENERATE = """
import os, tempfile
from ffrt import Pipeline
pipe = Pipeline.from_pretrained(argument["bundle"], provider=argument["provider"], threads=argument["threads"])
ready = time.perf_counter()
video = pipe(argument["prompt"], fps=argument["fps"], seed=argument["seed"])
with tempfile.TemporaryDirectory() as folder:
    video.save(os.path.join(folder, "clip.mp4"))
result["frames"] = len(video)
result["generate_s"] = time.perf_counter() - ready
"""


def clips_of(bundle: str, threads: int | None, runs: int = 3) -> dict[str, Any]:
    """Seconds of `import ffrt` and from prompt to mp4, and peak memory, by number of frames, at the bundle's defaults.

    `runs` clips of 8 fps and one of 30. Opening the bundle is outside the timer of a clip and inside its peak.
    """
    child("import ffrt", {})
    imports = [child("import ffrt", {})["seconds"] for _ in range(5)]
    request = {"bundle": bundle, "provider": "cpu", "threads": threads, "seed": 11}
    prompt = "a yellow square moving left on a teal background"
    rates = [8, 30, *[8] * (runs - 1)]
    processes = [
        (rates[index], child(GENERATE, {**request, "prompt": prompt, "fps": rates[index]}))
        for index in progress("clips", len(rates))
    ]
    clips = {}
    for fps in dict.fromkeys(rates):
        own = [run for rate, run in processes if rate == fps]
        clips[str(own[0]["frames"])] = {
            "wall": asdict(summary([run["generate_s"] for run in own])),
            "peak_bytes": max(run["peak_bytes"] for run in own),
        }
    return {"import": asdict(summary(imports)), "clips": clips}


def targets_of(clips: dict[str, Any]) -> list[dict[str, Any]]:
    """What is asked of clips and the import, next to what was measured."""
    rows = []
    for frames, clip in clips["clips"].items():
        if frames == SHORT_FRAMES:
            wall_s = clip["wall"]["median_s"]
            rows.append(target(f"{frames} frames, wall time", wall_s, WALL_S, least=False, unit="s"))
        peak, most = clip["peak_bytes"] / 1e6, PEAK_BYTES / 1e6
        rows.append(target(f"{frames} frames, peak memory", peak, most, least=False, unit="MB"))
    import_s = clips["import"]["median_s"]
    return [*rows, target("import ffrt", import_s, IMPORT_S, least=False, unit="s")]
