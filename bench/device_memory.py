"""`python -m bench.device_memory`: the GPU memory that a video of the full-size 1.0 networks takes, without a GPU.

Random networks of the released shapes are built and optimised for CUDA as in `bench.cuda_run`, with the encoder of
Flan-UL2 in 8-bit integers. The real CUDA provider then opens every stage and runs it at 512 px, up to 30 fps, over
stand-ins for CUDA's libraries (`bench.cuda.stand_ins`), which count what it allocates. What a GPU takes on top is not
counted: scratch memory of cuDNN's convolutions, and CUDA's own for its context.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.contenders.full_size import BUILD, SHAPES
from bench.contenders.work import PROMPT
from bench.cuda.stand_ins import counts
from bench.cuda.wheel import WHEEL, cache_folder, fetch_wheel, over_stand_ins
from bench.harness import program
from bench.harness.program import Program, Result, target
from bench.harness.record import ROOT
from bench.harness.run import child, say
from bench.harness.words import markdown, verdict
from ffrt import Context, Pipeline, open_bundle
from ffrt.backend.runner import Memory
from ffrt.sampling import Sampling, drain, normal_noise
from ffrt.stages.interpolate import noise_shape
from ffrt.stages.run import Stages

PARTS = {"text": "text", "keyframes": "keyframes", "interpolation": "interpolation to 30 fps", "decode": "decoding"}
"""The stages in the order in which they run, and their names in the table."""
TARGET_BYTES = 12e9
STEPS = 3
TOKENS, FRAMES = 77, 8
MEASURE = "from bench.device_memory import measure_parts\nresult['found'] = measure_parts(argument)\n"


def arguments(line: ArgumentParser) -> None:
    """The arguments of this bench alone."""
    line.add_argument("--scale", choices=SHAPES, default="full", help="released size or tiny networks (full)")
    line.add_argument("--ort", type=Path, help=f"an unpacked {WHEEL} wheel for this Python (fetched once otherwise)")
    line.add_argument(
        "--models",
        type=Path,
        default=ROOT / "graphs" / "bundles",
        help="bundles are kept below it and used again; 60 GB at the full scale (graphs/bundles)",
    )


def measure_parts(argument: Mapping[str, Any]) -> dict[str, Any]:
    """Open parts and run them, all in this process; what was asked of the device by the end of each.

    `argument`: `bundles` (part -> folder), `side` (of latents), `width` (of a text context), `memory`.
    """
    found: dict[str, Any] = {}
    kept = []
    for part, folder in argument["bundles"].items():
        bundle = open_bundle(Path(folder))
        stages = Pipeline(bundle, provider="cuda", memory=argument["memory"]).stages
        run_part(part, stages, argument["side"], argument["width"])
        found[part] = asdict(counts())
        if argument["memory"] == "fast":
            kept.append(stages)
    return found


def run_part(part: str, stages: Stages, side: int, width: int) -> None:
    """`STEPS` denoising steps of a U-Net, for interpolation in all its passes, one prompt, or `FRAMES` frames."""
    bundle = stages.bundle
    frames, frame = bundle.keyframes.num_frames, (bundle.video.latent_channels, side, side)
    rng = np.random.default_rng(0)
    if part == "text":
        stages.text(PROMPT, None)
    elif part == "keyframes":
        text = rng.standard_normal((1, TOKENS, width), dtype=np.float32)
        context = Context(text, np.ones((1, TOKENS), np.bool_), text[0, 0])
        sampling = Sampling(STEPS, bundle.keyframes.guidance_scale, bundle.keyframes.sampler)
        drain(stages.keyframes(context.rows(), sampling, normal_noise(0, 0, (frames, *frame))))
    elif part == "interpolation":
        latents = rng.standard_normal((frames, *frame), dtype=np.float32)
        sampling = Sampling(STEPS, bundle.interpolation.guidance_scale, bundle.interpolation.sampler)
        for index, one_pass in enumerate(bundle.interpolation.passes):
            noise = normal_noise(0, 1 + index, noise_shape("group", latents.shape))
            latents = drain(stages.interpolation(None, latents, one_pass, sampling, noise))
    else:
        for _ in stages.decode(rng.standard_normal((FRAMES, *frame), dtype=np.float32)):
            pass


def measure(asked: Namespace) -> Iterator[Result]:
    """Build what is missing, then measure. Raises ProviderError without a wheel, ChildError where a child fails."""
    wheel = fetch_wheel(cache_folder()) if asked.ort is None else asked.ort
    models, demo = asked.models.resolve() / f"cuda-{asked.scale}", asked.bundle.resolve()
    built = {"scale": asked.scale, "folder": str(models), "demo": str(demo), "provider": "cuda"}
    for part in PARTS:
        if not (models / f"{part}-cuda").is_dir():
            say(f"building {part}")
            child(BUILD, {**built, "part": part}, show=True)
            shutil.rmtree(models / f"{part}-plain")
    shapes = SHAPES[asked.scale]
    bundles = {part: str(models / f"{part}-cuda") for part in PARTS}
    with tempfile.TemporaryDirectory() as scratch:
        around = over_stand_ins(wheel, Path(scratch))

        def measured(parts: Mapping[str, str], memory: Memory) -> dict[str, Any]:
            say(f"running {', '.join(parts)} with memory={memory!r}")
            argument = {"bundles": parts, "side": shapes.side, "width": shapes.keyframes.context_dim, "memory": memory}
            found: dict[str, Any] = child(MEASURE, argument, variables=around)["found"]
            return found

        low = {part: measured({part: folder}, "low")[part] for part, folder in bundles.items()}
        fast = measured(bundles, "fast")
    most = max(found["most"] for found in low.values())
    yield Result(
        {
            "side_px": shapes.side * shapes.decoder.downscale,
            "low": low,
            "fast": fast,
            "targets": [target("most", most, TARGET_BYTES, least=False)],
        },
        environment={"provider_from": WHEEL},
    )


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    (item,) = record["targets"]
    fast = max(found["most"] for found in record["fast"].values())
    limit = f"under {item['target'] / 1e9:.0f} GB"
    rows = [
        *([words, f"{record['low'][part]['most'] / 1e9:.1f} GB", "", ""] for part, words in PARTS.items()),
        ["**at most, one stage at a time**", f"{item['measured'] / 1e9:.1f} GB", limit, verdict(item)],
        ['all stages held, `memory="fast"`', f"{fast / 1e9:.1f} GB", "", ""],
    ]
    head = f'full-size 1.0 video at {record["side_px"]} px, `memory="low"`'
    return "\n".join(
        [
            *markdown([head, "GPU memory", "target", "met"], rows),
            "",
            f"What the CUDA provider of {record['environment']['provider_from']} allocates, counted without a GPU; "
            "scratch memory of cuDNN and CUDA's own come on top. Float16; Flan-UL2's encoder, 8.7 billion parameters, "
            "as 8-bit integers.",
        ]
    )


PROGRAM = Program(
    "device_memory",
    __doc__,
    measure,
    table,
    arguments,
    provider="cuda",
    providers=("cuda",),
    threads=False,
    free=lambda asked: frozenset({"ort", "models"}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and keep the record. 0: done; 2: not."""
    return program.main(PROGRAM, arguments)


if __name__ == "__main__":
    sys.exit(main())
