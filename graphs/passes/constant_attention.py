"""Attention to one token is a constant: its softmax is 1, whatever the query.

The 1.0 interpolation network attends to the null token only (`export.models.interpolation`), so each of its
cross-attentions gives `W_o W_v null`, and needs no queries, keys or scores, nor the norm in front of them.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from graphs.passes import ir as m
from graphs.passes.attention import MAX_HIDDEN_SCORE

_ROWS = 2
"""Size of symbolic axes while the text is computed: enough to see whether rows differ."""
_MAX_ELEMENTS = 1 << 20
"""Elements of the largest constant that the text is computed from."""


def constant_attention(model: ir.Model) -> ir.Model:
    """Replace attention by an Add if its context and mask depend on no input and the mask leaves one token."""
    model = model.clone()
    graph = model.graph
    for softmax in m.nodes_of(model, "Softmax"):
        masked, attended = m.find_producer(softmax.inputs[0], "Where"), m.only_user(softmax.outputs[0], "MatMul")
        over_tokens = softmax.attributes.get_int("axis", -1) == -1
        if masked is None or attended is None or not over_tokens or not _hides(masked):
            continue
        mask, projection = _mask_of(masked), _value_projection(attended.inputs[1])
        if mask is None or projection is None:
            continue
        context, value_kernel = projection
        token = _only_token(model, context, mask)
        output = _output_projection(attended)
        if token is None or output is None:
            continue
        joined, output_kernel = output
        images = _before_sum(joined)
        if images is None:
            continue
        end, over_pixels = images
        width = output_kernel.shape[1]
        assert isinstance(width, int)
        shape = (1, width, 1, 1) if over_pixels else (1, width)

        def attended_token(
            token: m.Float32Array = token,
            v: ir.TensorProtocol = value_kernel,
            o: ir.TensorProtocol = output_kernel,
            shape: tuple[int, ...] = shape,
        ) -> m.Float32Array:
            return np.asarray(token @ m.as_float32(v) @ m.as_float32(o), np.float32).reshape(shape)

        m.replace(graph, end, m.new_weight(graph, "attended", shape, attended_token))
    return m.tidy(model)


def _hides(masked: ir.Node) -> bool:
    """Whether hidden scores are filled with a number so low that softmax gives 0."""
    fill = m.scalar(masked.inputs[1])
    return fill is not None and fill <= MAX_HIDDEN_SCORE


def _mask_of(masked: ir.Node) -> ir.Value | None:
    """The bool mask `[R, m]`, true for real tokens, behind the negated one that fills scores."""
    negated = m.find_producer(masked.inputs[0], "Not")
    value = None if negated is None else m.input_of(negated, 0)
    while value is not None and (node := value.producer()) is not None and node.op_type == "Unsqueeze":
        value = m.input_of(node, 0)
    return value


def _value_projection(heads: ir.Value | None) -> tuple[ir.Value, ir.TensorProtocol] | None:
    """Context `[R, m, D]` and kernel `[D, C]` behind values that are split into heads."""
    value = heads
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Transpose", "Reshape"):
        value = m.input_of(node, 0)
    product = None if value is None else value.producer()
    if product is None or product.op_type != "MatMul":
        return None
    kernel = kernel_of(product)
    return None if kernel is None else (m.input_of(product, 0), kernel)


def kernel_of(product: ir.Node) -> ir.TensorProtocol | None:
    """The weight `[in, out]` of a MatMul, also if stored as `[out, in]` behind a Transpose; None if not constant."""
    transpose = m.find_producer(product.inputs[1], "Transpose")
    stored = m.weight(product.inputs[1] if transpose is None else transpose.inputs[0])
    if stored is None or len(stored.shape) != 2 or transpose is None:
        return stored
    rows, columns = stored.shape.numpy()
    return ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(stored.numpy().T)), stored.dtype, ir.Shape((columns, rows))
    )


def _output_projection(attended: ir.Node) -> tuple[ir.Value, ir.TensorProtocol] | None:
    """The MatMul behind the joined heads: its result and its kernel `[C, C']`."""
    value = attended.outputs[0]
    while (node := m.only_user(value, "Transpose", "Reshape")) is not None:
        value = node.outputs[0]
    product = m.only_user(value, "MatMul")
    kernel = None if product is None else kernel_of(product)
    return None if product is None or kernel is None else (product.outputs[0], kernel)


def _before_sum(joined: ir.Value) -> tuple[ir.Value, bool] | None:
    """The value that is added to the residual, and whether it is images `[N, C, h, w]`, else an embedding `[R, C]`."""
    value, over_pixels = joined, False
    while (node := m.only_user(value, "Transpose", "Reshape", "Squeeze")) is not None:
        over_pixels = over_pixels or node.op_type == "Transpose"
        value = node.outputs[0]
    total = m.only_user(value, "Add")
    if total is None or total.inputs[0] is total.inputs[1]:
        return None
    if any(m.weight(term) is not None for term in total.inputs):  # a bias, not the residual
        return None
    return value, over_pixels


def _only_token(model: ir.Model, context: ir.Value, mask: ir.Value) -> m.Float32Array | None:
    """The one token `[D]` that every row attends to; None if there are several or it depends on an input."""
    if not (_depends_on_shapes_only(context) and _depends_on_shapes_only(mask)):
        return None
    rows, attended = _evaluate(model, [context, mask])
    places = np.flatnonzero(attended[0]) if attended.ndim == 2 and rows.ndim == 3 else np.array([])
    if len(places) != 1 or (attended != attended[:1]).any() or (rows != rows[:1]).any():
        return None
    token: m.Float32Array = rows[0, places[0]].astype(np.float32)
    return token


def _depends_on_shapes_only(value: ir.Value) -> bool:
    """Whether `value` is computed from small constants and sizes of inputs."""
    waiting, known = [value], set()
    while waiting:
        current = waiting.pop()
        if current in known:
            continue
        known.add(current)
        node = current.producer()
        if current.is_graph_input():
            return False
        if node is None:
            if current.const_value is None or current.const_value.size > _MAX_ELEMENTS:
                return False
        elif node.op_type != "Shape":
            waiting += [operand for operand in node.inputs if operand is not None]
    return True


def _evaluate(model: ir.Model, values: list[ir.Value]) -> list[NDArray[np.generic]]:
    """Compute `values` with zeros as inputs."""
    inputs = list(model.graph.inputs)
    part = ir.convenience.extract(model.graph, inputs, values)
    for weight in part.initializers.values():
        if weight.const_value is not None:
            weight.const_value = ir.tensor(weight.const_value.numpy(), name=weight.name)
    proto = ir.to_proto(ir.Model(part, ir_version=model.ir_version))
    for output in proto.graph.output:  # the evaluator requires types but does not use them
        if not output.HasField("type"):
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    proto.opset_import.extend(onnx.helper.make_opsetid(k, v) for k, v in model.opset_imports.items())
    feed = {str(value.name): np.zeros(_sizes(value), _dtype(value)) for value in inputs}
    return [np.asarray(result) for result in ReferenceEvaluator(proto).run(None, feed)]


def _sizes(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [
        axis if isinstance(axis, int) else math.prod(_ROWS for _ in str(axis.value).split("*")) for axis in value.shape
    ]


def _dtype(value: ir.Value) -> np.dtype[np.generic]:
    assert value.dtype is not None
    dtype: np.dtype[np.generic] = value.dtype.numpy()
    return dtype
