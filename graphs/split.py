"""One graph becomes several, by how often what they work out changes: once a request, once a noise level, every step.

Text keys and values are the same in all steps, tables of scale and shift follow from the time alone
(:mod:`graphs.modulation`); only what depends on ``x`` is left in the step. The parts are run in order, each fed with
inputs of the whole graph and with what earlier parts gave.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from graphs.islands import dtypes
from graphs.model import emit, nodes_of, replace, source, taken, tidy
from graphs.modulation import TABLE

FAST = ("x", "deep", "temporal_mask")
"""Inputs of the step: what is denoised, and the mask, which has a row for every group once it is used (1.1). Where the
slow parts take a size from it, as 1.1 interpolation does, the graph stays whole."""
FREE = -1
"""What follows from constants and sizes of inputs is worked out wherever it is used."""


def split(model: ir.Model, slow: Iterable[str] = ("time",), fast: Iterable[str] = FAST) -> list[ir.Model]:
    """The parts in order; what depends on no input of ``slow`` or ``fast`` is the first, what on none of ``fast`` the
    second. A part that would give nothing is left out. A graph comes back alone where it has no input of ``fast``, or
    its slow parts need one for a size, as in bundles exported before version 0.2."""
    if not any(value.name in set(fast) for value in model.graph.inputs):
        return [model]
    model = sizes_of_inputs(model)
    graph = model.graph
    for value, dtype in dtypes(graph).items():
        value.type = ir.TensorType(dtype)
    when = {value: 0 for value in graph.inputs}
    when.update({value: 1 for value in graph.inputs if value.name in set(slow)})
    when.update({value: 2 for value in graph.inputs if value.name in set(fast)})
    for node in graph:
        if node.op_type == "Shape" and node.inputs[0] in graph.inputs:
            level = FREE
        else:
            level = max((_level(value, when) for value in node.inputs if value is not None), default=FREE)
        when.update(dict.fromkeys(node.outputs, level))
    crossing: dict[int, list[ir.Value]] = {0: [], 1: []}
    for node in graph:
        for value in node.outputs:
            level = when[value]
            later = any(when[user.outputs[0]] > level for user, _ in value.uses()) or value.is_graph_output()
            if level in crossing and later:
                crossing[level].append(value)
    known = [value for values in crossing.values() for value in values]
    parts = []
    for level, outputs in ((0, crossing[0]), (1, crossing[1]), (2, list(graph.outputs))):
        if outputs:
            parts.append(_part(model, outputs, [value for value in known if when[value] < level]))
    needless = any(value.name in set(fast) for part in parts[:-1] for value in part.graph.inputs)
    return [model] if needless else parts


def _level(value: ir.Value, when: dict[ir.Value, int]) -> int:
    """When what uses ``value`` is worked out; tables are cut apart in the step, so that they cross whole."""
    return 2 if value.name is not None and value.name.startswith(TABLE) else when.get(value, FREE)


def sizes_of_inputs(model: ir.Model) -> ir.Model:
    """Sizes of an input that was taken apart, ``[B*G, ...]`` to ``[B, G, ...]``, are read from the inputs themselves:
    then what needs ``B`` alone does not wait for ``x`` (:func:`export.trace.take_apart`)."""
    model = model.clone()
    graph = model.graph
    alone = {
        str(axis): (value, at)
        for value in graph.inputs
        for at, axis in enumerate(() if value.shape is None else value.shape)
        if not isinstance(axis, int)
    }
    for node in nodes_of(model, "Shape"):
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 0)
        apart = source(node.inputs[0], "Reshape")
        whole = None if apart is None else taken(apart, 0)
        if whole is None or whole.shape is None or whole not in graph.inputs or end != start + 1:
            continue
        letters = str(whole.shape[0]).split("*")
        if len(letters) < 2:
            continue
        if start >= len(letters):
            found = (whole, start - len(letters) + 1)
        elif letters[start] in alone:
            found = alone[letters[start]]
        else:
            continue
        replace(graph, node.outputs[0], emit(node, "Shape", [found[0]], {"start": found[1], "end": found[1] + 1}))
    return tidy(model)


def _part(model: ir.Model, outputs: list[ir.Value], known: list[ir.Value]) -> ir.Model:
    """What works out ``outputs``, fed with as few inputs and ``known`` values as it takes."""
    ends = {*model.graph.inputs, *known}
    waiting, seen, fed = list(outputs), set(outputs), []
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value in ends and value not in outputs:
            fed.append(value)
        elif node is not None:
            fresh = [given for given in node.inputs if given is not None and given not in seen]
            seen.update(fresh)
            waiting += fresh
    order = [value for value in [*model.graph.inputs, *known] if value in fed]
    graph = ir.convenience.extract(model.graph, order, outputs)
    graph.opset_imports.update(model.graph.opset_imports)
    return ir.Model(graph, ir_version=model.ir_version)
