"""The step of a split graph sees text of one length: a GPU and OpenVINO open a session for one shape, and keep it for
all prompts.

Text keys and values, which the first part works out once a request, are filled up with rows of zeros. Attention that is
told how many tokens are real (:mod:`graphs.passes.attention` for CUDA) does not see those; where it is plain operators,
the mask is filled up as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m

_KEY, _VALUE, _LENGTHS = 1, 2, 4
"""Inputs of MultiHeadAttention; the last one is its mask, here the number of real tokens of each row."""
_PLAIN_KEY, _PLAIN_VALUE = 3, 2
"""The axis of tokens of keys [B, heads, d, L] and values [B, heads, L, d] of plain operators, and of their mask."""


@dataclass(frozen=True)
class Text:
    """What the step sees of text: by name its inputs with an axis of tokens, and that axis, and one whose first axis is
    the rows. `masks` is true where a token is hidden.
    """

    axes: Mapping[str, int]
    masks: frozenset[str]
    rows: ir.Value


def pad_text(parts: list[ir.Model], tokens: int) -> list[ir.Model]:
    """The parts of a graph (:func:`graphs.passes.split.split`), of which the last takes text of ``tokens`` rows, or of
    more.

    They come back as they are where there is one alone, where nothing attends to text, and where the step sees text in
    another way than through such attention.
    """
    if len(parts) < 2:
        return parts
    first, *between, step = (part.clone() for part in parts)
    given = {str(value.name): value for value in first.graph.outputs}
    text = _told_lengths(step, given) or _masked(step, given)
    if text is None:
        return parts
    others = [value for value in step.graph.inputs if value.name not in text.axes]
    if not _rows_of(step, text.rows, others, _text_axes(first)):
        return parts
    for value in list(first.graph.outputs):
        name = str(value.name)
        if name in text.axes:
            _fill_up(first.graph, value, text.axes[name], tokens, name in text.masks)
    return [m.tidy(first), *between, m.tidy(step)]


def _told_lengths(step: ir.Model, given: Mapping[str, ir.Value]) -> Text | None:
    """Text that attention sees which is told lengths; None where there is none, or it is seen in another way too."""
    lengths: ir.Value | None = None
    text: dict[str, ir.Value] = {}
    for node in m.nodes_of(step, "MultiHeadAttention"):
        count = _fed(step, node, _LENGTHS)
        if count is None or m.find_producer(given.get(str(count.name)), "ReduceSum") is None:
            continue
        lengths = count
        found = [value for value in (_fed(step, node, _KEY), _fed(step, node, _VALUE)) if value is not None]
        text |= {str(value.name): value for value in found if value.name in given}
    if lengths is None or not all(_attended(value) for value in text.values()):
        return None
    return Text(dict.fromkeys(text, 1), frozenset(), lengths)


def _masked(step: ir.Model, given: Mapping[str, ir.Value]) -> Text | None:
    """Text that plain attention sees under a mask: softmax(where(mask, .., q K)) V; None as above."""
    axes: dict[str, int] = {}
    masks: dict[str, ir.Value] = {}
    uses: set[tuple[ir.Node, int]] = set()
    values: list[ir.Value] = []
    for node in m.nodes_of(step, "Softmax"):
        where = m.find_producer(node.inputs[0], "Where")
        mask = None if where is None else _fed(step, where, 0)
        weighed = m.only_user(node.outputs[0], "MatMul")
        if where is None or mask is None or weighed is None or str(mask.name) not in given:
            continue
        scaled = m.find_producer(where.inputs[2], "Mul", "MatMul")
        product = (
            scaled if scaled is None or scaled.op_type == "MatMul" else m.find_producer(scaled.inputs[0], "MatMul")
        )
        key, value = None if product is None else _fed(step, product, 1), _fed(step, weighed, 1)
        if product is None or key is None or value is None or not {str(key.name), str(value.name)} <= given.keys():
            return None
        axes |= {str(key.name): _PLAIN_KEY, str(value.name): _PLAIN_VALUE, str(mask.name): _PLAIN_KEY}
        masks[str(mask.name)] = mask
        uses |= {(where, 0), (product, 1), (weighed, 1)}
        values += [key, value, mask]
    if not masks or any(use not in uses for value in values for use in value.uses()):
        return None
    return Text(axes, frozenset(masks), next(iter(masks.values())))


def _fed(step: ir.Model, node: ir.Node, index: int) -> ir.Value | None:
    """Input ``index`` of a node, where the graph is fed with it."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return value if value in step.graph.inputs else None


def _attended(value: ir.Value) -> bool:
    """Whether ``value`` is keys or values alone, and of nodes that are told lengths."""
    return all(
        node.op_type == "MultiHeadAttention" and index in (_KEY, _VALUE) and len(node.inputs) > _LENGTHS
        for node, index in value.uses()
    )


def _text_axes(first: ir.Model) -> set[str]:
    """The names of the axis of tokens: the second of the text and of its mask."""
    texts = [value for value in first.graph.inputs if value.name in ("context", "context_mask")]
    axes = [value.shape[1] for value in texts if value.shape is not None]
    return {str(axis.value) for axis in axes if not isinstance(axis, int)}


def _rows_of(step: ir.Model, lengths: ir.Value, others: Sequence[ir.Value], axes: set[str]) -> bool:
    """Let the step read its rows from ``lengths`` where it read them from one of ``others`` with an axis of tokens,
    which is no input then. False, with nothing changed, where it reads more from such an input.
    """
    inputs = [value for value in others if value.shape is not None and _named(value) & axes]
    nodes = [node for value in inputs for node in m.users(value)]
    if not all(
        node.op_type == "Shape" and (node.attributes.get_int("start", 0), node.attributes.get_int("end", -1)) == (0, 1)
        for node in nodes
    ):
        return False
    for node in nodes:
        node.replace_input_with(0, lengths)
    for value in inputs:
        step.graph.inputs.remove(value)
    return True


def _named(value: ir.Value) -> set[str]:
    assert value.shape is not None
    return {str(axis.value) for axis in value.shape if not isinstance(axis, int)}


def _fill_up(graph: ir.Graph, value: ir.Value, axis: int, tokens: int, hidden: bool) -> None:
    """Behind the output ``value``, zeros up to ``tokens`` along ``axis``, or with ``hidden`` a true mask; the result
    has its name. Along axis 1 it is [B, L, D], else of four axes.
    """

    def number(*numbers: int) -> ir.Value:
        return m.constant(graph, np.array(numbers, np.int64))

    name, rank = value.name, 3 if axis == 1 else 4
    size = ir.node("Shape", [value], {"start": axis, "end": axis + 1})
    missing = ir.node("Sub", [number(tokens), size.outputs[0]])
    filled = ir.node("Max", [missing.outputs[0], number(0)])
    pads = ir.node(
        "Concat", [number(*[0] * (rank + axis)), filled.outputs[0], number(*[0] * (rank - 1 - axis))], {"axis": 0}
    )
    graph.extend([size, missing, filled, pads])
    if hidden:  # Pad does not take truth values everywhere
        numbers = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
        one = m.constant(graph, np.array(1, np.float32))
        padded = ir.node("Pad", [numbers.outputs[0], pads.outputs[0], one])
        last = ir.node("Cast", [padded.outputs[0]], {"to": ir.DataType.BOOL})
        graph.extend([numbers, padded, last])
    else:
        last = ir.node("Pad", [value, pads.outputs[0]])
        graph.append(last)
    result = last.outputs[0]
    graph.outputs[list(graph.outputs).index(value)] = result
    value.name, result.name = f"{name}.text", name
    result.type = value.type
