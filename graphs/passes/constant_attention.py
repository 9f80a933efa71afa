"""Attention to one token is a constant: its softmax is 1, whatever is asked.

The 1.0 interpolation network attends to the null token alone (``export.models.interpolation``), so every
cross-attention of it gives ``W_o W_v null``, and queries, keys, scores and the norm in front of them are not needed.
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
"""What a symbolic axis is while the text is worked out: enough to see whether rows differ."""
_LARGEST = 1 << 20
"""Numbers of the largest constant that is worked out."""


def constant_attention(model: ir.Model) -> ir.Model:
    """Every attention whose context and mask depend on no input, and whose mask leaves one token, becomes an Add."""
    model = model.clone()
    graph = model.graph
    for softmax in m.nodes_of(model, "Softmax"):
        masked, attended = m.find_producer(softmax.inputs[0], "Where"), m.only_user(softmax.outputs[0], "MatMul")
        if masked is None or attended is None or not _hides(masked):
            continue
        mask, value = _mask_of(masked), _projected(attended.inputs[1])
        if mask is None or value is None:
            continue
        context, value_kernel = value
        token = _only_token(model, context, mask)
        output = _output_projection(attended)
        if token is None or output is None:
            continue
        joined, output_kernel = output
        image = _added(joined)
        if image is None:
            continue
        end, over_pixels = image
        width = output_kernel.shape[1]
        assert isinstance(width, int)
        shape = (1, width, 1, 1) if over_pixels else (1, width)

        def made(
            token: m.Float32Array = token,
            v: ir.TensorProtocol = value_kernel,
            o: ir.TensorProtocol = output_kernel,
            shape: tuple[int, ...] = shape,
        ) -> m.Float32Array:
            return np.asarray(token @ m.as_float32(v) @ m.as_float32(o), np.float32).reshape(shape)

        m.replace(graph, end, m.new_weight(graph, "attended", shape, made))
    return m.tidy(model)


def _hides(masked: ir.Node) -> bool:
    """Whether scores are filled with so low a number that nothing is left of them."""
    fill = m.scalar(masked.inputs[1])
    return fill is not None and fill <= MAX_HIDDEN_SCORE


def _mask_of(masked: ir.Node) -> ir.Value | None:
    """The bool mask ``[R, m]``, true at a token, of scores filled where it is false."""
    inverted = m.find_producer(masked.inputs[0], "Not")
    value = None if inverted is None else m.input_of(inverted, 0)
    while value is not None and (node := value.producer()) is not None and node.op_type == "Unsqueeze":
        value = m.input_of(node, 0)
    return value


def _projected(heads: ir.Value | None) -> tuple[ir.Value, ir.TensorProtocol] | None:
    """Context ``[R, m, D]`` and kernel ``[D, C]`` of keys or values split in heads."""
    value = heads
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Transpose", "Reshape"):
        value = m.input_of(node, 0)
    product = None if value is None else value.producer()
    if product is None or product.op_type != "MatMul":
        return None
    kernel = kernel_of(product)
    return None if kernel is None else (m.input_of(product, 0), kernel)


def kernel_of(product: ir.Node) -> ir.TensorProtocol | None:
    """The weight ``[in, out]`` of a MatMul, stored so or the other way round behind a Transpose."""
    turned = m.find_producer(product.inputs[1], "Transpose")
    stored = m.weight(product.inputs[1] if turned is None else turned.inputs[0])
    if stored is None or len(stored.shape) != 2 or turned is None:
        return stored
    rows, columns = stored.shape.numpy()
    return ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(stored.numpy().T)), stored.dtype, ir.Shape((columns, rows))
    )


def _output_projection(attended: ir.Node) -> tuple[ir.Value, ir.TensorProtocol] | None:
    """The MatMul behind the joined heads: its result and kernel ``[C, C']``."""
    value = attended.outputs[0]
    while (node := m.only_user(value, "Transpose", "Reshape")) is not None:
        value = node.outputs[0]
    product = m.only_user(value, "MatMul")
    kernel = None if product is None else kernel_of(product)
    return None if product is None or kernel is None else (product.outputs[0], kernel)


def _added(joined: ir.Value) -> tuple[ir.Value, bool] | None:
    """What is added to the residual, and whether that is an image ``[N, C, h, w]`` or an embedding ``[R, C]``."""
    value, over_pixels = joined, False
    while (node := m.only_user(value, "Transpose", "Reshape", "Squeeze")) is not None:
        over_pixels = over_pixels or node.op_type == "Transpose"
        value = node.outputs[0]
    total = m.only_user(value, "Add")
    if total is None or any(m.weight(given) is not None for given in total.inputs):  # the layer's bias
        return None
    return value, over_pixels


def _only_token(model: ir.Model, context: ir.Value, mask: ir.Value) -> m.Float32Array | None:
    """The one token ``[D]`` that every row attends to; None where that depends on what the graph is given."""
    if not (_shapes_only(context) and _shapes_only(mask)):
        return None
    rows, seen = _evaluate(model, [context, mask])
    places = np.flatnonzero(seen[0]) if seen.ndim == 2 and rows.ndim == 3 else np.array([])
    if len(places) != 1 or (seen != seen[:1]).any() or (rows != rows[:1]).any():
        return None
    token: m.Float32Array = rows[0, places[0]].astype(np.float32)
    return token


def _shapes_only(value: ir.Value) -> bool:
    """Whether ``value`` follows from small constants and from sizes of inputs."""
    waiting, known = [value], set()
    while waiting:
        one = waiting.pop()
        if one in known:
            continue
        known.add(one)
        node = one.producer()
        if one.is_graph_input():
            return False
        if node is None:
            if one.const_value is None or one.const_value.size > _LARGEST:
                return False
        elif node.op_type != "Shape":
            waiting += [given for given in node.inputs if given is not None]
    return True


def _evaluate(model: ir.Model, values: list[ir.Value]) -> list[NDArray[np.generic]]:
    """The values for zeros as inputs."""
    given = [value for value in model.graph.inputs]
    part = ir.convenience.extract(model.graph, given, values)
    for one in part.initializers.values():
        if one.const_value is not None:
            one.const_value = ir.tensor(one.const_value.numpy(), name=one.name)
    proto = ir.to_proto(ir.Model(part, ir_version=model.ir_version))
    for output in proto.graph.output:  # types are asked for, not used
        if not output.HasField("type"):
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    proto.opset_import.extend(onnx.helper.make_opsetid(k, v) for k, v in model.opset_imports.items())
    feed = {str(one.name): np.zeros(_sizes(one), _dtype(one)) for one in given}
    return [np.asarray(found) for found in ReferenceEvaluator(proto).run(None, feed)]


def _sizes(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [
        axis if isinstance(axis, int) else math.prod(_ROWS for _ in str(axis.value).split("*")) for axis in value.shape
    ]


def _dtype(value: ir.Value) -> np.dtype[np.generic]:
    assert value.dtype is not None
    found: np.dtype[np.generic] = value.dtype.numpy()
    return found
