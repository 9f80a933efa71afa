"""One part of `bench.cuda_run`, in a process of its own: its contenders opened one by one, then timed in turn.

A contender that cannot run, for example for lack of memory, is recorded with its error and the others go on: the
machine may not be available a second time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.contenders.compare import difference, ratios_of, result
from bench.contenders.eager import Eager
from bench.contenders.full_size import GRAPHS, SHAPES, STAGES, Part, load_network, network
from bench.contenders.ours import Ours
from bench.contenders.profile import host_overhead
from bench.contenders.work import DENOISING, Contender, Inputs, Scale, Stage, inputs_of, runner, units
from bench.harness.machine import device_bytes, product_rate
from bench.harness.record import BenchError
from bench.harness.run import rounds, summary
from ffrt import Bundle, Context, FfrtError, open_bundle

BASE = ("eager", "plain", "optimised")
COMPILED = ("eager", "compiled")
RECORDED = "recorded"
"""The optimised graphs with the launches of a denoising step replayed, on a GPU."""
PRODUCT_SIDE = 8192


def measure(argument: Mapping[str, Any]) -> dict[str, Any]:
    """All contenders of a part.

    `argument`: `part`, `scale`, `folder`, `provider`, `compiled` (eager against torch.compile, or else against both
    graphs), `runs`, `row`.
    """
    part: Part = argument["part"]
    shapes, provider = SHAPES[argument["scale"]], argument["provider"]
    on_gpu = provider == "cuda"
    folder = Path(argument["folder"])
    bundles = {"plain": open_bundle(folder / f"{part}-plain"), "optimised": open_bundle(folder / f"{part}-{provider}")}
    scale, stage = shapes.work(argument["scale"]), STAGES[part]
    inputs = inputs_of(scale, bundles["plain"], no_text)
    weights = bundles["plain"].folder / f"{GRAPHS[part]}.safetensors"

    @functools.cache
    def loaded() -> torch.nn.Module:
        return load_network(part, shapes, weights, "cuda" if on_gpu else "cpu", on_gpu)

    def opened(name: str) -> Contender:
        if name in bundles:
            return Ours(bundles[name], provider, None)
        if name == RECORDED:
            return Ours(bundles["optimised"], provider, None, cuda_graph=True)
        device = "cuda" if on_gpu else "cpu"
        networks = {GRAPHS[part]: loaded()}
        return Eager(bundles["plain"], networks, None, device=device, half=on_gpu, compiled=name == "compiled")

    torch.backends.cudnn.benchmark = on_gpu  # so that eager has its best convolutions
    names = COMPILED if argument["compiled"] else BASE
    if on_gpu and stage in DENOISING and not argument["compiled"]:
        names = (*names, RECORDED)
    found = opened_in_turn(names, opened, stage, scale, inputs)
    calls = {
        name: runner(one["contender"], stage, scale, inputs, argument["row"]) for name, one in found["ran"].items()
    }
    of = units(stage, argument["row"])
    taken = {name: [value / of for value in values] for name, values in rounds(calls, argument["runs"]).items()}
    ratios, _ = ratios_of(taken)
    times = {name: summary(seconds) for name, seconds in taken.items()}
    flops = flops_of(part, bundles["plain"], scale, inputs)
    rate = half_rate() if on_gpu else product_rate(provider, None)
    rows: dict[str, Any] = {}
    for name, timing in times.items():
        kept = {key: value for key, value in found["ran"][name].items() if key not in ("contender", "result")}
        share = flops / timing.median_s / rate
        rows[name] = {"seconds": asdict(timing), "flops": flops, "flops_share": share, **kept}
    record = {
        "stage": stage,
        "sizes": asdict(scale),
        "product_flops_per_s": rate,
        "contenders": rows,
        "failed": found["failed"],
        "ratios": ratios,
    }
    ours = found["ran"].get("optimised", {}).get("contender")
    if stage in DENOISING and isinstance(ours, Ours):
        record["host_overhead"] = host_overhead(ours, stage, scale, inputs, argument["row"], argument["runs"])
    return record


def opened_in_turn(
    names: tuple[str, ...], opened: Callable[[str], Contender], stage: Stage, scale: Scale, inputs: Inputs
) -> dict[str, dict[str, Any]]:
    """Open each contender and let it compute once: seconds, device memory and distance from the first, or its error.

    The memory is the growth that the driver reports. torch.compile comes after eager and shares its weights, which are
    then no part of its memory.
    """
    ran: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in names:
        before, start = device_bytes(), time.perf_counter()
        try:
            contender = opened(name)
            found = result(contender, stage, scale, inputs)
            if not np.isfinite(np.asarray(found, np.float64)).all():
                raise BenchError("expected a finite result, got another")
        except (FfrtError, RuntimeError, ValueError, MemoryError) as error:
            failed[name] = f"{type(error).__name__}: {error}"[:500]
            continue
        after = device_bytes()
        ran[name] = {
            "contender": contender,
            "result": found,
            "open_s": time.perf_counter() - start,
            "device_bytes": None if before is None or after is None else after - before,
            "difference": difference(next(iter(ran.values()))["result"], found) if ran else 0.0,
        }
    return {"ran": ran, "failed": failed}


def flops_of(part: Part, bundle: Bundle, scale: Scale, inputs: Inputs) -> int:
    """FLOPs of a step or of one frame, counted by PyTorch on the meta device: what eager computes."""
    shapes = SHAPES[scale.name]
    counted = CountedOnMeta(bundle, part, network(part, shapes))
    with FlopCounterMode(display=False) as counter:
        result(counted, STAGES[part], scale, inputs)
    frames = min(4, len(inputs.pictures)) if part == "decode" else 1
    return int(counter.get_total_flops()) // frames


class CountedOnMeta(Eager):
    """Eager whose network has no weights: its output has the right shapes and holds zeros."""

    def __init__(self, bundle: Bundle, part: Part, module: torch.nn.Module) -> None:
        def call(*inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = module(*(value.to("meta") for value in inputs))
            return torch.zeros(output.shape)

        super().__init__(bundle, {GRAPHS[part]: call}, None)


def half_rate(runs: int = 5) -> float:
    """The best FLOP/s of float16 matrix products that PyTorch reaches on the GPU."""
    a = torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, device="cuda", dtype=torch.float16)
    best = float("inf")
    for _ in range(runs + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2.0 * PRODUCT_SIDE**3 / best


def no_text(prompt: str) -> Context:
    """The context of a part is random."""
    raise BenchError(f"expected a scale with a random context, got one that encodes {prompt!r}")
