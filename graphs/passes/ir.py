"""Queries and edits of a graph, shared by all passes, which import this file as `m` (`ir` is onnx_ir).

A pass is a pure function Model -> Model: it works on a copy and leaves alone what it does not recognise. Weights stay
on disk: a pass that needs new ones makes an `onnx_ir.LazyTensor`, whose numbers are computed when they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)

LARGEST_CONSTANT = 1 << 16
"""Bytes up to which a constant stays in the graph file; larger ones go to the weights file."""
_MAX_COMPARED = 64
"""Elements up to which constants are compared in order to merge equal ones."""
_SAME = ("Cast", "CastLike", "Identity")
"""Operators that queries look through."""

Float32Array = NDArray[np.float32]


def tidy(model: ir.Model) -> ir.Model:
    """Remove unused nodes and weights, and merge equal nodes and small constants; changes `model` and returns it."""
    DeduplicateInitializersPass(size_limit=_MAX_COMPARED)(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    return model


def find_producer(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that produces `value`, if it is one of `ops`; casts and copies in between are skipped."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _SAME and node.op_type not in ops:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return node if node is not None and node.op_type in ops else None


def input_of(node: ir.Node, index: int) -> ir.Value:
    """Input `index` of `node`, which must have it."""
    value = node.inputs[index]
    assert value is not None
    return value


def permutation(node: ir.Node) -> tuple[int, ...]:
    """The axis order of a Transpose; empty if it is not given."""
    return tuple(node.attributes.get_ints("perm", ()))


def users(value: ir.Value) -> list[ir.Node]:
    """The nodes that use `value`, each once. A graph output has one more user, which is not listed here."""
    return list(dict.fromkeys(node for node, _ in value.uses()))


def only_user(value: ir.Value, *ops: str) -> ir.Node | None:
    """The only node that uses `value`, if it is one of `ops`; None if there are several, or it is a graph output."""
    nodes = users(value)
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type in ops and not value.is_graph_output() else None


def weight(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a weight or constant, also behind casts; None if `value` depends on an input."""
    while value is not None:
        node = value.producer()
        if node is None:
            return value.const_value
        if node.op_type == "Constant":
            return ir.convenience.get_const_tensor(value)
        if node.op_type not in _SAME:
            return None
        value = node.inputs[0]
    return None


def as_float32(tensor: ir.TensorProtocol) -> Float32Array:
    """The elements of a tensor as float32."""
    return np.asarray(tensor.numpy()).astype(np.float32)


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds; None for any other value."""
    tensor = weight(value)
    return float(as_float32(tensor).reshape(())) if tensor is not None and tensor.size == 1 else None


def is_large(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor goes to the weights file: one that was stored, one that a pass created, or a large constant."""
    return isinstance(tensor, ir.ExternalTensor | ir.LazyTensor) or tensor.nbytes > LARGEST_CONSTANT


def new_weight(graph: ir.Graph, name: str, shape: Sequence[int], compute: Callable[[], Float32Array]) -> ir.Value:
    """A new float32 weight of `shape`; `compute` is called when the weight is written."""
    number, unique = 0, name
    while unique in graph.initializers:
        number += 1
        unique = f"{name}.{number}"
    value = ir.val(unique, dtype=ir.DataType.FLOAT, shape=shape)

    def evaluate() -> ir.TensorProtocol:
        array = compute()
        assert array.shape == tuple(shape), f"{unique}: expected shape {tuple(shape)}, got {array.shape}"
        return ir.tensor(np.ascontiguousarray(array, np.float32), name=unique)

    value.const_value = ir.LazyTensor(evaluate, ir.DataType.FLOAT, ir.Shape(shape), name=unique)
    graph.register_initializer(value)
    return value


def constant(graph: ir.Graph, array: NDArray[np.generic]) -> ir.Value:
    """A small constant; equal ones are created once."""
    content = f"{array.dtype.name} {array.shape}".encode() + array.tobytes()
    name = f"constant.{hashlib.sha256(content).hexdigest()[:16]}"
    if name not in graph.initializers:
        value = ir.val(name, dtype=ir.DataType.from_numpy(array.dtype), shape=array.shape)
        value.const_value = ir.tensor(array, name=name)
        graph.register_initializer(value)
    return graph.initializers[name]


def emit(
    before: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, object] | None = None,
    domain: str = "",
    num_outputs: int = 1,
) -> ir.Value:
    """Insert a new node in front of `before` and return its first output."""
    node = ir.node(op, inputs, attributes, domain=domain, num_outputs=num_outputs)  # type: ignore[arg-type]
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return node.outputs[0]


def replace(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Make every user of `old`, the graph's outputs included, use `new`."""
    for index, output in enumerate(graph.outputs):
        if output is old:
            new.name, old.name = old.name, None
            new.shape, new.type = old.shape, old.type
            graph.outputs[index] = new
    old.replace_all_uses_with(new)


def nodes_of(model: ir.Model, *ops: str) -> Iterator[ir.Node]:
    """Every node that is one of `ops`, in order; the graph may be changed during the iteration."""
    return iter([node for node in model.graph if node.op_type in ops])
