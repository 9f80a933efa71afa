"""Scale and shift of all conditional norms (``export.models.layers.ConditionalGroupNorm``) in one place.

They depend on time, text and frame rate, never on what is denoised. Here they become one table ``[R, W]`` a row of
conditioning, which :mod:`graphs.passes.split` then takes out of the step, and ``scale + 1`` is worked out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m
from graphs.passes.temporal_conv import bias_of

TABLE = "modulation"
"""What the names of tables begin with."""


@dataclass(frozen=True)
class _Norm:
    """What belongs to one conditional norm: the linear layer, and its halves once cut."""

    linear: ir.Node
    split: ir.Node
    width: int


def join_modulation(model: ir.Model) -> ir.Model:
    """All linear layers of conditional norms that see the same embedding give one table, cut apart where it is used.

    An embedding with a row an image is made of the rows that it repeats, so that the table has only those.
    """
    model = model.clone()
    graph = model.graph
    found: dict[tuple[ir.Value, tuple[int, ...]], list[_Norm]] = {}
    for split in m.nodes_of(model, "Split"):
        norm = _norm_of(split)
        if norm is not None:
            embedding = m.input_of(norm.linear, 0)
            found.setdefault((embedding, _axes(split)), []).append(norm)
    for number, ((embedding, axes), norms) in enumerate(found.items()):
        first = norms[0].linear
        rows, images = _rows_of(embedding)
        if rows is not None:
            rows = m.emit(first, "Mul", [rows, m.emit(first, "Sigmoid", [rows])])
        pieces = []
        for norm in norms:
            seen = embedding if rows is None else rows
            linear = ir.node("Gemm", [seen, norm.linear.inputs[1], _bias(graph, norm)], {"transB": 1})
            graph.insert_before(first, linear)
            pieces.append(linear.outputs[0])
        table = m.emit(first, "Concat", pieces, {"axis": 1})  # [R, W]
        table.name = f"{TABLE}.{number}"
        if rows is not None and images is not None:
            table = _row_an_image(graph, first, table, images)
        wide = m.emit(first, "Unsqueeze", [table, m.constant(graph, np.array(axes, np.int64))])
        at = wide_axis(axes)
        sizes = m.constant(graph, np.repeat([norm.width for norm in norms], 2).astype(np.int64))
        cut = ir.node("Split", [wide, sizes], {"axis": at}, num_outputs=2 * len(norms))
        graph.insert_before(first, cut)
        for index, norm in enumerate(norms):
            scale, shift = norm.split.outputs
            for plus_one in m.users(scale):
                m.replace(graph, plus_one.outputs[0], cut.outputs[2 * index])
            m.replace(graph, shift, cut.outputs[2 * index + 1])
    graph.sort()
    return m.tidy(model)


def wide_axis(axes: Sequence[int]) -> int:
    """Where the numbers of a row lie once ``axes`` of size one are put in."""
    return next(at for at in range(1, len(axes) + 2) if at not in axes)


def _norm_of(split: ir.Node) -> _Norm | None:
    """The conditional norm whose scale and shift ``split`` cuts apart, if every use of the scale adds one to it."""
    linear = _behind(split)[0].producer()
    if linear is None or linear.op_type != "Gemm" or len(split.outputs) != 2 or not _is_linear(linear):
        return None
    kernel = m.weight(linear.inputs[1])
    if kernel is None or bias_of(linear) is None or not _in_halves(split):
        return None
    for use in m.users(split.outputs[0]):
        if use.op_type != "Add" or 1.0 not in [m.scalar(value) for value in use.inputs]:
            return None
    width = kernel.shape[0]
    assert isinstance(width, int)
    return _Norm(linear, split, width // 2)


def _is_linear(gemm: ir.Node) -> bool:
    """Whether it is ``x W^T + b``."""
    ones = all(gemm.attributes.get_float(name, 1.0) == 1 for name in ("alpha", "beta"))
    return ones and gemm.attributes.get_int("transB", 0) == 1 and gemm.attributes.get_int("transA", 0) == 0


def _in_halves(split: ir.Node) -> bool:
    """Whether both outputs are of one size."""
    if len(split.inputs) < 2:
        return True
    sizes = m.weight(split.inputs[1])
    return sizes is not None and len(set(sizes.numpy().tolist())) == 1


def _axes(split: ir.Node) -> tuple[int, ...]:
    """The axes of size one that stand in what ``split`` cuts apart."""
    rank = _behind(split)[1]
    along = split.attributes.get_int("axis", 0)
    return tuple(axis for axis in range(1, rank) if axis != along)


def _behind(split: ir.Node) -> tuple[ir.Value, int]:
    """What ``split`` cuts apart before axes of size one were put in behind its rows, and how many axes it has then."""
    rank, value = 2, m.input_of(split, 0)
    while (node := value.producer()) is not None and node.op_type == "Unsqueeze":
        axes = m.weight(node.inputs[1])
        if axes is None or 0 in axes.numpy().tolist():
            break
        rank += axes.size
        value = m.input_of(node, 0)
    return value, rank


def _bias(graph: ir.Graph, norm: _Norm) -> ir.Value:
    """The bias of the layer with one added to the scales."""
    bias = m.weight(norm.linear.inputs[2])
    assert bias is not None

    def raised(bias: ir.TensorProtocol = bias) -> m.Float32Array:
        made = m.as_float32(bias)
        made[: norm.width] += 1
        return made

    name = norm.linear.inputs[2].name  # type: ignore[union-attr]
    return m.new_weight(graph, f"{name}.raised", (2 * norm.width,), raised)


def _rows_of(embedding: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """Behind ``silu(row_an_image(rows, N))``: the rows ``[R, E]`` and their images' count; None where it is another."""
    product = m.find_producer(embedding, "Mul")
    wave = None if product is None else _wave(product)
    gather = None if wave is None else _through(wave, "Transpose").producer()
    if gather is None or gather.op_type not in ("GatherND", "Gather"):
        return None, None
    rows = _through(m.input_of(gather, 0), "Transpose")
    counted = _range_of(m.input_of(gather, 1))
    return (rows, counted) if counted is not None else (None, None)


def _wave(product: ir.Node) -> ir.Value | None:
    """``x`` of ``x sigmoid(x)``; None for another product."""
    for value, other in (product.inputs, product.inputs[::-1]):
        gate = m.find_producer(other, "Sigmoid")
        if gate is not None and gate.inputs[0] is value:
            return value
    return None


def _through(value: ir.Value, op: str) -> ir.Value:
    """What ``value`` is before identity permutations."""
    while (node := value.producer()) is not None and node.op_type == op and m.permutation(node) == (0, 1):
        value = m.input_of(node, 0)
    return value


def _range_of(index: ir.Value) -> ir.Value | None:
    """The end of the Range that an index is worked out from: the number of images."""
    waiting = [index]
    for value in waiting:  # grows meanwhile
        node = value.producer()
        if node is not None and node.op_type == "Range":
            return m.input_of(node, 1)
        if node is not None and node.op_type != "Shape" and len(waiting) < 64:
            waiting += [given for given in node.inputs if given is not None]
    return None


def _row_an_image(graph: ir.Graph, before: ir.Node, table: ir.Value, images: ir.Value) -> ir.Value:
    """``[R, W]`` -> ``[N, W]``: each row for the N / R consecutive images that it serves."""
    zero, one = (m.constant(graph, np.array(number, np.int64)) for number in (0, 1))
    rows = m.emit(before, "Squeeze", [m.emit(before, "Shape", [table], {"start": 0, "end": 1})])
    each = m.emit(before, "Div", [images, rows])
    return m.emit(
        before, "Gather", [table, m.emit(before, "Div", [m.emit(before, "Range", [zero, images, one]), each])]
    )
