"""A graph in float16, but for the islands of :mod:`graphs.passes.islands`; and what it would give where kernels
round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from ffrt.errors import RequestError
from graphs.passes import ir as m
from graphs.passes.islands import FLOATS, HALF, ISLANDS, MOVES, SINGLE, Typed, dtypes, integers

LARGEST = 65504.0
_SINGLE_INPUTS: Mapping[str, tuple[int, ...]] = {"Resize": (1, 2), "GroupNorm": (1, 2), "SkipGroupNorm": (1, 2)}


def to_half(model: ir.Model, islands: Collection[str] = tuple(ISLANDS), single_outputs: bool = True) -> ir.Model:
    """``model`` in float16, except for ``islands`` and its inputs and outputs. Weights are then float16 without a Cast.

    Without ``single_outputs`` each output has the dtype that it was worked out in: for parts that feed each other.
    A constant beyond float16's range becomes the largest it has, so that a mask stays finite. Raises RequestError for
    an island that is not in :data:`ISLANDS`.
    """
    unknown = sorted(set(islands) - set(ISLANDS))
    if unknown:
        raise RequestError(f"islands: expected some of {list(ISLANDS)}, got {unknown}; leave the others out")
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
            found = writer.seen_as(output, SINGLE)
            if found is not output:
                found.name, output.name = output.name, f"{output.name}.half"
                found.shape, found.type = output.shape, ir.TensorType(SINGLE)
                graph.outputs[index] = found
    return m.tidy(model)


def _spread(g: Typed, single: set[ir.Node]) -> None:
    """Views between float32 nodes stay float32, since they would need a Cast on either side, and so do joined ones."""
    views: set[ir.Node] = set()
    for node in g.graph:
        made = [source for source in g.sources(node) if source.op_type not in ("Cast", "CastLike", "Constant")]
        if node.op_type in MOVES and made and all(source in single or source in views for source in made):
            views.add(node)
    for node in reversed(g.graph):
        ahead = [user for value in node.outputs for user in m.users(value)]
        if node in views and (node.op_type == "Concat" or (ahead and all(user in single for user in ahead))):
            single.add(node)


class _Writer:
    """Gives nodes their dtype, with each Cast made once."""

    def __init__(self, graph: ir.Graph, types: dict[ir.Value, ir.DataType]) -> None:
        self._graph = graph
        self._types = types
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def set(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Let ``node`` compute in ``dtype``."""
        kept = _SINGLE_INPUTS.get(node.op_type, ())
        for index, value in enumerate(node.inputs):
            if value is not None and self._types.get(value) in FLOATS:
                node.replace_input_with(index, self.seen_as(value, SINGLE if index in kept else dtype))
        if node.op_type in ("Constant", "ConstantOfShape"):
            return
        for output in node.outputs:
            if self._types.get(output) in FLOATS:
                self._types[output] = dtype
                if output.type is not None:
                    output.dtype = dtype

    def seen_as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """``value`` in ``dtype``, from where its numbers come: a Cast on the way to it is not gone through."""
        if self._types.get(value) == dtype and value.producer() is None:
            return value
        root = value
        while (node := root.producer()) is not None and node.op_type in ("Cast", "CastLike"):
            root = m.input_of(node, 0)
            if self._types.get(root) not in FLOATS:
                break
        if self._types.get(root) == dtype:
            return root
        if (root, dtype) not in self._made:
            self._made[root, dtype] = self._cast(root, dtype)
        return self._made[root, dtype]

    def _cast(self, root: ir.Value, dtype: ir.DataType) -> ir.Value:
        tensor = root.const_value if root.producer() is None else ir.convenience.get_const_tensor(root)
        if tensor is not None and dtype == HALF and tensor.dtype == SINGLE:
            return self._half_weight(root, tensor)
        cast = _cast_after(self._graph, root, dtype)
        self._types[cast] = dtype
        return cast

    def _half_weight(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        name, shape = f"{value.name}.half", ir.Shape(tensor.shape.numpy())
        made = ir.val(name, dtype=HALF, shape=shape)
        if tensor.nbytes > m.LARGEST_CONSTANT or isinstance(tensor, ir.ExternalTensor | ir.LazyTensor):
            made.const_value = ir.LazyTensor(lambda: _rounded(tensor, name), HALF, shape, name=name)
        else:
            made.const_value = _rounded(tensor, name)
        self._graph.register_initializer(made)
        self._types[made] = HALF
        return made


def _rounded(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    found = m.as_float32(tensor)
    finite = np.where(np.isfinite(found), np.clip(found, -LARGEST, LARGEST), found)
    return ir.tensor(finite.astype(np.float16), name=name)


def emulate_half(model: ir.Model) -> ir.Model:
    """A float16 graph for a provider without float16 kernels: every node in float32, its results rounded to float16.

    ONNX Runtime's CPU provider runs float16 as float32 and rounds nowhere between two nodes, so that nothing overflows
    there and nothing differs. This graph rounds and overflows where a CUDA kernel that sums in float32 does.
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
    """``value`` as ``dtype``, in a place where all its users see it."""
    cast = ir.node("Cast", [value], {"to": dtype})
    producer = value.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), cast)
    else:
        graph.insert_after(producer, cast)
    return cast.outputs[0]
