"""Residual streams in smaller units, so that float16 holds them. Exact, and only needed where they exceed its range.

A U-Net adds to its streams from layer to layer and reads them through norms, which do not depend on units: with
x / 2^k and epsilon / 4^k their result is the same. Convolutions that write to a stream or read from it absorb the units
into their weights; other operators get a multiplication. Powers of two change no digit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ffrt.errors import RequestError
from graphs.passes import ir as m
from graphs.passes.islands import FLOATS, MOVES, dtypes

_NORMS = ("InstanceNormalization", "GroupNorm", "LayerNormalization")
_LINEAR = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_SUMS = MOVES | {"Add", "Sub", "Resize", "AveragePool", "Mul"}
_INDICES = (
    "Gather",
    "GatherND",
    "Reshape",
    "Expand",
    "Tile",
    "Pad",
    "Slice",
    "Squeeze",
    "Unsqueeze",
    "Resize",
    "Split",
)
"""Operators of which only the first input holds numbers."""


def scale_streams(model: ir.Model, exponent: int = 4) -> ir.Model:
    """Divide everything between sums and norms by 2^`exponent`; run it before `to_half`.

    Kernels that write to a stream are divided as well, so float16 loses digits of those below 2^(exponent - 14). Raises
    RequestError if the exponent is not 1 to 12.
    """
    if not 1 <= exponent <= 12:
        raise RequestError(f"exponent: expected 1 to 12, got {exponent}; 4 makes room for numbers up to a million")
    model = model.clone()
    graph = model.graph
    types = dtypes(graph)
    floats = {value for value, dtype in types.items() if dtype in FLOATS}
    fixed = _fixed(graph)
    streams = _streams(graph, floats, fixed)
    streams.difference_update(graph.outputs)
    factors = {
        up: m.constant(graph, np.array(2.0 ** (exponent if up else -exponent), np.float32)) for up in (True, False)
    }
    for node in list(graph):
        read = [i for i, value in enumerate(node.inputs) if value in streams]
        written = [value for value in node.outputs if value in streams]
        if node.op_type in ("Shape", "Size"):
            continue
        if node.op_type in _NORMS and read == [0] and "epsilon" in node.attributes:
            epsilon = node.attributes["epsilon"].as_float() * 4.0**-exponent
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)
        elif node.op_type in _LINEAR and set(read) <= {0} and node.inputs[1] in fixed:
            _absorb(graph, node, bool(read), bool(written), exponent)
        elif (
            _carries(node, fixed)
            and written
            and all(v in streams or v in fixed or v not in floats for v in node.inputs)
        ):
            for index in _terms(node):
                value = m.input_of(node, index)
                if value in fixed:
                    node.replace_input_with(index, m.emit(node, "Mul", [value, factors[False]]))
        else:
            for index in read:
                node.replace_input_with(index, m.emit(node, "Mul", [node.inputs[index], factors[True]]))
            for value in written:
                users = list(value.uses())
                small = ir.node("Mul", [value, factors[False]])
                graph.insert_after(node, small)
                for user, index in users:
                    user.replace_input_with(index, small.outputs[0])
    return m.tidy(model)


def _fixed(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on weights and constants only."""
    values = set(graph.initializers.values())
    for node in graph:
        if all(value is None or value in values for value in node.inputs):
            values.update(node.outputs)
    return values


def _carries(node: ir.Node, fixed: set[ir.Value]) -> bool:
    """Whether the result has the units of the inputs."""
    return node.op_type in _SUMS and (node.op_type != "Mul" or any(value in fixed for value in node.inputs))


def _terms(node: ir.Node) -> Iterator[int]:
    """The inputs that have the units of the result."""
    if node.op_type in ("Add", "Sub", "Concat"):
        yield from range(len(node.inputs))


def _streams(graph: ir.Graph, floats: set[ir.Value], fixed: set[ir.Value]) -> set[ir.Value]:
    """The inputs of norms, and all values that must have the same units."""
    streams: set[ir.Value] = set()
    waiting = [node.inputs[0] for node in graph if node.op_type in _NORMS]
    while waiting:
        value = waiting.pop()
        if value is None or value in streams or value in fixed or value not in floats or value.is_graph_input():
            continue
        streams.add(value)
        producer = value.producer()
        for node in [*m.users(value), *([] if producer is None else [producer])]:
            if _carries(node, fixed):
                inputs = node.inputs[:1] if node.op_type in _INDICES else node.inputs
                waiting += [*inputs, *node.outputs]
    return streams


def _absorb(graph: ir.Graph, node: ir.Node, reads: bool, writes: bool, exponent: int) -> None:
    """Absorb the units of the inputs and outputs of `node` into its weights and bias."""
    for index, power in ((1, int(reads) - int(writes)), (2, -int(writes))):
        if index < len(node.inputs) and node.inputs[index] is not None and power != 0:
            node.replace_input_with(index, _scaled(graph, node, m.input_of(node, index), 2.0 ** (power * exponent)))


def _scaled(graph: ir.Graph, before: ir.Node, value: ir.Value, factor: float) -> ir.Value:
    tensor = m.weight(value)
    if tensor is None:
        return m.emit(before, "Mul", [value, m.constant(graph, np.array(factor, np.float32))])
    return m.new_weight(
        graph, f"{value.name}.scaled", tensor.shape.numpy(), lambda: m.as_float32(tensor) * np.float32(factor)
    )
