"""Add step caching to a bundle: `python -m graphs cache BUNDLE --out FOLDER`.

The deep levels of a U-Net change little from one denoising step to the next (Ma et al. 2024, DeepCache). So the whole
graph gets a second output, `deep`: what its deep levels pass to the outermost one. A shallow graph takes that and
computes the outermost level alone. Both read the same weights: the bundle grows by one graph file per U-Net.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ffrt.bundle import Bundle, open_bundle
from ffrt.errors import BundleError
from ffrt.families import DEEP, SHALLOW, deep_of
from graphs.store import graph_of, new_folder, write_like

_SIZES = ("Shape", "Size")
"""Operators whose result depends on the shape of a tensor only."""


def outermost_skip(graph: ir.Graph) -> ir.Node:
    """The Concat with which the outermost level of a U-Net begins on the way up: deep features, then its own skip.

    Raises BundleError if there is none, as in a network of one level.
    """
    computed = _dependents({value for value in graph.inputs if value.name == "x"}, graph)
    for node in reversed(list(graph)):
        if node.op_type != "Concat" or len(node.inputs) != 2 or node.attributes["axis"].as_int() != 1:
            continue
        deep, skip = node.inputs
        if deep in computed and skip in computed and skip is not None and deep in _dependents({skip}, graph):
            return node
    raise BundleError(
        f"graph {graph.name}: expected a U-Net of two levels or more, with a Concat of deep features and skip, got none"
    )


def with_deep(model: ir.Model) -> ir.Model:
    """A U-Net with a second output, `deep` float32 `[B*T, C, h_deep, w_deep]`: the input of its outermost level.

    Raises BundleError if the graph is no U-Net or has that output already.
    """
    model = model.clone()
    graph = model.graph
    if DEEP in [value.name for value in (*graph.inputs, *graph.outputs)]:
        raise BundleError(f"graph {graph.name}: it has {DEEP!r} already; give the bundle as it was exported")
    cast = ir.node("Cast", [outermost_skip(graph).inputs[0]], {"to": ir.DataType.FLOAT})
    graph.append(cast)  # float32 whatever the graph computes in; ONNX Runtime drops a cast that changes nothing
    graph.outputs.append(_describe(cast.outputs[0], graph))
    return model


def shallow(model: ir.Model) -> ir.Model:
    """The outermost level of a U-Net: one more input, `deep` as `with_deep` outputs it, and the same prediction.

    Raises BundleError if the graph is no U-Net.
    """
    model = model.clone()
    graph = model.graph
    node = outermost_skip(graph)
    deep = _describe(ir.Value(), graph)
    cast = ir.node("CastLike", [deep, node.inputs[1]])
    graph.insert_before(node, cast)
    node.replace_input_with(0, cast.outputs[0])
    graph.inputs.append(deep)
    del graph.outputs[1:]  # keep the prediction
    RemoveUnusedNodesPass()(model)
    return model


def write_cached(bundle: Bundle, out: Path) -> Bundle:
    """Write `bundle` with the shallow graphs of its U-Nets to `out`, which appears whole or not at all.

    Raises BundleError if `bundle` has them already or was optimised, if `out` exists or if a U-Net has a single level.
    """
    present = sorted(set(SHALLOW.values()) & set(bundle.graphs))
    if present:
        raise BundleError(f"bundle: {bundle.folder} has {present} already; give a bundle without them")
    if bundle.optimised is not None:
        raise BundleError(
            f"bundle: {bundle.folder} was optimised; give the bundle it was made from, and optimise the result"
        )
    changed = {bundle.graphs[name].file for name in SHALLOW}
    kept = {file: spec for file, spec in bundle.files.items() if file not in changed}
    graphs = dict(bundle.graphs)
    with new_folder(out) as folder:
        for file in kept:
            bundle.copy(file, folder)
        for name, small in SHALLOW.items():
            spec = bundle.graphs[name]
            with graph_of(bundle, name) as model:
                ir.save(with_deep(model), folder / spec.file)
                ir.save(shallow(model), folder / f"{small}.onnx")
            deep = deep_of((spec.inputs, spec.outputs))
            graphs[name] = replace(spec, outputs=(*spec.outputs, deep))
            graphs[small] = replace(spec, file=f"{small}.onnx", inputs=(*spec.inputs, deep))
        write_like(bundle, folder, graphs, kept)
    return open_bundle(out, verify=False)


def _dependents(start: set[ir.Value], graph: ir.Graph) -> set[ir.Value]:
    """All values whose numbers depend on those of `start`."""
    values = set(start)
    for node in graph:
        if node.op_type not in _SIZES and any(value in values for value in node.inputs):
            values.update(node.outputs)
    return values


def _describe(value: ir.Value, graph: ir.Graph) -> ir.Value:
    """Name and type `value` as the graph input or output `deep`, whose first axis is that of `x`."""
    x = next(value for value in graph.inputs if value.name == "x")
    first = None if x.shape is None else x.shape[0]
    value.name, value.type = DEEP, ir.TensorType(ir.DataType.FLOAT)
    value.shape = ir.Shape([first, "C", "h_deep", "w_deep"])
    return value
