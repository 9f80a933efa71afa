"""Where sessions spend their time: inside and outside of them, operator by operator, and how many FLOPs they take.

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

from bench.harness.flops import node_flops, shapes
from bench.harness.run import summary
from ffrt.backend.openvino import OpenVinoSession

TOP = 8
"""How many operators a profile names; the others are summed up."""
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
"""The plain operator of each fused one. `FusedMatMul` is counted as if its first input were not transposed."""
ATTENTIONS = ("MultiHeadAttention", "Attention")

Event = Mapping[str, Any]
"""A kernel run as ONNX Runtime's profiler writes it."""


@contextmanager
def timed_runs() -> Iterator[list[float]]:
    """Collect the seconds of every run of every session while the block lasts."""
    spent: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                spent.append(time.perf_counter() - start)

        return run

    methods = [(ort.InferenceSession, "run"), (ort.InferenceSession, "run_with_iobinding"), (OpenVinoSession, "run")]
    own = [vars(kind).get(name) for kind, name in methods]
    for kind, name in methods:
        setattr(kind, name, timed(getattr(kind, name)))
    try:
        yield spent
    finally:
        for (kind, name), call in zip(methods, own, strict=True):
            if call is None:  # was inherited
                delattr(kind, name)
            else:
                setattr(kind, name, call)


def host_share(run: Callable[[], object], runs: int) -> float:
    """Share of the time of `run` that is spent outside the sessions it calls: the median of `runs`."""
    shares = []
    for _ in range(runs):
        with timed_runs() as spent:
            start = time.perf_counter()
            run()
            wall = time.perf_counter() - start
        shares.append(1 - sum(spent) / wall)
    return summary(shares).median_s


@contextmanager
def profiles(folder: Path, optimised: bool) -> Iterator[None]:
    """Let every session opened in the block write its profile to `folder` when it ends.

    Without `optimised` ONNX Runtime runs the nodes as they are in the graph.
    """
    usual = ort.SessionOptions
    opened_before: list[int] = []

    def options() -> Any:
        settings = usual()
        settings.enable_profiling = True
        settings.profile_file_prefix = str(folder / f"session{len(opened_before)}")
        if not optimised:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            settings.add_session_config_entry("session.disable_prepacking", "1")  # a packed weight has no shape
        opened_before.append(1)
        return settings

    ort.SessionOptions = options
    try:
        yield
    finally:
        ort.SessionOptions = usual


def kernels(run: Callable[[], None], optimised: bool) -> list[list[Event]]:
    """The kernel runs of every session that `run` opens, uses and drops; `optimised` as in `profiles`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with profiles(folder, optimised):
            run()
        gc.collect()  # a session writes its profile when it is gone
        sessions = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.iterdir())]
    return [[event for event in events if event.get("name", "").endswith("_kernel_time")] for events in sessions]


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
    """What identifies the node of a kernel run."""
    return event["name"], event["args"].get("node_index", "")


def event_flops(args: Mapping[str, Any]) -> int:
    """FLOPs of one kernel run; 0 for one that is neither a product nor an attention."""
    operator = args["op_name"]
    if operator not in PRODUCTS and operator not in ATTENTIONS:
        return 0
    inputs, outputs = shapes(args["input_type_shape"]), shapes(args["output_type_shape"])
    if operator in ATTENTIONS:
        return attention_flops(inputs)
    return node_flops(PRODUCTS[operator], inputs, outputs[0])


def attention_flops(inputs: Sequence[Sequence[int]]) -> int:
    """FLOPs of the two products of an attention: query, key and value [B, n, C] or [B, heads, n, D] each.

    Packed queries [B, n, heads, 3, D] stand alone.
    """
    query = inputs[0]
    if len(query) == 5:
        rows, length, heads, _, width = query
        return 4 * rows * length * length * heads * width
    key = inputs[1]
    queries, width = (query[1], query[2]) if len(query) == 3 else (query[2], query[1] * query[3])
    keys = key[1] if len(key) == 3 else key[2]
    return 4 * query[0] * queries * keys * width
