"""Queries about sizes: the parts of a shape, the last axis of tokens, the channels of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m

Channels = tuple[int, int]
"""Channels of a value, and how many axes it has."""


def pieces(shape: ir.Value) -> list[ir.Value | int]:
    """The elements of a shape: numbers if it is a constant, the inputs of a Concat, or else the shape itself."""
    constant = m.weight(shape)
    if constant is not None:
        return [int(size) for size in constant.numpy().reshape(-1)]
    concat = m.find_producer(shape, "Concat")
    return [shape] if concat is None else [m.input_of(concat, index) for index in range(len(concat.inputs))]


def shape_of(graph: ir.Graph, before: ir.Node, sizes: Sequence[ir.Value | int]) -> ir.Value:
    """The inverse of `pieces`: a shape of `sizes`, computed in front of `before`."""
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) == len(sizes):
        return m.constant(graph, np.array(numbers))
    values = [m.constant(graph, np.array([size])) if isinstance(size, int) else size for size in sizes]
    return m.emit(before, "Concat", values, {"axis": 0})


def number(size: ir.Value | int) -> int | None:
    """An element of a shape as a number; None if it is not constant."""
    if isinstance(size, int):
        return size
    constant = m.scalar(size)
    return None if constant is None else int(constant)


def width(value: ir.Value) -> int | None:
    """The last axis of tokens that are a graph input or the result of a linear layer; None if unknown."""
    if value.shape is not None and len(value.shape) > 0 and isinstance(value.shape[-1], int):
        return value.shape[-1]
    node = m.find_producer(value, "MatMul", "Add", "Gemm")
    if node is None:
        return None
    if node.op_type == "Add":
        widths = (width(m.input_of(node, index)) for index in (0, 1))
        return next((axis for axis in widths if axis is not None), None)
    matrix, transposed = m.input_of(node, 1), bool(node.attributes.get_int("transB", 0))
    transpose = m.find_producer(matrix, "Transpose")
    if transpose is not None:
        matrix, transposed = m.input_of(transpose, 0), not transposed
    tensor = m.weight(matrix)
    if tensor is None or len(tensor.shape) != 2:
        return None
    return int(tensor.shape.numpy()[0 if transposed else 1])


def channels_of(value: ir.Value | None) -> Channels | None:
    """Channels and number of axes of a value that convolutions produced; None if unknown."""
    node = m.find_producer(value, *_CHANNELS)
    return None if node is None else _CHANNELS[node.op_type](node)


def _of_convolution(node: ir.Node) -> Channels | None:
    kernel = m.weight(node.inputs[1])
    if kernel is None or (node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1):
        return None
    return int(kernel.shape.numpy()[0 if node.op_type == "Conv" else 1]), len(kernel.shape)


def _of_inputs(node: ir.Node) -> Channels | None:
    """For operators whose result has the shape of one of their inputs."""
    known = map(channels_of, node.inputs)
    return next((channels for channels in known if channels is not None and channels[1] > 2), None)


def _of_concat(node: ir.Node) -> Channels | None:
    parts = [channels_of(part) for part in node.inputs]
    known = [part for part in parts if part is not None]
    if node.attributes.get_int("axis", 0) != 1 or len(known) < len(parts):
        return None
    return sum(channels for channels, _ in known), known[0][1]


def _of_reshape(node: ir.Node) -> Channels | None:
    shape = m.input_of(node, 1)
    like = m.find_producer(shape, "Shape")
    if like is not None and not like.attributes.get_int("start", 0) and "end" not in like.attributes:
        return channels_of(like.inputs[0])  # a norm gives its result the shape of its input
    sizes = pieces(shape)
    channels = None if len(sizes) not in (3, 4, 5) else number(sizes[1])
    return None if channels is None or channels < 1 else (channels, len(sizes))


def _of_transpose(node: ir.Node) -> Channels | None:
    """For images that come from a view with channels last."""
    view = m.find_producer(node.inputs[0], "Reshape")
    sizes = [] if view is None else pieces(m.input_of(view, 1))
    channels = number(sizes[3]) if m.permutation(node) == (0, 3, 1, 2) and len(sizes) == 4 else None
    return None if channels is None else (channels, 4)


_CHANNELS: Mapping[str, Callable[[ir.Node], Channels | None]] = {
    "Conv": _of_convolution,
    "ConvTranspose": _of_convolution,
    "Add": _of_inputs,
    "Mul": _of_inputs,
    "Sigmoid": _of_inputs,
    "Concat": _of_concat,
    "Resize": _of_inputs,
    "Reshape": _of_reshape,
    "Transpose": _of_transpose,
}
"""How each operator carries channels on."""
