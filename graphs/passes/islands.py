"""Where float16 is not enough: the nodes of a graph that compute in float32, as islands with a name.

Float16 lacks range and digits: 65504 is its largest number, 6e-8 its smallest, and above 2048 not even whole numbers
are exact. So islands are where numbers are squared, summed over many, or passed to exp or a sine. Kernels that take
float16 and sum in float32 inside (convolutions, matrix products, InstanceNormalization and fused attention on CUDA)
need none.
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
    """A graph with the dtype of every value."""

    graph: ir.Graph
    types: Mapping[ir.Value, ir.DataType]

    def is_float(self, value: ir.Value | None) -> bool:
        """Whether `value` is float16 or float32."""
        return value is not None and self.types.get(value) in FLOATS

    def sources(self, node: ir.Node) -> Iterator[ir.Node]:
        """The nodes that produce the float inputs of `node`."""
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and self.is_float(value):
                yield producer

    def closure(self, start: Iterable[ir.Node], through: frozenset[str], to: frozenset[str]) -> set[ir.Node]:
        """The nodes that the inputs of `start` come from: back through operators `through`, ending with `to`."""
        nodes: set[ir.Node] = set()
        waiting = [source for node in start for source in self.sources(node)]
        while waiting:
            node = waiting.pop()
            if node in nodes or node.op_type not in through | to:
                continue
            nodes.add(node)
            if node.op_type not in to:
                waiting += self.sources(node)
        return nodes


def dtypes(graph: ir.Graph) -> dict[ir.Value, ir.DataType]:
    """The dtype of every value, inferred from inputs, weights and operators; graphs need not state them."""
    known = {value: value.dtype for value in graph.inputs if value.dtype is not None}
    for value in graph.initializers.values():
        if value.const_value is not None:
            known[value] = value.const_value.dtype
    for node in graph:
        for output in node.outputs:
            dtype = _result(node, known)
            if dtype is not None:
                known[output] = dtype
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
    """Sinusoids and everything that leads to their phase: at 1000, float16 has no digit after the point."""
    waves = [node for node in g.graph if node.op_type in ("Sin", "Cos")]
    return set(waves) | g.closure(waves, MOVES | _POINTWISE | _LINEAR | _REDUCE | _ALWAYS_SINGLE, frozenset())


def _modulation(g: Typed) -> set[ir.Node]:
    """Linear layers on the time embedding and all before them: their sums cancel, and every norm multiplies by them.

    In the demo's interpolation network they cause nine tenths of the error of float16.
    """
    timed = _dependents(g, ("Sin", "Cos"))
    spatial = _dependents(g, ("Conv", "ConvTranspose", "NhwcConv"))
    ends = [node for node in timed - spatial if node.op_type in ("Gemm", "MatMul")]
    return set(ends) | g.closure(ends, MOVES | _POINTWISE | _REDUCE | _LINEAR | {"Softmax"}, frozenset())


def _dependents(g: Typed, ops: Collection[str]) -> set[ir.Node]:
    """The nodes that are one of `ops`, and all that depend on their results."""
    nodes: set[ir.Node] = set()
    for node in g.graph:
        if node.op_type in ops or not nodes.isdisjoint(g.sources(node)):
            nodes.add(node)
    return nodes


def _statistics(g: Typed) -> set[ir.Node]:
    """Means and squares in plain operators, up to where they normalise; layer norms."""
    nodes = {node for node in g.graph if node.op_type in _LAYER_NORM}
    statistics: set[ir.Value] = set()
    normalised: set[ir.Value] = set()  # the inputs of statistics, and the results of normalising them
    for node in g.graph:
        if node.op_type in _REDUCE and g.is_float(node.outputs[0]):
            before = {node, *_squares(node)}
            nodes |= before
            statistics.add(node.outputs[0])
            before |= g.closure(before, MOVES, frozenset())
            inputs = (value for each in before for value in each.inputs if g.is_float(value))
            normalised |= {value for value in inputs if value is not None and m.weight(value) is None}
    for node in g.graph:
        floats = {value for value in node.inputs if g.is_float(value)}
        if node.op_type in _POINTWISE | MOVES and floats & statistics:
            nodes.add(node)
            (normalised if floats & normalised else statistics).update(node.outputs)
        elif node.op_type in MOVES and floats & normalised:
            normalised |= set(node.outputs)
    return nodes


def _squares(node: ir.Node) -> Iterator[ir.Node]:
    """The square that `node` reduces, and the difference from the mean that is squared."""
    for ops in (("Pow", "Mul"), ("Sub",)):
        before = m.find_producer(node.inputs[0], *ops)
        if before is None:
            return
        yield before
        node = before


def _scores(g: Typed) -> set[ir.Node]:
    """Softmax in plain attention, with the masks and the matrix product that lead to it."""
    softmax = [node for node in g.graph if node.op_type in ("Softmax", "LogSoftmax")]
    return set(softmax) | g.closure(softmax, _POINTWISE | MOVES, frozenset({"MatMul", "Gemm", "FusedMatMul"}))


def _residual(g: Typed) -> set[ir.Node]:
    """The residual stream of T5, which its norm does not centre, and the products that write to it (wo, o)."""
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
    """The nodes that produce the graph's outputs, back to the last matrix product or convolution.

    The deep features of step caching do not count: they are in the middle of the network.
    """
    outputs = [value for value in g.graph.outputs if value.name != DEEP]
    last = [node for value in outputs if (node := value.producer()) is not None]
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
"""Island -> the nodes that it keeps in float32."""


def integers(g: Typed) -> set[ir.Node]:
    """Nodes whose results become integers or truth values, which rounding could change, or have no float16 kernel."""
    ends = [node for node in g.graph if node.op_type in _COMPARE or _to_integer(node, g)]
    always = {node for node in g.graph if node.op_type in _ALWAYS_SINGLE}
    return always | set(ends) | g.closure(ends, _POINTWISE | MOVES | _ALWAYS_SINGLE, frozenset())


def _to_integer(node: ir.Node, g: Typed) -> bool:
    return node.op_type == "Cast" and g.is_float(node.inputs[0]) and not g.is_float(node.outputs[0])
