"""Exact algebra on convolutions over time, which are (k, 1) kernels on the view `[B, C, T, h*w]`.

In real arithmetic the passes change nothing; rounding differs in the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m

_SWAP = (0, 2, 1, 3)
"""Swaps frames and channels: `[B, T, C, h*w]` <-> `[B, C, T, h*w]`."""


def over_time(model: ir.Model) -> Iterator[ir.Node]:
    """Every convolution with a (k, 1) kernel, k odd and over 1, stride 1, and padding that keeps all frames."""
    for conv in m.nodes_of(model, "Conv"):
        kernel = conv.attributes.get_ints("kernel_shape", ())
        if len(kernel) == 2 and kernel[0] > 1 and kernel[0] % 2 == 1 and kernel[1] == 1:
            reach = kernel[0] // 2
            if _is_plain(conv) and tuple(conv.attributes.get_ints("pads", ())) == (reach, 0, reach, 0):
                yield conv


def _is_plain(conv: ir.Node) -> bool:
    """Whether a convolution has no strides, dilations or groups of channels."""
    steps = (tuple(conv.attributes.get_ints(name, ())) for name in ("strides", "dilations"))
    return all(step == (1, 1) for step in steps) and conv.attributes.get_int("group", 1) == 1


def bias_of(node: ir.Node) -> ir.TensorProtocol | None:
    """The bias of a convolution or linear layer; None if it has none, or it depends on an input."""
    return m.weight(node.inputs[2]) if len(node.inputs) > 2 else None


def fold_merge(model: ir.Model) -> ir.Model:
    """Fold `(1 - m) x + m conv(x)` with a learned m (paper eq. 3, `export.models.layers.merged`) into one convolution.

    Its kernel is multiplied by m, and 1 - m is added to the tap in the middle of every channel. That saves three passes
    over the activations.
    """
    model = model.clone()
    graph = model.graph
    for conv in over_time(model):
        back = _back_to_images(conv)
        if back is None:
            continue
        scaled = m.only_user(back, "Mul")
        total = m.only_user(scaled.outputs[0], "Add") if scaled is not None else None
        kernel, bias = m.weight(conv.inputs[1]), bias_of(conv)
        if scaled is None or total is None or kernel is None or bias is None or kernel.shape[0] != kernel.shape[1]:
            continue
        merge = m.scalar(next((value for value in scaled.inputs if value is not back), None))
        kept = next((value for value in total.inputs if value is not scaled.outputs[0]), None)
        if merge is None or not _is_rest(kept, merge, _images(conv)):
            continue

        def folded(kernel: ir.TensorProtocol = kernel, merge: float = merge) -> m.Float32Array:
            taps = merge * m.as_float32(kernel)
            channels = np.arange(taps.shape[0])
            taps[channels, channels, taps.shape[2] // 2, 0] += 1 - merge
            return taps

        def folded_bias(bias: ir.TensorProtocol = bias, merge: float = merge) -> m.Float32Array:
            return np.asarray(merge * m.as_float32(bias), np.float32)

        name = conv.inputs[1].name  # type: ignore[union-attr]
        shape, width = kernel.shape.numpy(), bias.shape.numpy()
        conv.replace_input_with(1, m.new_weight(graph, f"{name}.folded", shape, folded))
        conv.replace_input_with(2, m.new_weight(graph, f"{name}.folded_bias", width, folded_bias))
        m.replace(graph, total.outputs[0], back)
    return m.tidy(model)


def merge_pointwise(model: ir.Model) -> ir.Model:
    """Merge a 1x1 convolution into the one over time behind it, if that takes fewer operations.

    The second pads with zeros, to which the first has not added its bias. So the frames at the ends of a clip get
    another bias than those between; the difference is added as `[1, C, T, 1]`.
    """
    model = model.clone()
    graph = model.graph
    for conv in over_time(model):
        images = _images(conv)
        first = None if images is None else images.producer()
        if images is None or first is None or first.op_type != "Conv" or not _is_pointwise(first):
            continue
        kernels = [m.weight(node.inputs[1]) for node in (first, conv)]
        biases = [bias_of(node) for node in (first, conv)]
        if None in kernels or None in biases or len(_users_through_views(images)) != 1:
            continue
        outer, middle, inner = kernels[1].shape[0], kernels[1].shape[1], kernels[0].shape[1]  # type: ignore[union-attr]
        reach = kernels[1].shape[2]  # type: ignore[union-attr]
        assert isinstance(outer, int) and isinstance(middle, int) and isinstance(inner, int) and isinstance(reach, int)
        if reach * outer * inner >= middle * inner + reach * outer * middle:
            continue
        _merge(graph, first, conv, (outer, inner, reach), [*kernels, *biases])
    return m.tidy(model)


def _merge(
    graph: ir.Graph,
    first: ir.Node,
    conv: ir.Node,
    sizes: tuple[int, int, int],
    tensors: Sequence[ir.TensorProtocol | None],
) -> None:
    point, kernel, before, after = (tensor for tensor in tensors if tensor is not None)
    outer, inner, reach = sizes
    dims, swapped = _view_dims(conv), m.only_user(conv.outputs[0], "Transpose")
    if dims is None or swapped is None or m.permutation(swapped) != _SWAP:
        return

    def kernel_of() -> m.Float32Array:
        a, b = m.as_float32(kernel)[..., 0], m.as_float32(point)[..., 0, 0]  # [O, M, k], [M, I]
        return np.asarray(np.einsum("omk,mi->oik", a, b, optimize=True)[..., None], np.float32)

    def missing(offset: int) -> m.Float32Array:
        """What the first convolution's bias adds to a frame through the tap at `offset`."""
        return np.asarray(m.as_float32(kernel)[:, :, offset, 0] @ m.as_float32(before), np.float32)

    def edge_of(offset: int) -> m.Float32Array:
        return -missing(offset).reshape(1, -1, 1, 1)

    def joined_bias() -> m.Float32Array:
        return np.asarray(m.as_float32(after) + sum(missing(offset) for offset in range(reach)), np.float32)

    name = conv.inputs[1].name  # type: ignore[union-attr]
    view = m.emit(
        conv, "Concat", [dims[0], dims[1], m.constant(graph, np.array([inner], np.int64)), dims[3]], {"axis": 0}
    )
    clip = m.emit(conv, "Reshape", [m.input_of(first, 0), view], {"allowzero": 1})  # [B, T, I, h*w]
    clip = m.emit(conv, "Transpose", [clip], {"perm": _SWAP})
    conv.replace_input_with(0, clip)
    conv.replace_input_with(1, m.new_weight(graph, f"{name}.merged", (outer, inner, reach, 1), kernel_of))
    conv.replace_input_with(2, m.new_weight(graph, f"{name}.merged_bias", (outer,), joined_bias))
    edge = None
    for offset in range(reach):
        away = offset - reach // 2
        if away == 0:
            continue
        lost = m.new_weight(graph, f"{name}.edge{offset}", (1, outer, 1, 1), partial(edge_of, offset))
        part = m.emit(conv, "Mul", [_outside(graph, conv, dims[1], away), lost])  # [1, O, T, 1]
        edge = part if edge is None else m.emit(conv, "Add", [edge, part])
    assert edge is not None
    swapped.replace_input_with(0, m.emit(swapped, "Add", [conv.outputs[0], edge]))


def _outside(graph: ir.Graph, before: ir.Node, frames: ir.Value, away: int) -> ir.Value:
    """`[1, 1, T, 1]`: 1 for every frame whose neighbour `away` frames further is outside the clip."""
    zero, one = (m.constant(graph, np.array(number, np.int64)) for number in (0, 1))
    count = m.emit(before, "Squeeze", [frames])
    places = m.emit(before, "Range", [zero, count, one])
    away_by = m.constant(graph, np.array(away, np.int64))
    reached = m.emit(before, "Add", [places, away_by])
    outside = (
        m.emit(before, "Less", [reached, zero]) if away < 0 else m.emit(before, "GreaterOrEqual", [reached, count])
    )
    row = m.emit(before, "Cast", [outside], {"to": ir.DataType.FLOAT})
    return m.emit(before, "Reshape", [row, m.constant(graph, np.array([1, 1, -1, 1], np.int64))])


def _is_pointwise(conv: ir.Node) -> bool:
    sizes = (tuple(conv.attributes.get_ints(name, ())) for name in ("kernel_shape", "strides"))
    ones = all(size == (1, 1) for size in sizes)
    return ones and not any(conv.attributes.get_ints("pads", ())) and conv.attributes.get_int("group", 1) == 1


def _images(conv: ir.Node) -> ir.Value | None:
    """The images `[B*T, C, h, w]` that a convolution over time takes as clips, behind any number of reshapes."""
    swap = m.find_producer(conv.inputs[0], "Transpose")
    if swap is None or m.permutation(swap) != _SWAP:
        return None
    value = m.input_of(swap, 0)
    while (shaped := value.producer()) is not None and shaped.op_type == "Reshape":
        value = m.input_of(shaped, 0)
    return value


def _users_through_views(images: ir.Value) -> list[ir.Node]:
    """The nodes that use `images`, directly or through views."""
    nodes: list[ir.Node] = []
    if images.is_graph_output():
        return nodes
    for node in m.users(images):
        nodes += _users_through_views(node.outputs[0]) if node.op_type in ("Reshape", "Transpose") else [node]
    return nodes


def _view_dims(conv: ir.Node) -> list[ir.Value] | None:
    """The four sizes `[B, T, C, h*w]` of the view that `conv` works on, each of one element."""
    swap = m.find_producer(conv.inputs[0], "Transpose")
    view = None if swap is None else m.find_producer(swap.inputs[0], "Reshape")
    sizes = None if view is None else m.find_producer(view.inputs[1], "Concat")
    dims = [] if sizes is None else [value for value in sizes.inputs if value is not None]
    return dims if len(dims) == 4 else None


def _back_to_images(conv: ir.Node) -> ir.Value | None:
    """The result of a convolution over time as images `[B*T, C, h, w]`."""
    swap = m.only_user(conv.outputs[0], "Transpose")
    if swap is None or m.permutation(swap) != _SWAP:
        return None
    shaped = m.only_user(swap.outputs[0], "Reshape")
    while shaped is not None:
        further = m.only_user(shaped.outputs[0], "Reshape")
        if further is None:
            return shaped.outputs[0]
        shaped = further
    return None


def _is_rest(value: ir.Value | None, merge: float, images: ir.Value | None) -> bool:
    """Whether `value` is `(1 - merge) images`."""
    product = None if value is None else value.producer()
    if product is None or product.op_type != "Mul" or images is None:
        return False
    for share, kept in (product.inputs, product.inputs[::-1]):
        rest = None if share is None else share.producer()
        if kept is images and rest is not None and rest.op_type == "Sub" and m.scalar(rest.inputs[0]) == 1:
            subtracted = m.scalar(rest.inputs[1])
            return subtracted is not None and math.isclose(subtracted, merge)
    return False
