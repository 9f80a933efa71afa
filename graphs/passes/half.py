"""A graph in float16, except for the islands of `graphs.passes.islands`; and an emulation of its rounding."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from ffrt.errors import RequestError
from graphs.passes import ir as m
from graphs.passes.islands import FLOATS, HALF, ISLANDS, MOVES, SINGLE, Typed, dtypes, integers

LARGEST = 65504.0
"""The largest number of float16."""
_FLOAT32_INPUTS: Mapping[str, tuple[int, ...]] = {"Resize": (1, 2), "GroupNorm": (1, 2), "SkipGroupNorm": (1, 2)}


def to_half(model: ir.Model, islands: Collection[str] = tuple(ISLANDS), single_outputs: bool = True) -> ir.Model:
    """Convert `model` to float16, except for `islands`, inputs and outputs. Weights become float16 without a Cast.

    Without `single_outputs` each output keeps the dtype that it is computed in, for parts that feed each other. A
    constant beyond float16's range becomes the largest number it has, so that masks stay finite. Raises RequestError
    for an island that is not in `ISLANDS`.
    """
    unknown = sorted(set(islands) - set(ISLANDS))
    if unknown:
        raise RequestError(f"islands: expected some of {list(ISLANDS)}, got {unknown}; leave these out")
    model = model.clone()
    graph = model.graph
    facts = Typed(graph, dtypes(graph))
    single = integers(facts)
    for name in islands:
        single |= ISLANDS[name](facts)
    _spread(facts, single)
    writer = _Writer(graph, dict(facts.types))
    for node in list(graph):
        if not (node.op_type in ("Cast", "CastLike") and facts.is_float(node.outputs[0])):
            writer.set(node, SINGLE if node in single else HALF)
    for index, output in enumerate(graph.outputs):
        if single_outputs and facts.types.get(output) == SINGLE:
            wide = writer.cast(output, SINGLE)
            if wide is not output:
                wide.name, output.name = output.name, f"{output.name}.half"
                wide.shape, wide.type = output.shape, ir.TensorType(SINGLE)
                graph.outputs[index] = wide
    return m.tidy(model)


def _spread(g: Typed, single: set[ir.Node]) -> None:
    """Add views between float32 nodes to `single`: they would need a Cast on either side; and Concats of such views."""
    views: set[ir.Node] = set()
    for node in g.graph:
        sources = [source for source in g.sources(node) if source.op_type not in ("Cast", "CastLike", "Constant")]
        if node.op_type in MOVES and sources and all(source in single or source in views for source in sources):
            views.add(node)
    for node in reversed(g.graph):
        users = [user for value in node.outputs for user in m.users(value)]
        if node in views and (node.op_type == "Concat" or (users and all(user in single for user in users))):
            single.add(node)


class _Writer:
    """Sets the dtype of nodes, and inserts every Cast once."""

    def __init__(self, graph: ir.Graph, types: dict[ir.Value, ir.DataType]) -> None:
        self._graph = graph
        self._types = types
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def set(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Make `node` compute in `dtype`."""
        float32 = _FLOAT32_INPUTS.get(node.op_type, ())
        for index, value in enumerate(node.inputs):
            if value is not None and self._types.get(value) in FLOATS:
                node.replace_input_with(index, self.cast(value, SINGLE if index in float32 else dtype))
        if node.op_type in ("Constant", "ConstantOfShape"):
            return
        for output in node.outputs:
            if self._types.get(output) in FLOATS:
                self._types[output] = dtype
                if output.type is not None:
                    output.dtype = dtype

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in `dtype`, cast from the value that its numbers come from, so that casts are not chained."""
        if self._types.get(value) == dtype and value.producer() is None:
            return value
        root = value
        while (node := root.producer()) is not None and node.op_type in ("Cast", "CastLike"):
            root = m.input_of(node, 0)
            if self._types.get(root) not in FLOATS:
                break
        if self._types.get(root) == dtype:
            return root
        if (root, dtype) not in self._casts:
            self._casts[root, dtype] = self._new_cast(root, dtype)
        return self._casts[root, dtype]

    def _new_cast(self, root: ir.Value, dtype: ir.DataType) -> ir.Value:
        tensor = root.const_value if root.producer() is None else ir.convenience.get_const_tensor(root)
        if tensor is not None and dtype == HALF and tensor.dtype == SINGLE:
            return self._half_weight(root, tensor)
        cast = _cast_after(self._graph, root, dtype)
        self._types[cast] = dtype
        return cast

    def _half_weight(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        name, shape = f"{value.name}.half", ir.Shape(tensor.shape.numpy())
        half = ir.val(name, dtype=HALF, shape=shape)
        if tensor.nbytes > m.LARGEST_CONSTANT or isinstance(tensor, ir.ExternalTensor | ir.LazyTensor):
            half.const_value = ir.LazyTensor(lambda: _to_float16(tensor, name), HALF, shape, name=name)
        else:
            half.const_value = _to_float16(tensor, name)
        self._graph.register_initializer(half)
        self._types[half] = HALF
        return half


def _to_float16(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    numbers = m.as_float32(tensor)
    finite = np.where(np.isfinite(numbers), np.clip(numbers, -LARGEST, LARGEST), numbers)
    return ir.tensor(finite.astype(np.float16), name=name)


def emulate_half(model: ir.Model) -> ir.Model:
    """A float16 graph for providers without float16 kernels: nodes compute in float32, results are rounded to float16.

    ONNX Runtime's CPU provider runs float16 graphs in float32 without rounding between nodes, so nothing overflows and
    nothing differs. This graph rounds and overflows where a CUDA kernel that sums in float32 would.
    """
    model = model.clone()
    graph = model.graph
    types = dtypes(graph)
    wide: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type in MOVES or node.op_type in ("Cast", "Constant", "ConstantOfShape"):
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and types.get(value) == HALF:
                if value not in wide:
                    wide[value] = _cast_after(graph, value, SINGLE)
                node.replace_input_with(index, wide[value])
        for value in node.outputs:
            if types.get(value) == HALF:
                users = list(value.uses())
                narrow = _cast_after(graph, value, HALF)
                for user, index in users:
                    user.replace_input_with(index, narrow)
                for place, output in enumerate(graph.outputs):
                    if output is value:
                        narrow.name, value.name = value.name, f"{value.name}.wide"
                        narrow.shape, narrow.type = value.shape, ir.TensorType(HALF)
                        graph.outputs[place] = narrow
                types[narrow] = HALF
                if value.type is not None:
                    value.dtype = SINGLE
    return model


def _cast_after(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Cast `value` to `dtype`, in front of all its users."""
    cast = ir.node("Cast", [value], {"to": dtype})
    producer = value.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), cast)
    else:
        graph.insert_after(producer, cast)
    return cast.outputs[0]
