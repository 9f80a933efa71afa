"""The step of a split graph sees text of one length: a GPU opens a session for one shape, and keeps it for all prompts.

Text keys and values, which the first part works out once a request, are filled up with rows of zeros. Attention that is
told how many tokens are real (:mod:`graphs.attention` for CUDA) does not see those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphs import model as m

_KEY, _VALUE, _LENGTHS = 1, 2, 4
"""Inputs of MultiHeadAttention; the last one is its mask, here the number of real tokens of each row."""


def fixed_text(parts: list[ir.Model], tokens: int) -> list[ir.Model]:
    """The parts of a graph (:func:`graphs.split.split`), of which the last takes text of ``tokens`` rows, or of more.

    They come back as they are where there is one alone, where nothing attends to text, and where the step sees text in
    another way than through such attention.
    """
    if len(parts) < 2:
        return parts
    first, *between, step = (part.clone() for part in parts)
    given = {value.name: value for value in first.graph.outputs}
    lengths: ir.Value | None = None
    text: dict[str | None, ir.Value] = {}
    for node in m.nodes_of(step, "MultiHeadAttention"):
        count = _fed(step, node, _LENGTHS)
        if count is None or m.source(given.get(count.name), "ReduceSum") is None:
            continue
        lengths = count
        found = [value for value in (_fed(step, node, _KEY), _fed(step, node, _VALUE)) if value is not None]
        text |= {value.name: value for value in found if value.name in given}
    if lengths is None or not all(_attended(value) for value in text.values()):
        return parts
    others = [value for value in step.graph.inputs if value.name not in text]
    if not _rows_of(step, lengths, others, _text_axes(first)):
        return parts
    for value in list(first.graph.outputs):
        if value.name in text:
            _fill_up(first.graph, value, tokens)
    return [m.tidy(first), *between, m.tidy(step)]


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
    which is no input then. False, with nothing changed, where it reads more from such an input."""
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


def _fill_up(graph: ir.Graph, value: ir.Value, tokens: int) -> None:
    """Behind the output ``value`` [B, L, D], rows of zeros up to ``tokens``; the result has its name."""

    def number(*numbers: int) -> ir.Value:
        return m.constant(graph, np.array(numbers, np.int64))

    name = value.name
    size = ir.node("Shape", [value], {"start": 1, "end": 2})
    missing = ir.node("Sub", [number(tokens), size.outputs[0]])
    filled = ir.node("Max", [missing.outputs[0], number(0)])
    pads = ir.node("Concat", [number(0, 0, 0, 0), filled.outputs[0], number(0)], {"axis": 0})
    padded = ir.node("Pad", [value, pads.outputs[0]])
    graph.extend([size, missing, filled, pads, padded])
    result = padded.outputs[0]
    graph.outputs[list(graph.outputs).index(value)] = result
    value.name, result.name = f"{name}.text", name
    result.type = value.type
