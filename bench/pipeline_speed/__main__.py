"""`python -m bench.pipeline_speed`: PyTorch eager, the plain exported graphs and the optimised ones, in one run.

Where OpenVINO is installed and the processor multiplies in bfloat16 there are two contenders more: the graphs optimised
for that, and PyTorch under bfloat16 autocast.
Same weights, same noise, same threads, alternating order, stage by stage at the prototype's shapes (random weights) and
at the demo's, then whole videos of the demo. First all contenders are compared: who computes something else is not
timed. The timer of a step holds the whole step: inputs, networks, guidance, sampler. What is worked out once a request,
loading and optimising stay outside.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.contenders.work import SMALL, STAGES, STEPS, Contender, Ours, Scale, given_of, scale_of
from bench.harness.machine import product_rate
from bench.harness.pictures import write_png
from bench.harness.profile import flops, host_overhead, operators
from bench.harness.run import ROOT, environment, is_whole, progress, version, write_json
from bench.pipeline_speed.measure import DENOISING, OURS, measure_stage, memory_of, videos
from bench.pipeline_speed.table import plot, table
from ffrt import Bundle, FfrtError, open_bundle
from ffrt.backend.openvino import multiplies_bfloat16
from ffrt.sampling.presets import PRESETS, Steps
from ffrt.stages.interpolate import MIDDLE

PARTS = ("stages", "video", "memory", "profile")
FREE = ("json", "plot", "folder", "threads", "provider", "bundle", "small", "compile")
TARGETS = {"interpolation_step": 2.0, "keyframe_step": 1.8, "end_to_end_fast": 4.0}
MOST_HOST_OVERHEAD = 0.02
LARGEST_DIFFERENCE = 1e-2
"""Relative RMS between the clean estimates of a first step; the random networks alone amplify rounding to 6e-4."""
ROUNDED: Mapping[str, float] = {"openvino": 1e-1, "eager_bfloat16": math.inf}
"""The same for those in bfloat16, in which PyTorch's own autocast makes 6.6e-2 of the random keyframe network; its
difference is recorded, and is not ours to refuse."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m bench.pipeline_speed", description=__doc__.splitlines()[0])
    line.add_argument("--bundle", type=Path, default=ROOT / "graphs" / "demo", help="the demo's folder (graphs/demo)")
    line.add_argument(
        "--small",
        type=Path,
        default=ROOT / "graphs" / "bundles" / "speed-small",
        help="random networks of the prototype's shapes, written there when they are missing (graphs/bundles/...)",
    )
    line.add_argument("--provider", choices=("cpu",), default="cpu", help="bench.cuda_run is the one for a GPU (cpu)")
    line.add_argument("--threads", type=int, help="CPU threads of every contender (one for each core)")
    line.add_argument("--runs", type=int, default=5, help="rounds of every stage (5)")
    line.add_argument("--row", type=int, default=4, help="denoising steps timed in a row (4)")
    line.add_argument("--video-runs", type=int, default=3, help="rounds of whole videos (3)")
    line.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (everything)")
    line.add_argument("--compile", action="store_true", help="torch.compile as well, which takes minutes")
    line.add_argument("--quick", action="store_true", help="under a minute: the demo's stages alone, no whole video")
    line.add_argument("--json", type=Path, help="record (bench/results/pipeline_speed.json of a whole run)")
    line.add_argument("--plot", type=Path, help="PNG (beside the record of a whole run)")
    line.add_argument("--folder", type=Path, help="record and plot of the run go here")
    return line


def check(asked: argparse.Namespace) -> None:
    """Raises ValueError for numbers that make no sense."""
    for name in ("runs", "row", "video_runs"):
        if vars(asked)[name] < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected 1 or more, got {vars(asked)[name]}")
    if asked.threads is not None and asked.threads < 1:
        raise ValueError(f"--threads: expected 1 or more, got {asked.threads}")
    if (most := (asked.runs + 1) * asked.row) > STEPS - 1:
        raise ValueError(f"--runs and --row: expected (runs + 1) * row of at most {STEPS - 1} steps, got {most}")


def small_bundle(folder: Path, demo: Bundle) -> Bundle:
    """The random bundle of the prototype's shapes; written once, in minutes. Raises BundleError for no bundle."""
    if folder.is_dir():
        return open_bundle(folder)
    from export.models.configs import INTERPOLATION_SHAPES, KEYFRAME_SHAPES_SMALL
    from export.onnx.random import write_random_bundle

    networks = {"interpolation_unet": INTERPOLATION_SHAPES["small"], "keyframe_unet": KEYFRAME_SHAPES_SMALL}
    print(f"writing {folder}; tracing takes minutes", file=sys.stderr)
    return write_random_bundle(demo, networks, folder, lambda line: print(line, file=sys.stderr))


def optimised_bundle(bundle: Bundle, out: Path, provider: str) -> tuple[Bundle, float]:
    """The bundle with its graphs optimised, and the seconds that took; not verified, since every stage is compared with
    eager before it is timed. Raises FfrtError where that fails.
    """
    from graphs.optimise import DTYPE_OF, optimise

    start = time.perf_counter()
    made = optimise(bundle, out, provider=provider, dtype=DTYPE_OF[provider], verify=False)
    return made, time.perf_counter() - start


def contenders_of(
    own: Mapping[str, Bundle], kind: str, provider: str, threads: int, compiled: bool
) -> dict[str, Contender]:
    """Every contender over the weights of one bundle, "plain", "optimised" and perhaps "openvino"; `kind` says which
    networks they are ("demo", "small").
    """
    from bench.contenders.eager import Eager, networks_of

    plain = own["plain"]
    networks = networks_of(kind, plain.folder)
    found: dict[str, Contender] = {"eager": Eager(plain, networks, threads)}
    if compiled:
        found["compiled"] = Eager(plain, networks, threads, compiled=True)
    found["plain"] = Ours(plain, provider, threads)
    found["optimised"] = Ours(own["optimised"], provider, threads)
    if "openvino" in own:
        found["eager_bfloat16"] = Eager(plain, networks, threads, bfloat16=True)
        found["openvino"] = Ours(own["openvino"], "openvino", threads)
    return found


def measure_scale(
    contenders: Mapping[str, Contender],
    bundles: Mapping[str, Bundle],
    scale: Scale,
    asked: argparse.Namespace,
    threads: int,
    rate: float,
) -> dict[str, Any]:
    """All stages at one scale: times, FLOP/s, where the time goes, and the share of the loop beside the graphs."""
    given = given_of(scale, bundles["plain"], contenders["plain"].encode)
    found: dict[str, Any] = {"sizes": asdict(scale), "stages": {}}
    for index in progress(f"stages of {scale.name}", len(STAGES)):
        stage = STAGES[index]
        if stage == "text" and scale.tokens is not None:
            continue
        largest = {name: ROUNDED.get(name, LARGEST_DIFFERENCE) for name in contenders}
        rows = measure_stage(contenders, stage, scale, given, asked.runs, asked.row, largest)
        ours = [one for name, one in contenders.items() if name in OURS and isinstance(one, Ours)]
        if stage in DENOISING:
            shares = [host_overhead(one, stage, scale, given, asked.row, asked.runs) for one in ours]
            rows["host_overhead"] = max(shares)
        if "profile" in asked.parts and not asked.quick:
            rows["operators"] = {
                name: operators(one, threads, asked.provider, stage, scale, given)
                for name, one in bundles.items()
                if name != "openvino"
            }
            counted = {name: flops(one, threads, stage, scale, given) for name, one in bundles.items()}
            for name, row in rows["contenders"].items():
                row["flops"] = counted[name if name in OURS else "plain"]
                row["flops_share"] = row["flops"] / row["seconds"]["median_s"] / rate
        found["stages"][stage] = rows
    return found


def headline(record: Mapping[str, Any]) -> tuple[dict[str, dict[str, float]], float | None]:
    """The ratios that the record is known by, each for all of ours, and the host's share: the largest one of the
    denoising loops.
    """
    found: dict[str, dict[str, float]] = {}

    def add(name: str, ratios: Mapping[str, Any], ending: str = "") -> None:
        found[name] = {ours: ratios[ours + ending]["median"] for ours in OURS if ours + ending in ratios}

    scales = record.get("scales", {})
    stages = scales["small" if "small" in scales else "demo"]["stages"] if scales else {}
    for stage in DENOISING:
        if stage in stages:
            add(stage, stages[stage]["ratios"])
    if "projected" in record:
        found["end_to_end_fast"] = record["projected"]["end_to_end_fast"]
    if "video" in record:
        add("end_to_end_fast", record["video"]["ratios"], "_fast")
        add("end_to_end_same_steps", record["video"]["ratios"])
    shares = [rows["host_overhead"] for rows in stages.values() if "host_overhead" in rows]
    return found, max(shares) if shares else None


def projected(stages: Mapping[str, Any], bundle: Bundle, frames: int) -> dict[str, Any]:
    """What a video of 8 fps would take by the medians of its stages: seconds of eager with the released steps, of ours
    with the preset for speed, and their ratios; for runs too short to make one.
    """
    fast = PRESETS["fast"]
    own = [Steps(one.sampler, one.num_inference_steps) for one in (bundle.keyframes, bundle.interpolation)]
    few = [steps.at_most(preset) for steps, preset in zip(own, (fast.keyframes, fast.interpolation), strict=True)]
    fewest = (few[0].num_inference_steps, few[1].num_inference_steps)
    seconds = {}
    for name in ("eager", *OURS):
        if any(name not in rows["contenders"] for rows in stages.values()):
            continue
        times = {stage: rows["contenders"][name]["seconds"]["median_s"] for stage, rows in stages.items()}
        steps_of = zip((STEPS, STEPS) if name == "eager" else fewest, DENOISING, strict=True)
        denoised = sum(count * times[stage] for count, stage in steps_of)
        seconds[name] = times["text"] + denoised + frames * times["decode_frame"]
    eager_s = seconds.pop("eager")
    return {
        "eager_s": eager_s,
        "fast_s": seconds,
        "end_to_end_fast": {name: eager_s / own_s for name, own_s in seconds.items()},
    }


def targets(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was asked for against what was measured, of each of ours."""
    rows = [
        {"name": name, "contender": contender, "measured": ratio, "target": least, "met": ratio >= least}
        for name, least in TARGETS.items()
        for contender, ratio in record["ratios_of"].get(name, {}).items()
    ]
    share = record["host_overhead"]
    if share is not None:
        name, most = "host_overhead", MOST_HOST_OVERHEAD
        rows.append({"name": name, "measured": share, "target": most, "met": share <= most})
    return rows


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure. Raises FfrtError and ValueError where something cannot be had or contenders disagree."""
    check(asked)
    began = time.perf_counter()
    around = environment(asked.bundle.resolve(), asked.provider, None)
    threads = around["cores"] if asked.threads is None else asked.threads
    demo = open_bundle(asked.bundle.resolve())
    parts = ["stages"] if asked.quick else asked.parts
    record: dict[str, Any] = {
        "bench": "pipeline_speed",
        "whole": is_whole(asked, parser().parse_args([]), FREE),
        "environment": {**around, "threads": threads, "torch": version("torch"), "openvino": version("openvino")},
        "steps_in_a_row": asked.row,
        "product_flops_per_s": product_rate(asked.provider, threads),
        "optimise_s": {},
        "scales": {},
    }
    plain = {"demo": demo}
    if not asked.quick and {"stages", "memory"} & set(parts):
        plain = {"small": small_bundle(asked.small.resolve(), demo), **plain}
    bundles: dict[str, Bundle] = {}
    kinds = {kind: SMALL if kind == "small" else scale_of(one) for kind, one in plain.items()}
    with tempfile.TemporaryDirectory() as folder:
        providers = {"optimised": asked.provider}
        if multiplies_bfloat16():
            providers["openvino"] = "openvino"
        for kind, one in plain.items():
            bundles[f"{kind} plain"] = one
            for name, provider in providers.items():
                print(f"optimising {kind} for {provider}", file=sys.stderr)
                place = Path(folder) / f"{kind}-{provider}"
                bundles[f"{kind} {name}"], spent = optimised_bundle(one, place, provider)
                record["optimise_s"][f"{kind}, {provider}"] = spent
        for kind, scale in kinds.items():
            own = {name: bundles[f"{kind} {name}"] for name in ("plain", *providers)}
            ways = contenders_of(own, kind, asked.provider, threads, asked.compile)
            if "stages" in parts:
                rate = record["product_flops_per_s"]
                record["scales"][kind] = measure_scale(ways, own, scale, asked, threads, rate)
            if "video" in parts and kind == "demo":
                print("whole videos", file=sys.stderr)
                record["video"] = videos({n: one for n, one in ways.items() if n != "eager_bfloat16"}, asked.video_runs)
            del ways  # the networks of one scale are enough at a time
        if "memory" in parts:
            record["memory"] = memory_of(bundles, kinds, asked.provider, threads)
    if asked.quick:
        frames = (MIDDLE + 1) * (demo.keyframes.num_frames - 1) + 1
        record["projected"] = projected(record["scales"]["demo"]["stages"], demo, frames)
    record["ratios_of"], record["host_overhead"] = headline(record)
    record["ratios"] = {name: max(own.values()) for name, own in record["ratios_of"].items()}
    record["targets"] = targets(record)
    record["wall_s"] = time.perf_counter() - began
    if not all(math.isfinite(ratio) for ratio in record["ratios"].values()):
        raise ValueError(f"expected finite ratios, got {record['ratios']}")
    return record


def keep(record: Mapping[str, Any], asked: argparse.Namespace) -> None:
    """Write record and plot where they were asked for; those of a whole run have a place of their own."""
    folder = asked.folder if asked.folder is not None else ROOT / "bench" / "results" if record["whole"] else None
    places = [None if folder is None else folder / f"pipeline_speed.{ending}" for ending in ("json", "png")]
    record_place = places[0] if asked.json is None else asked.json
    picture = places[1] if asked.plot is None else asked.plot
    if record_place is not None:
        write_json(record_place, record)
    if picture is not None and record["scales"]:
        write_png(picture, plot(record))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write record and plot, print the table. 0: it ran; 2: it could not, and nothing was written."""
    asked = parser().parse_args(arguments)
    if asked.quick:
        asked.runs, asked.row = min(asked.runs, 3), min(asked.row, 2)
    try:
        record = run(asked)
    except (FfrtError, ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"nothing measured: {error}", file=sys.stderr)
        return 2
    keep(record, asked)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
