"""Where a denoising step of `ffrt` spends its time: inside its sessions and beside them, operator by operator, and how
many floating-point operations it takes.

ONNX Runtime is watched from outside, so that a stage may have as many sessions as it likes.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort  # type: ignore[import-untyped]

from bench.contenders.work import Given, Ours, Scale, Stage, opened, runner
from bench.harness.flops import node_flops, shapes
from bench.harness.run import summary
from ffrt import Bundle
from ffrt.backend.openvino import OpenVinoGraph

TOP = 8
"""Operators that a profile names; the others are one."""
WATCHED_STEPS = 4
PRODUCTS = {
    "Conv": "Conv",
    "FusedConv": "Conv",
    "NhwcConv": "Conv",
    "ConvTranspose": "ConvTranspose",
    "MatMul": "MatMul",
    "FusedMatMul": "MatMul",
    "Gemm": "Gemm",
    "FusedGemm": "Gemm",
}
"""What each operator counts as. `FusedMatMul` is taken as if its first input were not transposed."""
ATTENTIONS = ("MultiHeadAttention", "Attention")

Event = Mapping[str, Any]
"""A kernel's run as ONNX Runtime's profiler writes it."""


@contextmanager
def timed_runs() -> Iterator[list[float]]:
    """Seconds of every run of every session, whoever runs it, while the block lasts."""
    spent: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                spent.append(time.perf_counter() - start)

        return run

    ways = [(ort.InferenceSession, "run"), (ort.InferenceSession, "run_with_iobinding"), (OpenVinoGraph, "run")]
    own = [vars(kind).get(way) for kind, way in ways]
    for kind, way in ways:
        setattr(kind, way, timed(getattr(kind, way)))
    try:
        yield spent
    finally:
        for (kind, way), call in zip(ways, own, strict=True):
            if call is None:  # was inherited
                delattr(kind, way)
            else:
                setattr(kind, way, call)


def host_share(run: Callable[[], object], runs: int) -> float:
    """Share of `run` that passes outside the sessions it calls: the median of `runs`."""
    shares = []
    for _ in range(runs):
        with timed_runs() as spent:
            start = time.perf_counter()
            run()
            wall = time.perf_counter() - start
        shares.append(1 - sum(spent) / wall)
    return summary(shares).median_s


def host_overhead(ours: Ours, stage: Stage, scale: Scale, given: Given, row: int, runs: int) -> float:
    """Share of the denoising loop of a stage that is not inside its graphs: sampler, guidance, inputs, checks."""
    return host_share(runner(ours, stage, scale, given, row), runs)


@contextmanager
def profiles(folder: Path, optimised: bool) -> Iterator[None]:
    """Let every session opened in the block write its profile below `folder` when it ends. Without `optimised` nodes
    stay as the graph has them, unless who opens the session says otherwise.
    """
    usual = ort.SessionOptions
    opened_before: list[int] = []

    def options() -> Any:
        made = usual()
        made.enable_profiling = True
        made.profile_file_prefix = str(folder / f"session{len(opened_before)}")
        if not optimised:
            made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            made.add_session_config_entry("session.disable_prepacking", "1")  # a packed weight has no shape to count
        opened_before.append(1)
        return made

    ort.SessionOptions = options
    try:
        yield
    finally:
        ort.SessionOptions = usual


def kernels(
    bundle: Bundle, threads: int | None, provider: str, run: Callable[[Ours], None], optimised: bool
) -> list[list[Event]]:
    """The kernel runs of every session that `run` used of a pipeline opened for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with profiles(folder, optimised):
            ours = Ours(bundle, provider, threads)
            run(ours)
        del ours
        gc.collect()  # a session writes its profile when it is gone
        found = [json.loads(path.read_text()) for path in sorted(folder.iterdir())]
    return [[event for event in events if event.get("name", "").endswith("_kernel_time")] for events in found]


def shares(sessions: Sequence[Sequence[Event]]) -> list[dict[str, Any]]:
    """Each operator's share of all kernel time: the largest `TOP`, then the others as one."""
    spent: Counter[str] = Counter()
    for events in sessions:
        for event in events:
            spent[event["args"]["op_name"]] += event["dur"]
    total = sum(spent.values())
    if total == 0:
        return []
    named = spent.most_common(TOP)
    rows = [{"operator": name, "share": microseconds / total} for name, microseconds in named]
    rest = total - sum(microseconds for _, microseconds in named)
    return [*rows, {"operator": "others", "share": rest / total}] if rest else rows


def step_flops(sessions: Sequence[Sequence[Event]], steps: int) -> int:
    """FLOPs of one of `steps` steps: convolutions, matrix products and fused attentions, counted from profiled shapes.

    A node that ran fewer times than there were steps belongs to the request and is not counted.
    """
    flops = 0
    for events in sessions:
        runs = Counter(node_of(event) for event in events)
        flops += sum(event_flops(event["args"]) for event in events if runs[node_of(event)] >= steps)
    return flops // steps


def node_of(event: Event) -> tuple[str, str]:
    return event["name"], event["args"].get("node_index", "")


def event_flops(args: Mapping[str, Any]) -> int:
    """FLOPs of one kernel run; 0 for what is neither a product nor an attention."""
    operator = args["op_name"]
    if operator not in PRODUCTS and operator not in ATTENTIONS:
        return 0
    taken, made = shapes(args["input_type_shape"]), shapes(args["output_type_shape"])
    if operator in ATTENTIONS:
        return attention_flops(taken)
    return node_flops(PRODUCTS[operator], taken, made[0])


def attention_flops(inputs: Sequence[Sequence[int]]) -> int:
    """FLOPs of the two products of an attention: query, key and value [B, n, C] or [B, heads, n, D] each.

    Packed queries [B, n, heads, 3, D] stand alone.
    """
    query = inputs[0]
    if len(query) == 5:
        rows, length, heads, _, width = query
        return 4 * rows * length * length * heads * width
    key = inputs[1]
    asked, width = (query[1], query[2]) if len(query) == 3 else (query[2], query[1] * query[3])
    known = key[1] if len(key) == 3 else key[2]
    return 4 * query[0] * asked * known * width


def operators(
    bundle: Bundle, threads: int | None, provider: str, stage: Stage, scale: Scale, given: Given
) -> list[dict[str, Any]]:
    """A stage's profile by operator."""
    run = repeated(stage, scale, given, WATCHED_STEPS)
    return shares(kernels(bundle, threads, provider, run, optimised=True))


def flops(bundle: Bundle, threads: int | None, stage: Stage, scale: Scale, given: Given) -> int:
    """The FLOPs of one step, frame or prompt, counted on the CPU."""
    counted = kernels(bundle, threads, "cpu", repeated(stage, scale, given, 2), optimised=False)
    per = len(given.pictures) if stage == "decode_frame" else 1
    return step_flops(counted, 2) // per


def repeated(stage: Stage, scale: Scale, given: Given, count: int) -> Callable[[Ours], None]:
    """`count` steps of a stage, or so many times its frames or its prompt."""

    def run(ours: Ours) -> None:
        if stage in ("decode_frame", "text"):
            for _ in range(count):
                runner(ours, stage, scale, given, 1)()
            return
        steps = opened(ours, stage, scale, given)
        for _ in range(count):
            next(steps)
        steps.close()

    return run
