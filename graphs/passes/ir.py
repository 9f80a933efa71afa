"""A graph as the passes see it, from a bundle and back to one.

A pass is a pure function Model -> Model: it works on a copy and leaves what it does not know alone. Weights stay on
disk: a pass that needs others makes a :class:`onnx_ir.LazyTensor`, whose numbers are worked out when they are written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)

from ffrt.bundle import Bundle, FileSpec, GraphSpec, Optimised, list_files, write_manifest
from ffrt.errors import BundleError

LARGEST_CONSTANT = 1 << 16
"""Bytes of a constant that a graph file keeps; what is larger lies in the weights' file."""
_CODES = {
    ir.DataType.FLOAT16: "F16",
    ir.DataType.FLOAT: "F32",
    ir.DataType.INT64: "I64",
    ir.DataType.INT32: "I32",
    ir.DataType.INT8: "I8",
    ir.DataType.UINT8: "U8",
    ir.DataType.BOOL: "BOOL",
}
_FEW = 64
"""Numbers up to which two constants are compared."""
_SAME = ("Cast", "CastLike", "Identity")

Numbers = NDArray[np.float32]


def open_graph(path: Path) -> ir.Model:
    """The ONNX file with its weights left where they are. Raises OSError, and BundleError for what is no graph."""
    try:
        return ir.load(path)
    except OSError:
        raise
    except Exception as error:  # protobuf's own, or onnx_ir's
        raise BundleError(f"{path} is no ONNX graph ({error}); get the bundle again") from error


def write_graph(model: ir.Model, path: Path, half: bool) -> None:
    """Write ``path`` (NAME.onnx) and NAME.safetensors with every weight it uses, one tensor in memory at a time.

    With ``half`` float32 weights that a pass made are stored as float16 behind a Cast, as exported ones are.
    """
    model = model.clone()
    graph = model.graph
    if half:
        for value in list(graph.initializers.values()):
            if isinstance(value.const_value, ir.LazyTensor) and value.const_value.dtype == ir.DataType.FLOAT:
                _store_half(graph, value)
    large = [v for v in graph.initializers.values() if v.const_value is not None and _is_large(v.const_value)]
    large.sort(key=lambda v: -_tensor(v).dtype.itemsize)  # wider numbers first, so that each lies aligned
    layout: dict[str, object] = {}
    at = 0
    for value in large:
        tensor = _tensor(value)
        ends = [at, at + tensor.nbytes]
        layout[_name(value)] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape.numpy()),
            "data_offsets": ends,
        }
        at += tensor.nbytes
    header = json.dumps(layout, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    weights = path.with_suffix(".safetensors")
    with weights.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for value in large:
            tensor = _tensor(value)
            offset = file.tell()
            file.write(tensor.tobytes())
            if isinstance(tensor, ir.ExternalTensor):
                tensor.release()  # its mapping
            value.const_value = ir.ExternalTensor(
                weights.name,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=_shape(tensor),
                name=_name(value),
                base_dir=path.parent,
            )
    ir.save(model, path)


def check_place(out: Path) -> None:
    """Raise BundleError where ``out`` is there already: nothing is written over."""
    if out.exists():
        raise BundleError(f"{out} exists; remove it, or give another folder")


def write_like(
    bundle: Bundle,
    folder: Path,
    graphs: Mapping[str, GraphSpec],
    known: Mapping[str, FileSpec] | None,
    optimised: Optimised | None = None,
) -> Bundle:
    """Write the manifest of ``folder``, which holds ``bundle`` with other graphs; ``known`` as for list_files."""
    files = list_files(folder, {} if known is None else known)
    manifest = dataclasses.replace(bundle.manifest, graphs=graphs, files=files, optimised=optimised)
    return write_manifest(folder, manifest, verify=known is None)


def _store_half(graph: ir.Graph, value: ir.Value) -> None:
    """Put a Cast behind float32 ``value``, whose numbers are then stored as float16."""
    tensor = _tensor(value)
    stored = ir.val(f"{value.name}.stored", dtype=ir.DataType.FLOAT16, shape=_shape(tensor))
    stored.const_value = ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(np.float16)), ir.DataType.FLOAT16, _shape(tensor), name=stored.name
    )
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
    value.replace_all_uses_with(cast.outputs[0])
    first = next(iter(graph))
    graph.insert_before(first, cast)
    graph.initializers.pop(_name(value))
    graph.register_initializer(stored)


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def _is_large(tensor: ir.TensorProtocol) -> bool:
    """Whether it is a weight: one that was stored, one that a pass made, or a constant of some size."""
    return isinstance(tensor, ir.ExternalTensor | ir.LazyTensor) or tensor.nbytes > LARGEST_CONSTANT


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


def tidy(model: ir.Model) -> ir.Model:
    """Without nodes and weights that nothing uses, and with every node and small constant once."""
    DeduplicateInitializersPass(size_limit=_FEW)(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    return model


def source(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that makes ``value``, if it is one of ``ops``; casts and copies in between are looked through."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _SAME and node.op_type not in ops:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return node if node is not None and node.op_type in ops else None


def taken(node: ir.Node, index: int) -> ir.Value:
    """Input ``index`` of ``node``, which must be there."""
    value = node.inputs[index]
    assert value is not None
    return value


def perm(node: ir.Node) -> tuple[int, ...]:
    """How a Transpose orders its axes, none where it does not say."""
    return tuple(node.attributes.get_ints("perm", ()))


def users(value: ir.Value) -> list[ir.Node]:
    """The nodes that use ``value``, each once; an output of the graph has a user more than it shows."""
    return list(dict.fromkeys(node for node, _ in value.uses()))


def only_user(value: ir.Value, *ops: str) -> ir.Node | None:
    """The one node that uses ``value``, if it is one of ``ops``."""
    found = users(value)
    return found[0] if len(found) == 1 and found[0].op_type in ops and not value.is_graph_output() else None


def weight(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The numbers of a weight or constant, looked up through casts; None where ``value`` depends on an input."""
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


def numbers(tensor: ir.TensorProtocol) -> Numbers:
    """Its values as float32."""
    return np.asarray(tensor.numpy()).astype(np.float32)


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds."""
    tensor = weight(value)
    return float(numbers(tensor).reshape(())) if tensor is not None and tensor.size == 1 else None


def new_weight(graph: ir.Graph, name: str, shape: Sequence[int], compute: Callable[[], Numbers]) -> ir.Value:
    """A float32 weight of ``shape`` whose numbers ``compute`` gives when they are asked for."""
    number, unique = 0, name
    while unique in graph.initializers:
        number += 1
        unique = f"{name}.{number}"
    value = ir.val(unique, dtype=ir.DataType.FLOAT, shape=shape)

    def made() -> ir.TensorProtocol:
        found = compute()
        assert found.shape == tuple(shape), f"{unique}: {found.shape} for {tuple(shape)}"
        return ir.tensor(np.ascontiguousarray(found, np.float32), name=unique)

    value.const_value = ir.LazyTensor(made, ir.DataType.FLOAT, ir.Shape(shape), name=unique)
    graph.register_initializer(value)
    return value


def constant(graph: ir.Graph, array: NDArray[np.generic]) -> ir.Value:
    """A small constant, shared by all that ask for the same."""
    told = f"{array.dtype.name} {array.shape}".encode() + array.tobytes()
    name = f"constant.{hashlib.sha256(told).hexdigest()[:16]}"
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
    """A new node in front of ``before``; its first output."""
    node = ir.node(op, inputs, attributes, domain=domain, num_outputs=num_outputs)  # type: ignore[arg-type]
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return node.outputs[0]


def replace(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let all that used ``old``, an output of the graph included, use ``new``."""
    for index, output in enumerate(graph.outputs):
        if output is old:
            new.name, old.name = old.name, None
            new.shape, new.type = old.shape, old.type
            graph.outputs[index] = new
    old.replace_all_uses_with(new)


def parameters(model: ir.Model) -> int:
    """Numbers in the weights that the graph uses."""
    kept = (v for v in model.graph.initializers.values() if v.uses() and v.const_value is not None)
    return sum(math.prod(_tensor(v).shape.numpy()) for v in kept if _is_large(_tensor(v)))


def nodes_of(model: ir.Model, *ops: str) -> Iterator[ir.Node]:
    """Every node that is one of ``ops``, in order; the graph may be changed meanwhile."""
    return iter([node for node in model.graph if node.op_type in ops])
