"""A graph in float16, with the places where float16 is not enough kept in float32: islands, each with a name.

What float16 lacks is range: 65504 is its largest number, 6e-8 its smallest. So the islands are where numbers are
squared, summed over many, or handed to exp: see :data:`ISLANDS`. A kernel that takes float16 and sums in float32 inside
(convolutions, matrix products, InstanceNormalization and fused attention on CUDA) needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ffrt.errors import RequestError
from graphs import model as m

HALF, SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
LARGEST = 65504.0
_FLOATS = (HALF, SINGLE)
_MOVES = frozenset({
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Gather", "GatherND", "Expand", "Tile",
    "Identity", "Flatten", "Pad",
})  # fmt: skip
_POINTWISE = frozenset({
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Where", "Sigmoid", "Tanh", "Erf", "Gelu", "Exp", "Log",
    "Abs", "Neg", "Clip", "Min", "Max", "Relu", "Floor", "Ceil", "Round", "Cos", "Sin", "Sum", "QuickGelu", "Cast",
})  # fmt: skip
_REDUCE = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"})
_LAYER_NORM = frozenset({
    "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
})  # fmt: skip
_COMPARE = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "IsInf", "IsNaN"})
_LINEAR = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "NhwcConv", "FusedMatMul", "MatMulNBits"})
_ALWAYS_SINGLE = frozenset({"Range", "CumSum", "QuantizeLinear", "DequantizeLinear"})
_SINGLE_INPUTS: Mapping[str, tuple[int, ...]] = {"Resize": (1, 2), "GroupNorm": (1, 2), "SkipGroupNorm": (1, 2)}
_INTEGER_RESULT = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero"})
_BOOL_RESULT = frozenset({"Not", "And", "Or", "Xor", *_COMPARE})


@dataclass(frozen=True)
class _Graph:
    """The graph with the dtype of every value."""

    graph: ir.Graph
    types: Mapping[ir.Value, ir.DataType]

    def is_float(self, value: ir.Value | None) -> bool:
        return value is not None and self.types.get(value) in _FLOATS

    def sources(self, node: ir.Node) -> Iterator[ir.Node]:
        """The nodes that make the float inputs of ``node``."""
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and self.is_float(value):
                yield producer

    def closure(self, start: Iterable[ir.Node], through: frozenset[str], to: frozenset[str]) -> set[ir.Node]:
        """Where the numbers of ``start`` come from: back through ``through``, with the nodes ``to`` where it ends."""
        found: set[ir.Node] = set()
        ahead = [source for node in start for source in self.sources(node)]
        while ahead:
            node = ahead.pop()
            if node in found or node.op_type not in through | to:
                continue
            found.add(node)
            if node.op_type not in to:
                ahead += self.sources(node)
        return found


def dtypes(graph: ir.Graph) -> dict[ir.Value, ir.DataType]:
    """The dtype of every value, worked out from inputs, weights and operators; graphs need not say them."""
    known = {value: value.dtype for value in graph.inputs if value.dtype is not None}
    for value in graph.initializers.values():
        if value.const_value is not None:
            known[value] = value.const_value.dtype
    for node in graph:
        for output in node.outputs:
            made = _result(node, known)
            if made is not None:
                known[output] = made
    return known


def _result(node: ir.Node, known: Mapping[ir.Value, ir.DataType]) -> ir.DataType | None:
    def of(index: int) -> ir.DataType | None:
        value = node.inputs[index]
        return None if value is None else known.get(value)

    if node.op_type in _INTEGER_RESULT:
        return ir.DataType.INT64
    if node.op_type in _BOOL_RESULT:
        return ir.DataType.BOOL
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int())
    if node.op_type == "Constant":
        tensor = ir.convenience.get_const_tensor(node.outputs[0])
        return None if tensor is None else tensor.dtype
    if node.op_type == "ConstantOfShape":
        return node.attributes["value"].as_tensor().dtype if "value" in node.attributes else SINGLE
    return of(1) if node.op_type in ("CastLike", "Where") else of(0) if node.inputs else None


def _times(g: _Graph) -> set[ir.Node]:
    """Sinusoids, with all that leads to their phase: a step of 1000 has no place after the point in float16."""
    waves = [node for node in g.graph if node.op_type in ("Sin", "Cos")]
    return set(waves) | g.closure(waves, _MOVES | _POINTWISE | _LINEAR | _REDUCE | _ALWAYS_SINGLE, frozenset())


def _modulation(g: _Graph) -> set[ir.Node]:
    """Linear layers on the time embedding, and all before them: their sums cancel, and every norm multiplies by them.

    In the demo's interpolation network they cause nine tenths of what float16 changes.
    """
    timed = _after(g, ("Sin", "Cos"))
    spatial = _after(g, ("Conv", "ConvTranspose", "NhwcConv"))
    ends = [node for node in timed - spatial if node.op_type in ("Gemm", "MatMul")]
    return set(ends) | g.closure(ends, _MOVES | _POINTWISE | _REDUCE | _LINEAR | {"Softmax"}, frozenset())


def _after(g: _Graph, ops: Collection[str]) -> set[ir.Node]:
    """The nodes ``ops`` and all that use their numbers."""
    found: set[ir.Node] = set()
    for node in g.graph:
        if node.op_type in ops or not found.isdisjoint(g.sources(node)):
            found.add(node)
    return found


def _statistics(g: _Graph) -> set[ir.Node]:
    """Means and squares that are written out, up to where they normalise; layer norms."""
    found = {node for node in g.graph if node.op_type in _LAYER_NORM}
    made: set[ir.Value] = set()  # a statistic
    seen: set[ir.Value] = set()  # what it was made of, and what it has normalised
    for node in g.graph:
        if node.op_type in _REDUCE and g.is_float(node.outputs[0]):
            before = {node, *_squares(node)}
            found |= before
            made.add(node.outputs[0])
            before |= g.closure(before, _MOVES, frozenset())
            seen |= {v for each in before for v in each.inputs if g.is_float(v) and m.weight(v) is None and v}
    for node in g.graph:
        floats = {value for value in node.inputs if g.is_float(value)}
        if node.op_type in _POINTWISE | _MOVES and floats & made:
            found.add(node)
            (seen if floats & seen else made).update(node.outputs)
        elif node.op_type in _MOVES and floats & seen:
            seen |= set(node.outputs)
    return found


def _squares(node: ir.Node) -> Iterator[ir.Node]:
    """The square that ``node`` reduces, and the difference from the mean that it is of."""
    for op in (("Pow", "Mul"), ("Sub",)):
        before = m.source(node.inputs[0], *op)
        if before is None:
            return
        yield before
        node = before


def _scores(g: _Graph) -> set[ir.Node]:
    """A softmax that is written out, with the masks and the matrix product that lead to it."""
    softmax = [node for node in g.graph if node.op_type in ("Softmax", "LogSoftmax")]
    return set(softmax) | g.closure(softmax, _POINTWISE | _MOVES, frozenset({"MatMul", "Gemm", "FusedMatMul"}))


def _residual(g: _Graph) -> set[ir.Node]:
    """The stream that T5 adds to, which its norm never centres, and the products that write to it (wo, o)."""
    ends = [node for node in g.graph if node.op_type in ("RMSNormalization", "SimplifiedLayerNormalization")]
    for node in g.graph:
        square = m.source(node.inputs[0], "Pow", "Mul") if node.op_type == "ReduceMean" else None
        if square is not None and _is_square(square) and m.source(square.inputs[0], "Sub") is None:
            stream = m.taken(square, 0)
            if not any(user.op_type == "ReduceMean" for user in m.users(stream)):
                ends.append(square)
    stream_nodes = g.closure(ends, _POINTWISE | _MOVES, _LINEAR)
    writers = [node for node in stream_nodes if node.op_type in _LINEAR]
    return stream_nodes | g.closure(writers, _POINTWISE | _MOVES, frozenset())


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    return m.scalar(node.inputs[1]) == 2.0


def _output(g: _Graph) -> set[ir.Node]:
    """What makes the graph's outputs, back to the last matrix product or convolution."""
    last = [node for value in g.graph.outputs if (node := value.producer()) is not None]
    return set(last) | g.closure(
        [node for node in last if node.op_type not in _LINEAR], _POINTWISE | _MOVES, _LINEAR | _LAYER_NORM
    )


ISLANDS: Mapping[str, Callable[[_Graph], set[ir.Node]]] = {
    "time": _times,
    "modulation": _modulation,
    "statistics": _statistics,
    "scores": _scores,
    "residual": _residual,
    "output": _output,
}
"""The nodes that each island keeps in float32."""


def to_half(model: ir.Model, islands: Collection[str] = tuple(ISLANDS)) -> ir.Model:
    """``model`` in float16, except for ``islands`` and its inputs and outputs. Weights are then float16 without a Cast.

    A constant beyond float16's range becomes the largest it has, so that a mask stays finite. Raises RequestError for
    an island that is not in :data:`ISLANDS`.
    """
    unknown = sorted(set(islands) - set(ISLANDS))
    if unknown:
        raise RequestError(f"islands: expected some of {list(ISLANDS)}, got {unknown}; leave the others out")
    model = model.clone()
    graph = model.graph
    facts = _Graph(graph, dtypes(graph))
    single = _integers(facts)
    for name in islands:
        single |= ISLANDS[name](facts)
    _spread(facts, single)
    writer = _Writer(graph, dict(facts.types))
    for node in list(graph):
        if not (node.op_type in ("Cast", "CastLike") and facts.is_float(node.outputs[0])):
            writer.set(node, SINGLE if node in single else HALF)
    for index, output in enumerate(graph.outputs):
        if facts.types.get(output) == SINGLE:
            found = writer.seen_as(output, SINGLE)
            if found is not output:
                found.name, output.name = output.name, f"{output.name}.half"
                found.shape, found.type = output.shape, ir.TensorType(SINGLE)
                graph.outputs[index] = found
    return m.tidy(model)


def _integers(g: _Graph) -> set[ir.Node]:
    """What becomes an integer or a choice, which a rounding would change, and what has no float16 kernel."""
    ends = [node for node in g.graph if node.op_type in _COMPARE or _to_integer(node, g)]
    found = {node for node in g.graph if node.op_type in _ALWAYS_SINGLE}
    return found | set(ends) | g.closure(ends, _POINTWISE | _MOVES | _ALWAYS_SINGLE, frozenset())


def _to_integer(node: ir.Node, g: _Graph) -> bool:
    return node.op_type == "Cast" and g.is_float(node.inputs[0]) and not g.is_float(node.outputs[0])


def _spread(g: _Graph, single: set[ir.Node]) -> None:
    """Views between float32 nodes stay float32: they would need a Cast on either side."""
    views: set[ir.Node] = set()
    for node in g.graph:
        made = [source for source in g.sources(node) if source.op_type not in ("Cast", "CastLike", "Constant")]
        if node.op_type in _MOVES and made and all(source in single or source in views for source in made):
            views.add(node)
    for node in reversed(g.graph):
        ahead = [user for value in node.outputs for user in m.users(value)]
        if node in views and ahead and all(user in single for user in ahead):
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
            if value is not None and self._types.get(value) in _FLOATS:
                node.replace_input_with(index, self.seen_as(value, SINGLE if index in kept else dtype))
        if node.op_type in ("Constant", "ConstantOfShape"):
            return
        for output in node.outputs:
            if self._types.get(output) in _FLOATS:
                self._types[output] = dtype
                if output.type is not None:
                    output.dtype = dtype

    def seen_as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """``value`` in ``dtype``, from where its numbers come: a Cast on the way to it is not gone through."""
        if self._types.get(value) == dtype and value.producer() is None:
            return value
        root = value
        while (node := root.producer()) is not None and node.op_type in ("Cast", "CastLike"):
            root = m.taken(node, 0)
            if self._types.get(root) not in _FLOATS:
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
        name = f"{value.name}.half"
        made = ir.val(name, dtype=HALF, shape=tensor.shape)
        if tensor.nbytes > m.LARGEST_CONSTANT or isinstance(tensor, ir.ExternalTensor | ir.LazyTensor):
            made.const_value = ir.LazyTensor(lambda: _rounded(tensor, name), HALF, tensor.shape, name=name)
        else:
            made.const_value = _rounded(tensor, name)
        self._graph.register_initializer(made)
        self._types[made] = HALF
        return made


def _rounded(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    found = m.numbers(tensor)
    finite = np.where(np.isfinite(found), np.clip(found, -LARGEST, LARGEST), found)
    return ir.tensor(finite.astype(np.float16), name=name)


def rounded(model: ir.Model) -> ir.Model:
    """A float16 graph for a provider without float16 kernels: every node in float32, its results rounded to float16.

    ONNX Runtime's CPU provider runs float16 as float32 and rounds nowhere between two nodes, so that nothing overflows
    there and nothing differs. This graph rounds and overflows where a CUDA kernel that sums in float32 does.
    """
    model = model.clone()
    graph = model.graph
    types = dtypes(graph)
    wide: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type in _MOVES or node.op_type in ("Cast", "Constant", "ConstantOfShape"):
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
