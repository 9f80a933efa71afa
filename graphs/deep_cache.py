"""`python -m graphs.deep_cache BUNDLE --out FOLDER`: the bundle with the graphs that step caching needs.

The deep levels of a U-Net change little from one denoising step to the next (Ma et al. 2024, DeepCache). So the whole
graph is made to give what the deep levels hand to the outermost one, `deep`, and a shallow graph beside it takes that
and computes the outermost level alone. Both read the same weights: the bundle grows by a graph file for each U-Net.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ffrt.bundle import Bundle, find_bundle, open_bundle
from ffrt.errors import BundleError, FfrtError
from ffrt.families import DEEP, SHALLOW, deep_of
from graphs.passes.ir import check_place, write_like

_SIZES = ("Shape", "Size")
"""What tells of a tensor only how large it is."""


def outermost_skip(graph: ir.Graph) -> ir.Node:
    """The Concat of a U-Net where its outermost level, on the way up, begins: deep features first, then its own skip.

    Raises BundleError where the graph has none, as a network of one level.
    """
    computed = _reached({value for value in graph.inputs if value.name == "x"}, graph)
    for node in reversed(list(graph)):
        if node.op_type != "Concat" or len(node.inputs) != 2 or node.attributes["axis"].as_int() != 1:
            continue
        deep, skip = node.inputs
        if deep in computed and skip in computed and skip is not None and deep in _reached({skip}, graph):
            return node
    raise BundleError(
        f"graph {graph.name}: expected a U-Net of two levels or more, with a Concat of deep features and skip, got none"
    )


def with_deep(model: ir.Model) -> ir.Model:
    """A U-Net with one more output: `deep` float32 `[B*T, C, h_deep, w_deep]`, what its outermost level has from below.

    Raises BundleError where the graph is no U-Net or gives it already.
    """
    model = model.clone()
    graph = model.graph
    if DEEP in [value.name for value in (*graph.inputs, *graph.outputs)]:
        raise BundleError(f"graph {graph.name}: it has {DEEP!r} already; give the bundle as it was exported")
    cast = ir.node("Cast", [outermost_skip(graph).inputs[0]], {"to": ir.DataType.FLOAT})
    graph.append(cast)  # float32 whatever the graph computes in; where that is float32, ONNX Runtime drops it
    graph.outputs.append(_describe(cast.outputs[0], graph))
    return model


def shallow(model: ir.Model) -> ir.Model:
    """The outermost level of a U-Net: one more input, `deep` as :func:`with_deep` gives it, and the same prediction.

    Raises BundleError where the graph is no U-Net.
    """
    model = model.clone()
    graph = model.graph
    node = outermost_skip(graph)
    deep = _describe(ir.Value(), graph)
    cast = ir.node("CastLike", [deep, node.inputs[1]])
    graph.insert_before(node, cast)
    node.replace_input_with(0, cast.outputs[0])
    graph.inputs.append(deep)
    del graph.outputs[1:]  # prediction alone
    RemoveUnusedNodesPass()(model)
    return model


def write_cached(bundle: Bundle, out: Path) -> Bundle:
    """Write `bundle` with the shallow graphs of its U-Nets to `out`, which appears whole or not at all.

    Raises BundleError where it has them already or was optimised, where `out` exists or a U-Net has a single level.
    """
    has = sorted(set(SHALLOW.values()) & set(bundle.graphs))
    if has:
        raise BundleError(f"{bundle.folder}: it has {has} already; give a bundle without them")
    if bundle.optimised is not None:
        raise BundleError(f"{bundle.folder}: it was optimised; give the bundle it was made of, and optimise the result")
    check_place(out)
    changed = {bundle.graphs[name].file for name in SHALLOW}
    kept = {file: spec for file, spec in bundle.files.items() if file not in changed}
    graphs = dict(bundle.graphs)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.parent / f".{out.name}.writing.{os.getpid()}"
    beside.mkdir()
    try:
        for file in kept:
            shutil.copyfile(bundle.path(file), beside / file)
        for name, small in SHALLOW.items():
            spec = bundle.graphs[name]
            model = ir.load(bundle.path(spec.file))
            ir.save(with_deep(model), beside / spec.file)
            ir.save(shallow(model), beside / f"{small}.onnx")
            deep = deep_of((spec.inputs, spec.outputs))
            graphs[name] = replace(spec, outputs=(*spec.outputs, deep))
            graphs[small] = replace(spec, file=f"{small}.onnx", inputs=(*spec.inputs, deep))
        write_like(bundle, beside, graphs, kept)
        os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return open_bundle(out, verify=False)


def _reached(start: set[ir.Value], graph: ir.Graph) -> set[ir.Value]:
    """All values whose numbers depend on those of `start`."""
    found = set(start)
    for node in graph:
        if node.op_type not in _SIZES and any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def _describe(value: ir.Value, graph: ir.Graph) -> ir.Value:
    """`value` as the input or output `deep` of a graph, whose first axis is that of `x`."""
    x = next(one for one in graph.inputs if one.name == "x")
    first = None if x.shape is None else x.shape[0]
    value.name, value.type = DEEP, ir.TensorType(ir.DataType.FLOAT)
    value.shape = ir.Shape([first, "C", "h_deep", "w_deep"])
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 0: written; 1: it could not be, and nothing was."""
    line = argparse.ArgumentParser(prog="python -m graphs.deep_cache", description=__doc__.splitlines()[0])
    line.add_argument("bundle", metavar="BUNDLE", help="folder of a bundle, or 'demo'")
    line.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the new bundle")
    asked = line.parse_args(arguments)
    try:
        made = write_cached(open_bundle(find_bundle(asked.bundle)), asked.out)
    except (FfrtError, OSError) as error:
        print(f"graphs.deep_cache: {error}", file=sys.stderr)
        return 1
    for name, small in SHALLOW.items():
        nodes = [len(ir.load(made.path(made.graphs[graph].file)).graph) for graph in (name, small)]
        print(f"{small}: {nodes[1]} of the {nodes[0]} nodes of {name}")
    print(f"{asked.out}: type ffrt generate PROMPT -o clip.mp4 --bundle {asked.out} --cache-interval 2")
    return 0


if __name__ == "__main__":
    sys.exit(main())
