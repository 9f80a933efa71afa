"""Views of ``[N, C, h, w]`` taken with channels last, as CUDA's convolutions keep them, and OpenVINO's.

Tokens ``[N, h*w, C]``, and the frames ``[B, C, T, h*w]`` that a convolution over time sees, are a Reshape away from
``[N, h, w, C]``, where from ``[N, C, h, w]`` they take a pass over memory each way. This pass writes each such Reshape
as Transpose, Reshape, Transpose with the channels last in the middle: the outer ones meet those of ONNX Runtime's
layout pass (``prefer_nhwc``), or are the layout that OpenVINO has chosen, and cancel. Where neither is so they are a
loss: not for ONNX Runtime's own CPU provider.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphs.passes import ir as m
from graphs.passes.sizes import channels_of, number, pieces, shape_of, width

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_AFTER: dict[tuple[int, ...], int] = {(0, 2, 1): 1, (0, 2, 1, 3): 2, (0, 3, 1, 2): 2}
"""What follows a view of images, and where channels are in the view: ``[N, C, h*w]`` or ``[B, T, C, h*w]``."""
_BEFORE: dict[tuple[int, ...], int] = {(0, 2, 1): 1, (0, 2, 1, 3): 2, (0, 2, 3, 1): 2}
"""What comes before a view as images."""


def channels_last_views(model: ir.Model, resize: bool = True) -> ir.Model:
    """The same numbers exactly, with channels last wherever images are seen as tokens or as frames, and with
    ``enlarged`` where they are enlarged: OpenVINO does that sooner in its own way.
    """
    model = model.clone()
    graph = model.graph
    for node in m.nodes_of(model, "Resize") if resize else ():
        _enlarged(graph, node)
    for node in m.nodes_of(model, "Reshape"):
        sizes = pieces(m.input_of(node, 1))
        turn = m.only_user(node.outputs[0], "Transpose")
        if (
            turn is not None
            and (at := _AFTER.get(m.permutation(turn))) is not None
            and len(sizes) == len(m.permutation(turn))
        ):
            images = _images(m.input_of(node, 0), sizes[at])
            if images is not None and 0 not in sizes:
                _from_images(graph, images, turn, sizes, at)
                continue
        made = m.input_of(node, 0).producer()
        if made is not None and made.op_type == "Transpose" and (at := _BEFORE.get(m.permutation(made))) is not None:
            channels = number(sizes[1]) if len(sizes) == 4 else None
            if channels is not None and _axis(m.input_of(made, 0), m.permutation(made)[at]) == channels:
                _to_images(graph, node, made, sizes, at)
    return m.tidy(model)


def _enlarged(graph: ir.Graph, node: ir.Node) -> None:
    """A nearest-neighbour enlargement of ``[N, C, h, w]``; that pass leaves a Resize where it is."""
    scales = m.weight(node.inputs[2]) if len(node.inputs) == 3 else None
    if scales is None or scales.size != 4 or node.attributes.get_string("mode", "nearest") != "nearest":
        return
    turned = m.constant(graph, m.as_float32(scales)[list(LAST)])
    rows = m.emit(node, "Transpose", [m.input_of(node, 0)], {"perm": LAST})
    attributes = {name: attribute.value for name, attribute in node.attributes.items() if name != "axes"}
    large = m.emit(node, "Resize", [rows, None, turned], attributes)
    m.replace(graph, node.outputs[0], m.emit(node, "Transpose", [large], {"perm": FIRST}))


def _from_images(graph: ir.Graph, images: ir.Value, turn: ir.Node, sizes: Sequence[ir.Value | int], at: int) -> None:
    """Reshape ``images`` ``[N, C, h, w]`` to ``sizes`` with C at ``at``, then ``turn``."""
    last = m.emit(turn, "Transpose", [images], {"perm": LAST})
    order = [axis for axis in range(len(sizes)) if axis != at] + [at]
    view = m.emit(turn, "Reshape", [last, shape_of(graph, turn, [sizes[axis] for axis in order])], {"allowzero": 1})
    _turned(graph, turn, view, [order.index(axis) for axis in m.permutation(turn)])


def _to_images(graph: ir.Graph, node: ir.Node, made: ir.Node, sizes: Sequence[ir.Value | int], at: int) -> None:
    """``made``, with C at ``at``, then Reshape to ``[N, C, h, w]``."""
    perm = m.permutation(made)
    order = [axis for axis in range(len(perm)) if axis != at] + [at]
    source, taken_from = m.input_of(made, 0), [perm[axis] for axis in order]
    rows = source if taken_from == list(range(len(perm))) else m.emit(node, "Transpose", [source], {"perm": taken_from})
    shape = shape_of(graph, node, [sizes[axis] for axis in LAST])
    images = m.emit(node, "Reshape", [rows, shape], {"allowzero": 1})
    m.replace(graph, node.outputs[0], m.emit(node, "Transpose", [images], {"perm": FIRST}))


def _turned(graph: ir.Graph, old: ir.Node, value: ir.Value, perm: list[int]) -> None:
    """Let ``value``, transposed by ``perm``, take the place of the result of ``old``."""
    done = perm == list(range(len(perm)))
    m.replace(graph, old.outputs[0], value if done else m.emit(old, "Transpose", [value], {"perm": perm}))


def _images(value: ir.Value, channels: ir.Value | int) -> ir.Value | None:
    """The ``[N, C, h, w]`` with that many channels that ``value`` is, perhaps seen in another shape meanwhile."""
    wanted = number(channels)
    while wanted is not None:
        turned = m.find_producer(value, "Transpose")
        if channels_of(value) == (wanted, 4) or (turned is not None and m.permutation(turned) == FIRST):
            return value
        view = m.find_producer(value, "Reshape")
        if view is None:
            return None
        value = m.input_of(view, 0)
    return None


def _axis(value: ir.Value, at: int) -> int | None:
    """The size of channels in ``value``: a convolution's at axis 1, or the last of tokens."""
    if at == 1:
        found = channels_of(value)
        return None if found is None else found[0]
    known = width(value)
    node = m.find_producer(value, "Reshape", "Transpose", "MultiHeadAttention")
    if known is not None or node is None:
        return known
    if node.op_type == "MultiHeadAttention":
        return _axis(m.input_of(node, 2), at)
    shaped = node if node.op_type == "Reshape" else m.find_producer(node.inputs[0], "Reshape")
    if shaped is None:
        return None
    sizes = pieces(m.input_of(shaped, 1))
    last = len(sizes) - 1 if shaped is node else m.permutation(node)[-1]
    return number(sizes[last]) if last < len(sizes) else None
