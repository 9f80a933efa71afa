"""Views of ``[N, C, h, w]`` taken with channels last, as CUDA's convolutions keep them.

Tokens ``[N, h*w, C]``, and the frames ``[B, C, T, h*w]`` that a convolution over time sees, are a Reshape away from
``[N, h, w, C]``, where from ``[N, C, h, w]`` they take a pass over memory each way. This pass writes each such Reshape
as Transpose, Reshape, Transpose with the channels last in the middle: the outer ones meet those of ONNX Runtime's
layout pass (``prefer_nhwc``) and cancel. Where that pass does not run they are a loss: for CUDA alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphs import model as m
from graphs.attention import number, pieces

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_AFTER: dict[tuple[int, ...], int] = {(0, 2, 1): 1, (0, 2, 1, 3): 2, (0, 3, 1, 2): 2}
"""What follows a view of images, and where channels are in the view: ``[N, C, h*w]`` or ``[B, T, C, h*w]``."""
_BEFORE: dict[tuple[int, ...], int] = {(0, 2, 1): 1, (0, 2, 1, 3): 2, (0, 2, 3, 1): 2}
"""What comes before a view as images."""


def channels_last_views(model: ir.Model) -> ir.Model:
    """The same numbers exactly, with channels last wherever images are seen as tokens or as frames."""
    model = model.clone()
    graph = model.graph
    for node in m.nodes_of(model, "Reshape"):
        sizes = pieces(m.taken(node, 1))
        turn = m.only_user(node.outputs[0], "Transpose")
        if turn is not None and (at := _AFTER.get(_perm(turn))) is not None and len(sizes) == len(_perm(turn)):
            if _images(m.taken(node, 0), sizes[at]):
                _from_images(graph, node, turn, sizes, at)
                continue
        made = m.taken(node, 0).producer()
        if made is not None and made.op_type == "Transpose" and (at := _BEFORE.get(_perm(made))) is not None:
            if len(sizes) == 4 and number(sizes[1]) is not None:
                _to_images(graph, node, made, sizes, at)
    return m.tidy(model)


def _from_images(graph: ir.Graph, node: ir.Node, turn: ir.Node, sizes: Sequence[ir.Value | int], at: int) -> None:
    """Reshape ``[N, C, h, w]`` to ``sizes`` with C at ``at``, then ``turn``."""
    last = m.emit(turn, "Transpose", [m.taken(node, 0)], {"perm": LAST})
    order = [axis for axis in range(len(sizes)) if axis != at] + [at]
    view = m.emit(turn, "Reshape", [last, _shape(graph, turn, [sizes[axis] for axis in order])], {"allowzero": 1})
    _turned(graph, turn, view, [order.index(axis) for axis in _perm(turn)])


def _to_images(graph: ir.Graph, node: ir.Node, made: ir.Node, sizes: Sequence[ir.Value | int], at: int) -> None:
    """``made``, with C at ``at``, then Reshape to ``[N, C, h, w]``."""
    perm = _perm(made)
    order = [axis for axis in range(len(perm)) if axis != at] + [at]
    source, taken_from = m.taken(made, 0), [perm[axis] for axis in order]
    rows = source if taken_from == list(range(len(perm))) else m.emit(node, "Transpose", [source], {"perm": taken_from})
    shape = _shape(graph, node, [sizes[axis] for axis in LAST])
    images = m.emit(node, "Reshape", [rows, shape], {"allowzero": 1})
    m.replace(graph, node.outputs[0], m.emit(node, "Transpose", [images], {"perm": FIRST}))


def _turned(graph: ir.Graph, old: ir.Node, value: ir.Value, perm: list[int]) -> None:
    """Let ``value``, transposed by ``perm``, take the place of the result of ``old``."""
    done = perm == list(range(len(perm)))
    m.replace(graph, old.outputs[0], value if done else m.emit(old, "Transpose", [value], {"perm": perm}))


def _perm(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("perm", ()))


def _images(value: ir.Value, channels: ir.Value | int) -> bool:
    """Whether ``value`` can be ``[N, C, h, w]``: what is known of a convolution's or a Reshape's result says so."""
    wanted = number(channels)
    if wanted is None or wanted < 1:
        return False
    node = m.source(value, "Conv", "ConvTranspose", "Reshape", "Transpose", "Add", "Mul")
    if node is None:
        return False
    if node.op_type == "Transpose":
        return _perm(node) == FIRST
    if node.op_type == "Reshape":
        sizes = pieces(m.taken(node, 1))
        return len(sizes) == 4 and number(sizes[1]) == wanted
    if node.op_type in ("Conv", "ConvTranspose"):
        kernel = m.weight(node.inputs[1])
        return kernel is not None and len(kernel.shape) == 4
    return any(_images(m.taken(node, i), channels) for i in (0, 1))


def _shape(graph: ir.Graph, before: ir.Node, sizes: Sequence[ir.Value | int]) -> ir.Value:
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        return m.constant(graph, np.array(known))
    values = [m.constant(graph, np.array([size])) if isinstance(size, int) else size for size in sizes]
    return m.emit(before, "Concat", values, {"axis": 0})
