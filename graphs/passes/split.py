"""Split a graph into parts by how often their results change: once per request, once per noise level, every step.

Text keys and values are the same in all steps, and tables of scale and shift depend on the time only
(`graphs.passes.modulation`); what depends on `x` is left in the step. The parts run in order, each fed with inputs of
the whole graph and with results of earlier parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from ffrt.errors import BundleError
from graphs.passes import ir as m
from graphs.passes.islands import dtypes
from graphs.passes.modulation import TABLE

SLOW = ("time",)
"""Inputs that change from one noise level to the next."""
FAST = ("x", "deep", "temporal_mask")
"""Inputs of the step: what is denoised, and the mask, which only the step multiplies by (1.1). Earlier parts read sizes
that these share with other inputs from those (`sizes_of_inputs`)."""
FREE = -1
"""The level of values that depend on constants and sizes of inputs only: they are computed wherever they are used."""


def split(model: ir.Model, slow: Collection[str] = SLOW, fast: Collection[str] = FAST) -> list[ir.Model]:
    """The parts in order: what depends on no input of `slow` or `fast`, then on none of `fast`, then the rest.

    A part without results is left out; a graph without an input of `fast` is returned alone. Raises BundleError if an
    earlier part needs an input of `fast`, for a size that no other input has.
    """
    if not any(value.name in fast for value in model.graph.inputs):
        return [model]
    model = sizes_of_inputs(model, slow, fast)
    graph = model.graph
    for value, dtype in dtypes(graph).items():
        value.type = ir.TensorType(dtype)
    level_of = _input_levels(graph, slow, fast)
    for node in graph:
        if node.op_type == "Shape" and node.inputs[0] in graph.inputs:
            level = FREE
        else:
            level = max((_user_level(value, level_of) for value in node.inputs if value is not None), default=FREE)
        level_of.update(dict.fromkeys(node.outputs, level))
    crossing: dict[int, list[ir.Value]] = {0: [], 1: []}
    for node in graph:
        for value in node.outputs:
            level = level_of[value]
            later = any(level_of[user.outputs[0]] > level for user, _ in value.uses()) or value.is_graph_output()
            if level in crossing and later:
                crossing[level].append(value)
    known = [value for values in crossing.values() for value in values]
    parts = []
    for level, outputs in ((0, crossing[0]), (1, crossing[1]), (2, list(graph.outputs))):
        if outputs:
            parts.append(_part(model, outputs, [value for value in known if level_of[value] < level]))
    needed = sorted({str(value.name) for part in parts[:-1] for value in part.graph.inputs} & set(fast))
    if needed:
        raise BundleError(
            f"graph {graph.name}: expected every size of {needed} that earlier parts need in another input, got none; "
            "leave the graph whole with --without split"
        )
    return parts


def _input_levels(graph: ir.Graph, slow: Collection[str], fast: Collection[str]) -> dict[ir.Value, int]:
    """How often inputs change: 0 once per request, 1 once per noise level, 2 in every step."""
    return {value: 2 if value.name in fast else int(value.name in slow) for value in graph.inputs}


def _user_level(value: ir.Value, level_of: dict[ir.Value, int]) -> int:
    """How often consumers of `value` run. Tables are split inside the step, so they cross the boundary in one piece."""
    return 2 if value.name is not None and value.name.startswith(TABLE) else level_of.get(value, FREE)


def sizes_of_inputs(model: ir.Model, slow: Collection[str] = SLOW, fast: Collection[str] = FAST) -> ir.Model:
    """Read sizes of inputs of `fast`, and of joined axes, from the input that changes least and has them as well.

    An input `[B*G, ...]` whose first axis is joined is viewed as `[B, G, ...]` (`export.onnx.trace`). What needs `B`
    alone then depends neither on `x` nor on the mask, and what runs once per request not on the time.
    """
    model = model.clone()
    graph = model.graph
    alone = _separate_axes(graph, _input_levels(graph, slow, fast))
    for node in m.nodes_of(model, "Shape"):
        value = m.input_of(node, 0)
        view = m.find_producer(value, "Reshape")
        whole = value if view is None else m.input_of(view, 0)
        if whole not in graph.inputs or whole.shape is None or (view is None and whole.name not in fast):
            continue
        first, *rest = (axis if isinstance(axis, int) else str(axis.value) for axis in whole.shape)
        letters = [first] if view is None else str(first).split("*")
        moved = len(letters) - 1  # how much further back the other axes are in the view
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(letters) + len(rest))
        if start < 0 or end != start + 1 or (view is not None and moved == 0):
            continue
        name = [*letters, *rest][start]
        if name in alone:
            source, axis = alone[name]
        elif start > moved:
            source, axis = whole, start - moved
        else:
            continue
        m.replace(graph, node.outputs[0], m.emit(node, "Shape", [source], {"start": axis, "end": axis + 1}))
    return m.tidy(model)


def _separate_axes(graph: ir.Graph, level_of: Mapping[ir.Value, int]) -> dict[int | str, tuple[ir.Value, int]]:
    """Axis name -> the input to read it from: one that changes least, and of these one with the fewest axes."""
    sources: dict[int | str, tuple[ir.Value, int]] = {}
    shapes = [(value, value.shape) for value in graph.inputs if value.shape is not None]
    for value, shape in sorted(shapes, key=lambda pair: (-level_of[pair[0]], -len(pair[1]))):  # the best comes last
        for at, axis in enumerate(shape):
            if not isinstance(axis, int):
                sources[str(axis.value)] = (value, at)
    return sources


def _part(model: ir.Model, outputs: list[ir.Value], known: list[ir.Value]) -> ir.Model:
    """The graph that computes `outputs` from as few inputs and `known` values as possible."""
    ends = {*model.graph.inputs, *known}
    waiting, visited, fed = list(outputs), set(outputs), []
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value in ends and value not in outputs:
            fed.append(value)
        elif node is not None:
            fresh = [operand for operand in node.inputs if operand is not None and operand not in visited]
            visited.update(fresh)
            waiting += fresh
    order = [value for value in [*model.graph.inputs, *known] if value in fed]
    graph = ir.convenience.extract(model.graph, order, outputs)
    weights = dict(graph.initializers)
    graph.initializers.clear()  # `extract` leaves them in an order that differs from run to run
    for name in model.graph.initializers:
        if name in weights:
            graph.register_initializer(weights[name])
    graph.opset_imports.update(model.graph.opset_imports)
    return ir.Model(graph, ir_version=model.ir_version)
