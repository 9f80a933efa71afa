"""One graph becomes several, by how often what they work out changes: once a request, once a noise level, every step.

Text keys and values are the same in all steps, tables of scale and shift follow from the time alone
(:mod:`graphs.passes.modulation`); only what depends on ``x`` is left in the step. The parts are run in order, each fed
with inputs of the whole graph and with what earlier parts gave.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from graphs.passes import ir as m
from graphs.passes.islands import dtypes
from graphs.passes.modulation import TABLE

SLOW = ("time",)
"""Inputs that differ from one noise level to the next."""
FAST = ("x", "deep", "temporal_mask")
"""Inputs of the step: what is denoised, and the mask, which only the step multiplies by (1.1). Earlier parts read the
sizes that they share with these from other inputs (:func:`sizes_of_inputs`)."""
FREE = -1
"""What follows from constants and sizes of inputs is worked out wherever it is used."""


def split(model: ir.Model, slow: Collection[str] = SLOW, fast: Collection[str] = FAST) -> list[ir.Model]:
    """The parts in order; what depends on no input of ``slow`` or ``fast`` is the first, what on none of ``fast`` the
    second. A part that would give nothing is left out. A graph comes back alone where it has no input of ``fast``, or
    its slow parts need one for a size that no other input has, as in bundles exported before version 0.2.
    """
    if not any(value.name in fast for value in model.graph.inputs):
        return [model]
    model = sizes_of_inputs(model, slow, fast)
    graph = model.graph
    for value, dtype in dtypes(graph).items():
        value.type = ir.TensorType(dtype)
    when = _when(graph, slow, fast)
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
    needless = any(value.name in fast for part in parts[:-1] for value in part.graph.inputs)
    return [model] if needless else parts


def _when(graph: ir.Graph, slow: Collection[str], fast: Collection[str]) -> dict[ir.Value, int]:
    """How often inputs change: 0 once a request, 1 once a noise level, 2 in every step."""
    return {value: 2 if value.name in fast else int(value.name in slow) for value in graph.inputs}


def _level(value: ir.Value, when: dict[ir.Value, int]) -> int:
    """When what uses ``value`` is worked out; tables are cut apart in the step, so that they cross whole."""
    return 2 if value.name is not None and value.name.startswith(TABLE) else when.get(value, FREE)


def sizes_of_inputs(model: ir.Model, slow: Collection[str] = SLOW, fast: Collection[str] = FAST) -> ir.Model:
    """Sizes of inputs of ``fast``, and of one that was taken apart, ``[B*G, ...]`` to ``[B, G, ...]``
    (:func:`export.onnx.trace.take_apart`), are read where they change least: what needs ``B`` alone then waits neither
    for ``x`` nor for the mask, and what runs once a request not for the time.
    """
    model = model.clone()
    graph = model.graph
    alone = _axes_alone(graph, _when(graph, slow, fast))
    for node in m.nodes_of(model, "Shape"):
        given = m.input_of(node, 0)
        apart = m.find_producer(given, "Reshape")
        whole = given if apart is None else m.input_of(apart, 0)
        if whole not in graph.inputs or whole.shape is None or (apart is None and whole.name not in fast):
            continue
        first, *rest = (axis if isinstance(axis, int) else str(axis.value) for axis in whole.shape)
        letters = [first] if apart is None else str(first).split("*")
        behind = len(letters) - 1  # how much later the other axes come than in the input
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(letters) + len(rest))
        if start < 0 or end != start + 1 or (apart is not None and behind == 0):
            continue
        name = [*letters, *rest][start]
        if name in alone:
            found = alone[name]
        elif start > behind:
            found = (whole, start - behind)
        else:
            continue
        m.replace(graph, node.outputs[0], m.emit(node, "Shape", [found[0]], {"start": found[1], "end": found[1] + 1}))
    return m.tidy(model)


def _axes_alone(graph: ir.Graph, when: Mapping[ir.Value, int]) -> dict[int | str, tuple[ir.Value, int]]:
    """Every named axis, and the input to read it from: one that changes least, of these one with the fewest axes."""
    found: dict[int | str, tuple[ir.Value, int]] = {}
    shapes = [(value, value.shape) for value in graph.inputs if value.shape is not None]
    for value, shape in sorted(shapes, key=lambda one: (-when[one[0]], -len(one[1]))):  # the best comes last
        for at, axis in enumerate(shape):
            if not isinstance(axis, int):
                found[str(axis.value)] = (value, at)
    return found


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
