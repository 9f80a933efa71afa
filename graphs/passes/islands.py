"""Where float16 is not enough: the nodes of a graph that compute in float32, as islands with a name.

What float16 lacks is range and digits: 65504 is its largest number, 6e-8 its smallest, 2048 the last whole number that
has a neighbour. So the islands are where numbers are squared, summed over many, handed to exp or to a sine. A kernel
that takes float16 and sums in float32 inside (convolutions, matrix products, InstanceNormalization and fused attention
on CUDA) needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ffrt.families import DEEP
from graphs.passes import ir as m

HALF, SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT
FLOATS = (HALF, SINGLE)
MOVES = frozenset(
    {
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Split",
        "Concat",
        "Gather",
        "GatherND",
        "Expand",
        "Tile",
        "Identity",
        "Flatten",
        "Pad",
    }
)
_POINTWISE = frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Sqrt",
        "Reciprocal",
        "Where",
        "Sigmoid",
        "Tanh",
        "Erf",
        "Gelu",
        "Exp",
        "Log",
        "Abs",
        "Neg",
        "Clip",
        "Min",
        "Max",
        "Relu",
        "Floor",
        "Ceil",
        "Round",
        "Cos",
        "Sin",
        "Sum",
        "QuickGelu",
        "Cast",
    }
)
_REDUCE = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2"})
_LAYER_NORM = frozenset(
    {
        "LayerNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
_COMPARE = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "IsInf", "IsNaN"})
_LINEAR = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "NhwcConv", "FusedMatMul", "MatMulNBits"})
_ALWAYS_SINGLE = frozenset({"Range", "CumSum", "QuantizeLinear", "DequantizeLinear"})
_INTEGER_RESULT = frozenset({"Shape", "Size", "ArgMax", "ArgMin", "NonZero"})
_BOOL_RESULT = frozenset({"Not", "And", "Or", "Xor", *_COMPARE})


@dataclass(frozen=True)
class Typed:
    """The graph with the dtype of every value."""

    graph: ir.Graph
    types: Mapping[ir.Value, ir.DataType]

    def is_float(self, value: ir.Value | None) -> bool:
        return value is not None and self.types.get(value) in FLOATS

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


def _times(g: Typed) -> set[ir.Node]:
    """Sinusoids, with all that leads to their phase: a step of 1000 has no place after the point in float16."""
    waves = [node for node in g.graph if node.op_type in ("Sin", "Cos")]
    return set(waves) | g.closure(waves, MOVES | _POINTWISE | _LINEAR | _REDUCE | _ALWAYS_SINGLE, frozenset())


def _modulation(g: Typed) -> set[ir.Node]:
    """Linear layers on the time embedding, and all before them: their sums cancel, and every norm multiplies by them.

    In the demo's interpolation network they cause nine tenths of what float16 changes.
    """
    timed = _after(g, ("Sin", "Cos"))
    spatial = _after(g, ("Conv", "ConvTranspose", "NhwcConv"))
    ends = [node for node in timed - spatial if node.op_type in ("Gemm", "MatMul")]
    return set(ends) | g.closure(ends, MOVES | _POINTWISE | _REDUCE | _LINEAR | {"Softmax"}, frozenset())


def _after(g: Typed, ops: Collection[str]) -> set[ir.Node]:
    """The nodes ``ops`` and all that use their numbers."""
    found: set[ir.Node] = set()
    for node in g.graph:
        if node.op_type in ops or not found.isdisjoint(g.sources(node)):
            found.add(node)
    return found


def _statistics(g: Typed) -> set[ir.Node]:
    """Means and squares that are written out, up to where they normalise; layer norms."""
    found = {node for node in g.graph if node.op_type in _LAYER_NORM}
    made: set[ir.Value] = set()  # a statistic
    seen: set[ir.Value] = set()  # what it was made of, and what it has normalised
    for node in g.graph:
        if node.op_type in _REDUCE and g.is_float(node.outputs[0]):
            before = {node, *_squares(node)}
            found |= before
            made.add(node.outputs[0])
            before |= g.closure(before, MOVES, frozenset())
            seen |= {v for each in before for v in each.inputs if g.is_float(v) and m.weight(v) is None and v}
    for node in g.graph:
        floats = {value for value in node.inputs if g.is_float(value)}
        if node.op_type in _POINTWISE | MOVES and floats & made:
            found.add(node)
            (seen if floats & seen else made).update(node.outputs)
        elif node.op_type in MOVES and floats & seen:
            seen |= set(node.outputs)
    return found


def _squares(node: ir.Node) -> Iterator[ir.Node]:
    """The square that ``node`` reduces, and the difference from the mean that it is of."""
    for op in (("Pow", "Mul"), ("Sub",)):
        before = m.find_producer(node.inputs[0], *op)
        if before is None:
            return
        yield before
        node = before


def _scores(g: Typed) -> set[ir.Node]:
    """A softmax that is written out, with the masks and the matrix product that lead to it."""
    softmax = [node for node in g.graph if node.op_type in ("Softmax", "LogSoftmax")]
    return set(softmax) | g.closure(softmax, _POINTWISE | MOVES, frozenset({"MatMul", "Gemm", "FusedMatMul"}))


def _residual(g: Typed) -> set[ir.Node]:
    """The stream that T5 adds to, which its norm never centres, and the products that write to it (wo, o)."""
    ends = [node for node in g.graph if node.op_type in ("RMSNormalization", "SimplifiedLayerNormalization")]
    for node in g.graph:
        square = m.find_producer(node.inputs[0], "Pow", "Mul") if node.op_type == "ReduceMean" else None
        if square is not None and _is_square(square) and m.find_producer(square.inputs[0], "Sub") is None:
            stream = m.input_of(square, 0)
            if not any(user.op_type == "ReduceMean" for user in m.users(stream)):
                ends.append(square)
    stream_nodes = g.closure(ends, _POINTWISE | MOVES, _LINEAR)
    writers = [node for node in stream_nodes if node.op_type in _LINEAR]
    return stream_nodes | g.closure(writers, _POINTWISE | MOVES, frozenset())


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    return m.scalar(node.inputs[1]) == 2.0


def _output(g: Typed) -> set[ir.Node]:
    """What makes the graph's outputs, back to the last matrix product or convolution; not the deep features that step
    caching hands on, which are in the middle of the network.
    """
    shown = [value for value in g.graph.outputs if value.name != DEEP]
    last = [node for value in shown if (node := value.producer()) is not None]
    return set(last) | g.closure(
        [node for node in last if node.op_type not in _LINEAR], _POINTWISE | MOVES, _LINEAR | _LAYER_NORM
    )


ISLANDS: Mapping[str, Callable[[Typed], set[ir.Node]]] = {
    "time": _times,
    "modulation": _modulation,
    "statistics": _statistics,
    "scores": _scores,
    "residual": _residual,
    "output": _output,
}
"""The nodes that each island keeps in float32."""


def integers(g: Typed) -> set[ir.Node]:
    """What becomes an integer or a choice, which a rounding would change, and what has no float16 kernel."""
    ends = [node for node in g.graph if node.op_type in _COMPARE or _to_integer(node, g)]
    found = {node for node in g.graph if node.op_type in _ALWAYS_SINGLE}
    return found | set(ends) | g.closure(ends, _POINTWISE | MOVES | _ALWAYS_SINGLE, frozenset())


def _to_integer(node: ir.Node, g: Typed) -> bool:
    return node.op_type == "Cast" and g.is_float(node.inputs[0]) and not g.is_float(node.outputs[0])
