"""Scale and shift of all conditional norms (`export.models.layers.ConditionalGroupNorm`) in one table.

They depend on time, text and frame rate, never on what is denoised. They become one table `[R, W]` with a row per
conditioning, which `graphs.passes.split` moves out of the step, and `scale + 1` is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m
from graphs.passes.temporal_conv import bias_of

TABLE = "modulation"
"""Prefix of the names of tables."""


@dataclass(frozen=True)
class _Norm:
    """One conditional norm: its linear layer, and the Split of that into scale and shift, each of `width` channels."""

    linear: ir.Node
    split: ir.Node
    width: int


def join_modulation(model: ir.Model) -> ir.Model:
    """Join the linear layers of all conditional norms of one embedding into a table, which is split where it is used.

    An embedding with one row per image is replaced by the rows that it repeats, so that the table has only those.
    """
    model = model.clone()
    graph = model.graph
    joined: dict[tuple[ir.Value, tuple[int, ...]], list[_Norm]] = {}
    for split in m.nodes_of(model, "Split"):
        norm = _norm_of(split)
        if norm is not None:
            embedding = m.input_of(norm.linear, 0)
            joined.setdefault((embedding, _axes(split)), []).append(norm)
    for number, ((embedding, axes), norms) in enumerate(joined.items()):
        first = norms[0].linear
        rows, images = _rows_of(embedding)
        if rows is not None:
            rows = m.emit(first, "Mul", [rows, m.emit(first, "Sigmoid", [rows])])
        pieces = []
        for norm in norms:
            operand = embedding if rows is None else rows
            linear = ir.node("Gemm", [operand, norm.linear.inputs[1], _bias(graph, norm)], {"transB": 1})
            graph.insert_before(first, linear)
            pieces.append(linear.outputs[0])
        table = m.emit(first, "Concat", pieces, {"axis": 1})  # [R, W]
        table.name = f"{TABLE}.{number}"
        if rows is not None and images is not None:
            table = _repeat_per_image(graph, first, table, images)
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
    """The axis of a row's numbers after `axes` of size one are inserted."""
    return next(at for at in range(1, len(axes) + 2) if at not in axes)


def _norm_of(split: ir.Node) -> _Norm | None:
    """The conditional norm whose scale and shift come from `split`, if every use of the scale adds one to it."""
    linear = _before_unsqueeze(split)[0].producer()
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
    """Whether it is `x W^T + b`."""
    ones = all(gemm.attributes.get_float(name, 1.0) == 1 for name in ("alpha", "beta"))
    return ones and gemm.attributes.get_int("transB", 0) == 1 and gemm.attributes.get_int("transA", 0) == 0


def _in_halves(split: ir.Node) -> bool:
    """Whether both outputs have the same size."""
    if len(split.inputs) < 2:
        return True
    sizes = m.weight(split.inputs[1])
    return sizes is not None and len(set(sizes.numpy().tolist())) == 1


def _axes(split: ir.Node) -> tuple[int, ...]:
    """The axes of size one in the value that is split."""
    rank = _before_unsqueeze(split)[1]
    along = split.attributes.get_int("axis", 0)
    return tuple(axis for axis in range(1, rank) if axis != along)


def _before_unsqueeze(split: ir.Node) -> tuple[ir.Value, int]:
    """The value that is split, before axes of size one were inserted, and its number of axes after that."""
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
        numbers = m.as_float32(bias)
        numbers[: norm.width] += 1
        return numbers

    name = norm.linear.inputs[2].name  # type: ignore[union-attr]
    return m.new_weight(graph, f"{name}.raised", (2 * norm.width,), raised)


def _rows_of(embedding: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """The rows `[R, E]` of `silu(rows repeated for N images)`, and N; None for any other embedding."""
    product = m.find_producer(embedding, "Mul")
    repeated = None if product is None else _silu_operand(product)
    gather = None if repeated is None else _before_identity(repeated).producer()
    if gather is None or gather.op_type not in ("GatherND", "Gather"):
        return None, None
    rows = _before_identity(m.input_of(gather, 0))
    images = _range_end(m.input_of(gather, 1))
    return (rows, images) if images is not None else (None, None)


def _silu_operand(product: ir.Node) -> ir.Value | None:
    """`x` of `x sigmoid(x)`; None for any other product."""
    for value, other in (product.inputs, product.inputs[::-1]):
        gate = m.find_producer(other, "Sigmoid")
        if gate is not None and gate.inputs[0] is value:
            return value
    return None


def _before_identity(value: ir.Value) -> ir.Value:
    """The value in front of Transposes that change nothing."""
    while (node := value.producer()) is not None and node.op_type == "Transpose" and m.permutation(node) == (0, 1):
        value = m.input_of(node, 0)
    return value


def _range_end(index: ir.Value) -> ir.Value | None:
    """The end of the Range that an index is computed from: the number of images."""
    waiting = [index]
    for value in waiting:  # grows during the loop
        node = value.producer()
        if node is not None and node.op_type == "Range":
            return m.input_of(node, 1)
        if node is not None and node.op_type != "Shape" and len(waiting) < 64:
            waiting += [operand for operand in node.inputs if operand is not None]
    return None


def _repeat_per_image(graph: ir.Graph, before: ir.Node, table: ir.Value, images: ir.Value) -> ir.Value:
    """`[R, W]` -> `[N, W]`: each row is repeated for N / R consecutive images."""
    zero, one = (m.constant(graph, np.array(number, np.int64)) for number in (0, 1))
    rows = m.emit(before, "Squeeze", [m.emit(before, "Shape", [table], {"start": 0, "end": 1})])
    each = m.emit(before, "Div", [images, rows])
    return m.emit(
        before, "Gather", [table, m.emit(before, "Div", [m.emit(before, "Range", [zero, images, one]), each])]
    )
