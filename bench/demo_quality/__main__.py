"""`python -m bench.demo_quality`: how good the demo bundle is, by numbers that anyone can make again.

Scores of prompts by an image detector, reconstruction of the autoencoder, interpolation against blending and ffmpeg,
and speed and memory in fresh processes. Everything is reported, also what falls short of its target.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.datasets.prompts import FIRST_SEED, Case, cases
from bench.datasets.shapes import PASSES, Pipe, Sampling, held_out, interpolation, reconstruction
from bench.harness.pictures import Row, contact_sheet, write_png
from bench.harness.run import ROOT, child, environment, is_whole, progress, summary, write_json
from bench.metrics.detector import detect
from bench.report import markdown
from ffrt import Pipeline

ATTRIBUTES = ("colour", "background", "action", "shape", "size")
PARTS = ("prompts", "fast", "movq", "interpolation", "speed")
SHARES = {"colour": 0.95, "background": 0.95, "action": 0.90, "shape": 0.80}
LOST_POINTS = 2.0
"""What `preset="fast"` may lose of a share, in percentage points."""
MOVQ_DB, GAIN_DB, WALL_S, IMPORT_S, PEAK_BYTES = 36.0, 3.0, 60.0, 0.3, 1_000_000_000

FREE = ("bundle", "provider", "threads", "json", "sheet", "strict")  # all in the record, none changes what is measured

GENERATE = """
import os, tempfile
from ffrt import Pipeline
pipe = Pipeline.from_pretrained(argument["bundle"], provider=argument["provider"], threads=argument["threads"])
ready = time.perf_counter()
video = pipe(argument["prompt"], fps=argument["fps"], seed=argument["seed"], **argument["sampling"])
with tempfile.TemporaryDirectory() as folder:
    video.save(os.path.join(folder, "clip.mp4"))
result["frames"] = len(video)
result["generate_s"] = time.perf_counter() - ready
"""


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927); (0, 1) of nothing."""
    if count == 0:
        return 0.0, 1.0
    share, room = right / count, z * z / count
    middle = (share + room / 2) / (1 + room)
    half = z / (1 + room) * math.sqrt(share * (1 - share) / count + room / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(right: Sequence[bool]) -> dict[str, Any]:
    """Count, share and its interval."""
    low, high = wilson(sum(right), len(right))
    return {
        "right": sum(right),
        "of": len(right),
        "share": sum(right) / len(right) if right else None,
        "low": low,
        "high": high,
    }


def score_prompts(pipe: Pipe, wanted: Sequence[Case], sampling: Sampling) -> tuple[dict[str, Any], list[Row]]:
    """Generate the keyframes of each case at 2 fps and let the detector judge them.

    A size counts only where the prompt names one. `all` needs every attribute and no fault (no, several or changing
    objects).
    """
    verdicts, rows = [], []
    for index in progress("prompts", len(wanted)):
        case = wanted[index]
        frames = pipe(case.prompt, fps=2, seed=case.seed, **asdict(sampling)).frames
        seen = detect(frames)
        right = {name: getattr(seen, name) == getattr(case, name) for name in ATTRIBUTES}
        if case.size is None:
            del right["size"]
        verdicts.append({"case": asdict(case), "seen": asdict(seen), "right": right})
        good = all(right.values()) and not seen.faults
        wrong = [f"{name}: {getattr(seen, name)}" for name, ok in right.items() if not ok] + list(seen.faults)
        rows.append(Row(case.prompt + (" -> " + ", ".join(wrong) if wrong else ""), frames, good))
    scores = {name: share([item["right"][name] for item in verdicts if name in item["right"]]) for name in ATTRIBUTES}
    scores["all"] = share([bool(row.right) for row in rows])
    by_action = {
        action: share([item["right"]["action"] for item in verdicts if item["case"]["action"] == action])
        for action in sorted({case.action for case in wanted})
    }
    failures = [item for item, row in zip(verdicts, rows, strict=True) if not row.right]
    return {"scores": scores, "action_by_action": by_action, "failures": failures}, rows


def speed(bundle: str, provider: str, threads: int | None, sampling: Sampling, quick: bool) -> dict[str, Any]:
    """Wall time and peak memory in fresh processes: model opened, then prompt to mp4.

    Loading the model is outside the timer of a clip and inside the peak of memory.
    """
    child("import ffrt", {})
    imports = [child("import ffrt", {})["seconds"] for _ in range(5)]
    request = {"bundle": bundle, "provider": provider, "threads": threads, "sampling": asdict(sampling), "seed": 11}
    prompt = "a yellow square moving left on a teal background"
    runs = [8] if quick else [8, 30, 8, 8]
    made = [
        (runs[index], child(GENERATE, {**request, "prompt": prompt, "fps": runs[index]}))
        for index in progress("speed", len(runs))
    ]
    clips = {
        str(found[0]["frames"]): {
            "wall": asdict(summary([item["generate_s"] for item in found])),
            "peak_bytes": max(item["peak_bytes"] for item in found),
        }
        for fps in dict.fromkeys(runs)
        if (found := [item for rate, item in made if rate == fps])
    }
    return {"import": asdict(summary(imports)), "clips": clips}


def targets(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each stated target beside what was measured; a part that was not run has no line."""
    lines: list[dict[str, Any]] = []

    def line(name: str, measured: float, limit: float, unit: str, least: bool = True) -> None:
        met = measured >= limit if least else measured <= limit
        lines.append(
            {"name": name, "measured": measured, "target": limit, "least": least, "unit": unit, "met": bool(met)}
        )

    if "prompts" in record:
        for name, limit in SHARES.items():
            line(f"{name} right", 100 * record["prompts"]["scores"][name]["share"], 100 * limit, "%")
    if "prompts" in record and "fast" in record:
        for name in (*SHARES, "all"):
            few, usual = (record[part]["scores"][name]["share"] for part in ("fast", "prompts"))
            line(f'{name}, `preset="fast"` against the default', 100 * (few - usual), -LOST_POINTS, "points")
    if "movq" in record:
        line("MoVQ reconstruction", record["movq"]["mean_db"], MOVQ_DB, "dB")
    for passes, found in record.get("interpolation", {}).items():
        for rival, gain in (("linear", GAIN_DB), ("minterpolate", 0.0)):
            line(f"interpolation {passes}, over {rival}", found["all"]["ffrt"] - found["all"][rival], gain, "dB")
    if "speed" in record:
        for frames, clip in record["speed"]["clips"].items():
            if frames == "61":
                line("61 frames, wall time", clip["wall"]["median_s"], WALL_S, "s", least=False)
            line(f"{frames} frames, peak memory", clip["peak_bytes"] / 1e6, PEAK_BYTES / 1e6, "MB", least=False)
        line("import ffrt", record["speed"]["import"]["median_s"], IMPORT_S, "s", least=False)
    return lines


def measure(
    pipe: Pipe, wanted: Sequence[Case], sampling: Sampling, clips: Sequence[Any], parts: Sequence[str] = PARTS
) -> tuple[dict[str, Any], list[Row]]:
    """What a pipeline in this process can tell: prompts, also with few steps, autoencoder, both passes of
    interpolation.
    """
    found: dict[str, Any] = {}
    rows: list[Row] = []
    if "prompts" in parts:
        found["prompts"], rows = score_prompts(pipe, wanted, sampling)
    if "fast" in parts:
        fast = replace(sampling, num_inference_steps=None, sampler=None, preset="fast")
        found["fast"], _ = score_prompts(pipe, wanted, fast)
    if "movq" in parts:
        found["movq"] = reconstruction(pipe, clips)
    if "interpolation" in parts:
        few = clips[: math.ceil(len(clips) / 3)]  # 241 frames a clip take a while
        found["interpolation"] = {
            passes: interpolation(pipe, clips if rates == (8,) else few, passes, sampling)
            for passes, rates in PASSES.items()
        }
    return found, rows


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m bench.demo_quality", description=__doc__.splitlines()[0])
    line.add_argument("--bundle", type=Path, default=ROOT / "graphs" / "demo", help="bundle folder (graphs/demo)")
    line.add_argument("--provider", default="cpu", help="provider asked of ffrt (cpu)")
    line.add_argument("--threads", type=int, help="CPU threads (ONNX Runtime's choice)")
    line.add_argument("--prompts", type=int, default=60, help="how many prompts (60)")
    line.add_argument("--clips", type=int, default=8, help="held-out clips of autoencoder and interpolation (8)")
    line.add_argument("--split", choices=sorted(FIRST_SEED), default="test", help="prompt set: tune on tune (test)")
    line.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (everything)")
    line.add_argument("--steps", type=int, help="num_inference_steps (the bundle's)")
    line.add_argument("--guidance", type=float, help="guidance_scale (the bundle's)")
    line.add_argument("--interpolation-guidance", type=float, help="interpolation_guidance_scale (the bundle's)")
    line.add_argument("--sampler", help="sampler (the bundle's)")
    line.add_argument("--quick", action="store_true", help="a smoke run: at most 4 prompts, 2 clips, 61 frames once")
    line.add_argument("--json", type=Path, help="record (bench/results/demo_quality.json of a whole run, else none)")
    line.add_argument(
        "--sheet", type=Path, help="contact sheet (bench/results/demo_quality.png of a whole run, else none)"
    )
    line.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write record and sheet, print the tables. 0: it ran; 1: a target is missed under --strict."""
    asked = parser().parse_args(arguments)
    wanted = cases(min(asked.prompts, 4) if asked.quick else asked.prompts, asked.split)
    clips = min(asked.clips, 2) if asked.quick else asked.clips
    sampling = Sampling(asked.steps, asked.guidance, asked.interpolation_guidance, asked.sampler)
    bundle = asked.bundle.resolve()
    pipe = Pipeline.from_pretrained(bundle, provider=asked.provider, threads=asked.threads)
    measured, rows = measure(pipe, wanted, sampling, held_out(clips, asked.split), asked.parts)
    record = {
        "bench": "demo_quality",
        "whole": is_whole(asked, parser().parse_args([]), FREE),
        "split": asked.split,
        "sampling": asdict(sampling),
        "environment": environment(bundle, asked.provider, asked.threads),
        **measured,
    }
    if "speed" in asked.parts:
        record["speed"] = speed(str(bundle), asked.provider, asked.threads, sampling, asked.quick)
    record["targets"] = targets(record)
    usual = ROOT / "bench" / "results" / "demo_quality.json" if record["whole"] else None
    if (place := asked.json or usual) is not None:
        write_json(place, record)
    if rows and (picture := asked.sheet or (usual and usual.with_suffix(".png"))) is not None:
        write_png(picture, contact_sheet(rows))
    print(markdown(record))
    for item in record.get("prompts", {}).get("failures", []):
        print(f"missed: {item['case']['prompt']} (seed {item['case']['seed']}), seen {item['seen']}")
    return 1 if asked.strict and not all(item["met"] for item in record["targets"]) else 0


if __name__ == "__main__":
    sys.exit(main())
