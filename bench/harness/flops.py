"""The floating-point operations of one run of a graph, counted from the shapes of that run.

Symbolic shapes pass through too much arithmetic for static inference, so the graph runs once under ONNX Runtime's
profiler, without optimisation, and every convolution and matrix product is counted from its profiled shapes: two
operations for each multiplication with its addition. Everything else (norms, activations, softmax) is not counted.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray


def count_flops(graph: Path, feed: Mapping[str, NDArray[Any]]) -> int:
    """FLOPs of one run of the ONNX file `graph` on `feed`. Raises ONNX Runtime's own errors if it cannot run."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = (event["args"] for event in events if event.get("name", "").endswith("_kernel_time"))
    return sum(
        node_flops(args["op_name"], shapes(args["input_type_shape"]), shapes(args["output_type_shape"])[0])
        for args in ran
        if args["op_name"] in COUNTED
    )


COUNTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})


def shapes(profiled: list[dict[str, list[int]]]) -> list[list[int]]:
    """The shapes in a profile's `[{"float": [1, 2]}, ...]`."""
    return [shape for typed in profiled for shape in typed.values()]


def node_flops(operator: str, inputs: list[list[int]], output: list[int]) -> int:
    """FLOPs of one node, a multiplication and an addition for every product it sums.

    Each output of a convolution sums over the weights of its filter, each input of a transposed one is spread over
    them; each output of a matrix product sums over the inner axis. Biases are not counted.
    """
    if operator == "Conv":
        return 2 * math.prod(output) * math.prod(inputs[1][1:])
    if operator == "ConvTranspose":
        return 2 * math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if operator == "Gemm":  # may be transposed: [M, K] x [K, N] in any order, so K = size of A / M
        return 2 * math.prod(output) * (math.prod(inputs[0]) // output[0])
    return 2 * math.prod(output) * inputs[0][-1]
