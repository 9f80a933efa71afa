"""Views of images `[N, C, h, w]` with channels last, as convolutions of CUDA and OpenVINO store them.

Tokens `[N, h*w, C]`, and the frames `[B, C, T, h*w]` of a convolution over time, are a Reshape away from
`[N, h, w, C]`; from `[N, C, h, w]` each takes a pass over memory. This pass writes every such Reshape as Transpose,
Reshape, Transpose with channels last in the middle. The outer Transposes cancel with those of ONNX Runtime's layout
pass (`prefer_nhwc`), or are the layout that OpenVINO has chosen anyway. On ONNX Runtime's CPU provider neither is so,
and the pass would be a loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphs.passes import ir as m
from graphs.passes.sizes import channels_of, number, pieces, shape_of, width

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_AFTER: dict[tuple[int, ...], int] = {(0, 2, 1): 1, (0, 2, 1, 3): 2, (0, 3, 1, 2): 2}
"""A Transpose behind a view of images -> the axis of channels in the view, `[N, C, h*w]` or `[B, T, C, h*w]`."""
_BEFORE: dict[tuple[int, ...], int] = {(0, 2, 1): 1, (0, 2, 1, 3): 2, (0, 2, 3, 1): 2}
"""A Transpose in front of a view as images -> the axis of channels in front of it."""


def channels_last_views(model: ir.Model, resize: bool = True) -> ir.Model:
    """Put channels last wherever images are viewed as tokens or frames; the numbers stay exactly the same.

    With `resize` also where images are enlarged, which OpenVINO does faster by itself.
    """
    model = model.clone()
    graph = model.graph
    for node in m.nodes_of(model, "Resize") if resize else ():
        _resize(graph, node)
    for node in m.nodes_of(model, "Reshape"):
        sizes = pieces(m.input_of(node, 1))
        after = m.only_user(node.outputs[0], "Transpose")
        axes = () if after is None else m.permutation(after)
        if after is not None and axes in _AFTER and len(sizes) == len(axes):
            images = _images(m.input_of(node, 0), sizes[_AFTER[axes]])
            if images is not None and 0 not in sizes:
                _from_images(graph, images, after, sizes, _AFTER[axes])
                continue
        before = m.input_of(node, 0).producer()
        axes = () if before is None or before.op_type != "Transpose" else m.permutation(before)
        if before is not None and axes in _BEFORE:
            channels = number(sizes[1]) if len(sizes) == 4 else None
            if channels is not None and _channels_at(m.input_of(before, 0), axes[_BEFORE[axes]]) == channels:
                _to_images(graph, node, before, sizes, _BEFORE[axes])
    return m.tidy(model)


def _resize(graph: ir.Graph, node: ir.Node) -> None:
    """Enlarge `[N, C, h, w]` by nearest neighbour with channels last: the layout pass leaves a Resize alone."""
    scales = m.weight(node.inputs[2]) if len(node.inputs) == 3 else None
    if scales is None or scales.size != 4 or node.attributes.get_string("mode", "nearest") != "nearest":
        return
    last_scales = m.constant(graph, m.as_float32(scales)[list(LAST)])
    rows = m.emit(node, "Transpose", [m.input_of(node, 0)], {"perm": LAST})
    attributes = {name: attribute.value for name, attribute in node.attributes.items() if name != "axes"}
    large = m.emit(node, "Resize", [rows, None, last_scales], attributes)
    m.replace(graph, node.outputs[0], m.emit(node, "Transpose", [large], {"perm": FIRST}))


def _from_images(graph: ir.Graph, images: ir.Value, after: ir.Node, sizes: Sequence[ir.Value | int], at: int) -> None:
    """Replace a Reshape of `images` `[N, C, h, w]` to `sizes`, with C at axis `at`, and the Transpose `after` it."""
    last = m.emit(after, "Transpose", [images], {"perm": LAST})
    order = [axis for axis in range(len(sizes)) if axis != at] + [at]
    view = m.emit(after, "Reshape", [last, shape_of(graph, after, [sizes[axis] for axis in order])], {"allowzero": 1})
    _replace_by_transposed(graph, after, view, [order.index(axis) for axis in m.permutation(after)])


def _to_images(graph: ir.Graph, node: ir.Node, before: ir.Node, sizes: Sequence[ir.Value | int], at: int) -> None:
    """Replace `node`, a Reshape to `[N, C, h, w]`, and the Transpose `before` it, whose result has C at axis `at`."""
    perm = m.permutation(before)
    order = [axis for axis in range(len(perm)) if axis != at] + [at]
    value, axes = m.input_of(before, 0), [perm[axis] for axis in order]
    rows = value if axes == list(range(len(perm))) else m.emit(node, "Transpose", [value], {"perm": axes})
    shape = shape_of(graph, node, [sizes[axis] for axis in LAST])
    images = m.emit(node, "Reshape", [rows, shape], {"allowzero": 1})
    m.replace(graph, node.outputs[0], m.emit(node, "Transpose", [images], {"perm": FIRST}))


def _replace_by_transposed(graph: ir.Graph, old: ir.Node, value: ir.Value, perm: list[int]) -> None:
    """Replace the result of `old` by `value`, transposed by `perm`."""
    is_identity = perm == list(range(len(perm)))
    m.replace(graph, old.outputs[0], value if is_identity else m.emit(old, "Transpose", [value], {"perm": perm}))


def _images(value: ir.Value, channels: ir.Value | int) -> ir.Value | None:
    """The images `[N, C, h, w]` of that many channels behind `value`, looking through views; None if there are none."""
    count = number(channels)
    while count is not None:
        transpose = m.find_producer(value, "Transpose")
        if channels_of(value) == (count, 4) or (transpose is not None and m.permutation(transpose) == FIRST):
            return value
        view = m.find_producer(value, "Reshape")
        if view is None:
            return None
        value = m.input_of(view, 0)
    return None


def _channels_at(value: ir.Value, at: int) -> int | None:
    """The number of channels in `value`: at axis 1 those of a convolution, else the last axis of tokens."""
    if at == 1:
        channels = channels_of(value)
        return None if channels is None else channels[0]
    size = width(value)
    node = m.find_producer(value, "Reshape", "Transpose", "MultiHeadAttention")
    if size is not None or node is None:
        return size
    if node.op_type == "MultiHeadAttention":
        return _channels_at(m.input_of(node, 2), at)
    shaped = node if node.op_type == "Reshape" else m.find_producer(node.inputs[0], "Reshape")
    if shaped is None:
        return None
    sizes = pieces(m.input_of(shaped, 1))
    last = len(sizes) - 1 if shaped is node else m.permutation(node)[-1]
    return number(sizes[last]) if last < len(sizes) else None
