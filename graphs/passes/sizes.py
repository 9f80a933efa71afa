"""What a graph says of sizes: the parts of its shapes, the last axis of tokens, the channels of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m


def pieces(shape: ir.Value) -> list[ir.Value | int]:
    """What a shape is made of: numbers where it is a constant, the parts of a Concat otherwise, or just itself."""
    known = m.weight(shape)
    if known is not None:
        return [int(size) for size in known.numpy().reshape(-1)]
    concat = m.find_producer(shape, "Concat")
    return [shape] if concat is None else [m.input_of(concat, index) for index in range(len(concat.inputs))]


def shape_of(graph: ir.Graph, before: ir.Node, sizes: Sequence[ir.Value | int]) -> ir.Value:
    """The inverse of :func:`pieces`, in front of ``before``."""
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        return m.constant(graph, np.array(known))
    values = [m.constant(graph, np.array([size])) if isinstance(size, int) else size for size in sizes]
    return m.emit(before, "Concat", values, {"axis": 0})


def number(size: ir.Value | int) -> int | None:
    """A part of a shape, where it is a constant."""
    if isinstance(size, int):
        return size
    known = m.scalar(size)
    return None if known is None else int(known)


def width(value: ir.Value) -> int | None:
    """The last axis of tokens: of a graph's input or of a linear layer's result; None where that is not known."""
    if value.shape is not None and len(value.shape) > 0 and isinstance(value.shape[-1], int):
        return value.shape[-1]
    node = m.find_producer(value, "MatMul", "Add", "Gemm")
    if node is None:
        return None
    if node.op_type == "Add":
        return next((found for found in (width(m.input_of(node, i)) for i in (0, 1)) if found is not None), None)
    matrix, turned = m.input_of(node, 1), bool(node.attributes.get_int("transB", 0))
    transpose = m.find_producer(matrix, "Transpose")
    if transpose is not None:
        matrix, turned = m.input_of(transpose, 0), not turned
    tensor = m.weight(matrix)
    if tensor is None or len(tensor.shape) != 2:
        return None
    return int(tensor.shape.numpy()[0 if turned else 1])


def channels_of(value: ir.Value | None) -> tuple[int, int] | None:
    """Channels and axes of what convolutions made; None where that is not known."""
    node = m.find_producer(
        value, "Conv", "ConvTranspose", "Add", "Mul", "Sigmoid", "Concat", "Resize", "Reshape", "Transpose"
    )
    if node is None:
        return None
    if node.op_type == "Transpose":  # of a view that had its channels last
        view = m.find_producer(node.inputs[0], "Reshape")
        sizes = [] if view is None else pieces(m.input_of(view, 1))
        turned = list(node.attributes.get_ints("perm", ())) == [0, 3, 1, 2]
        channels = number(sizes[3]) if turned and len(sizes) == 4 else None
        return None if channels is None else (channels, 4)
    if node.op_type == "Reshape":
        sizes = pieces(m.input_of(node, 1))
        like = m.find_producer(m.input_of(node, 1), "Shape")
        if like is not None and not like.attributes.get_int("start", 0) and "end" not in like.attributes:
            return channels_of(like.inputs[0])  # a norm gives its groups the shape of its input
        channels = None if len(sizes) not in (3, 4, 5) else number(sizes[1])
        return None if channels is None or channels < 1 else (channels, len(sizes))
    if node.op_type in ("Conv", "ConvTranspose"):
        kernel = m.weight(node.inputs[1])
        if kernel is None or (node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1):
            return None
        return int(kernel.shape.numpy()[0 if node.op_type == "Conv" else 1]), len(kernel.shape)
    if node.op_type != "Concat":
        return next((found for found in map(channels_of, node.inputs) if found is not None and found[1] > 2), None)
    parts = [channels_of(part) for part in node.inputs]
    if node.attributes.get_int("axis", 0) != 1 or any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    return sum(channels for channels, _ in known), known[0][1]
