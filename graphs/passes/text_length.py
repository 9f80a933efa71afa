"""Pad the text of a split graph, so that its step has one shape for all prompts.

A GPU and OpenVINO open a session for one shape. Text keys and values, which the first part computes once per request,
are padded with rows of zeros. Attention that takes key lengths (`graphs.passes.attention` for CUDA) does not read
those; for attention in plain operators the mask is padded as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m

_KEY, _VALUE, _LENGTHS = 1, 2, 4
"""Inputs of MultiHeadAttention; the last is its mask, here the number of real tokens per row."""
_PLAIN_KEY, _PLAIN_VALUE = 3, 2
"""The axis of tokens in keys `[B, heads, d, L]`, and their mask, and values `[B, heads, L, d]` of plain operators."""


@dataclass(frozen=True)
class Text:
    """The text inputs of a step."""

    axes: Mapping[str, int]
    """Name -> the axis of tokens."""
    masks: frozenset[str]
    """Names of masks, true where a token is hidden."""
    rows: ir.Value
    """An input whose first axis is the rows."""


def pad_text(parts: list[ir.Model], tokens: int) -> list[ir.Model]:
    """Make the last of a graph's parts (`graphs.passes.split.split`) take text of `tokens` tokens, or of more.

    The parts are returned as they are if there is only one, if nothing attends to text, or if the step uses text in any
    other way.
    """
    if len(parts) < 2:
        return parts
    first, *between, step = (part.clone() for part in parts)
    handed_on = {str(value.name): value for value in first.graph.outputs}
    text = _with_lengths(step, handed_on)
    if text is None:
        text = _with_mask(step, handed_on)
    if text is None:
        return parts
    others = [value for value in step.graph.inputs if value.name not in text.axes]
    if not _read_rows_from(step, text.rows, others, _text_axes(first)):
        return parts
    for value in list(first.graph.outputs):
        name = str(value.name)
        if name in text.axes:
            _pad(first.graph, value, text.axes[name], tokens, name in text.masks)
    return [m.tidy(first), *between, m.tidy(step)]


def _with_lengths(step: ir.Model, handed_on: Mapping[str, ir.Value]) -> Text | None:
    """Text inputs used only by attention that takes key lengths; None if there are none or another node uses them."""
    lengths: ir.Value | None = None
    text: dict[str, ir.Value] = {}
    for node in m.nodes_of(step, "MultiHeadAttention"):
        count = _step_input(step, node, _LENGTHS)
        if count is None or m.find_producer(handed_on.get(str(count.name)), "ReduceSum") is None:
            continue
        lengths = count
        pair = _step_input(step, node, _KEY), _step_input(step, node, _VALUE)
        text |= {str(value.name): value for value in pair if value is not None and value.name in handed_on}
    if lengths is None or not all(_is_attended_only(value) for value in text.values()):
        return None
    return Text(dict.fromkeys(text, 1), frozenset(), lengths)


def _with_mask(step: ir.Model, handed_on: Mapping[str, ir.Value]) -> Text | None:
    """Text inputs used only by plain attention with a mask, `softmax(where(mask, .., q K)) V`; None as above."""
    axes: dict[str, int] = {}
    masks: dict[str, ir.Value] = {}
    uses: set[tuple[ir.Node, int]] = set()
    values: list[ir.Value] = []
    for node in m.nodes_of(step, "Softmax"):
        where = m.find_producer(node.inputs[0], "Where")
        mask = None if where is None else _step_input(step, where, 0)
        weighted = m.only_user(node.outputs[0], "MatMul")
        if where is None or mask is None or weighted is None or str(mask.name) not in handed_on:
            continue
        scaled = m.find_producer(where.inputs[2], "Mul", "MatMul")
        product = (
            scaled if scaled is None or scaled.op_type == "MatMul" else m.find_producer(scaled.inputs[0], "MatMul")
        )
        key, value = None if product is None else _step_input(step, product, 1), _step_input(step, weighted, 1)
        if product is None or key is None or value is None or not {str(key.name), str(value.name)} <= handed_on.keys():
            return None
        axes |= {str(key.name): _PLAIN_KEY, str(value.name): _PLAIN_VALUE, str(mask.name): _PLAIN_KEY}
        masks[str(mask.name)] = mask
        uses |= {(where, 0), (product, 1), (weighted, 1)}
        values += [key, value, mask]
    if not masks or any(use not in uses for value in values for use in value.uses()):
        return None
    return Text(axes, frozenset(masks), next(iter(masks.values())))


def _step_input(step: ir.Model, node: ir.Node, index: int) -> ir.Value | None:
    """Input `index` of a node, if it is an input of the step."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return value if value in step.graph.inputs else None


def _is_attended_only(value: ir.Value) -> bool:
    """Whether `value` is used as keys or values only, by nodes that take key lengths."""
    return all(
        node.op_type == "MultiHeadAttention" and index in (_KEY, _VALUE) and len(node.inputs) > _LENGTHS
        for node, index in value.uses()
    )


def _text_axes(first: ir.Model) -> set[str]:
    """Names of the axis of tokens, the second of the text and of its mask."""
    texts = [value for value in first.graph.inputs if value.name in ("context", "context_mask")]
    axes = [value.shape[1] for value in texts if value.shape is not None]
    return {str(axis.value) for axis in axes if not isinstance(axis, int)}


def _read_rows_from(step: ir.Model, rows: ir.Value, others: Sequence[ir.Value], axes: set[str]) -> bool:
    """Read the number of rows from `rows`, not from any of `others` with an axis of tokens, and remove those inputs.

    Returns False, with nothing changed, if the step uses them for anything else.
    """
    inputs = [value for value in others if value.shape is not None and _named(value) & axes]
    nodes = [node for value in inputs for node in m.users(value)]
    if not all(
        node.op_type == "Shape" and (node.attributes.get_int("start", 0), node.attributes.get_int("end", -1)) == (0, 1)
        for node in nodes
    ):
        return False
    for node in nodes:
        node.replace_input_with(0, rows)
    for value in inputs:
        step.graph.inputs.remove(value)
    return True


def _named(value: ir.Value) -> set[str]:
    assert value.shape is not None
    return {str(axis.value) for axis in value.shape if not isinstance(axis, int)}


def _pad(graph: ir.Graph, value: ir.Value, axis: int, tokens: int, is_mask: bool) -> None:
    """Pad the output `value` to `tokens` along `axis`, with zeros or, for a mask, with true; the result has its name.

    Along axis 1 the value is `[B, L, D]`, else it has four axes.
    """

    def constant(*numbers: int) -> ir.Value:
        return m.constant(graph, np.array(numbers, np.int64))

    name, rank = value.name, 3 if axis == 1 else 4
    size = ir.node("Shape", [value], {"start": axis, "end": axis + 1})
    missing = ir.node("Sub", [constant(tokens), size.outputs[0]])
    count = ir.node("Max", [missing.outputs[0], constant(0)])
    pads = ir.node(
        "Concat", [constant(*[0] * (rank + axis)), count.outputs[0], constant(*[0] * (rank - 1 - axis))], {"axis": 0}
    )
    graph.extend([size, missing, count, pads])
    if is_mask:  # not every provider pads bool
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
    value.name, result.name = f"{value.name}.text", name
    result.type = value.type
