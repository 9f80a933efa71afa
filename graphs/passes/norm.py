"""GroupNorm as exporters write it, in the form that the CPU runs fastest.

PyTorch's GroupNorm without weights is exported as InstanceNormalization followed by a Mul by ones and an Add of zeros,
each a pass over the activations; ONNX Runtime keeps both because their constants are per channel. There,
InstanceNormalization runs on one thread and LayerNormalization on all; both compute mean and deviation in two passes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m

_NEUTRAL = {"Mul": 1.0, "Add": 0.0}


def drop_neutral(model: ir.Model) -> ir.Model:
    """Remove products with ones and sums with zeros behind InstanceNormalization."""
    model = model.clone()
    for norm in m.nodes_of(model, "InstanceNormalization"):
        shaped = m.only_user(norm.outputs[0], "Reshape")
        value = norm.outputs[0] if shaped is None else shaped.outputs[0]
        while (node := _affine(value)) is not None:
            other = m.input_of(node, 1 if node.inputs[0] is value else 0)
            kernel = m.weight(other)
            if kernel is None or (m.as_float32(kernel) != _NEUTRAL[node.op_type]).any() or len(kernel.shape) > 4:
                break
            m.replace(model.graph, node.outputs[0], value)
            cast = other.producer()
            unused = cast is not None and m.users(other) == [node]
            model.graph.remove([node, cast] if cast is not None and unused else [node], safe=True)
    return m.tidy(model)


def _affine(value: ir.Value) -> ir.Node | None:
    """The only product or sum that uses `value`; casts to its type do not count."""
    nodes = [node for node in m.users(value) if node.op_type != "CastLike"]
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type in _NEUTRAL else None


def layer_norm(model: ir.Model) -> ir.Model:
    """InstanceNormalization over `[N, groups, n]` without weights becomes LayerNormalization over the last axis."""
    model = model.clone()
    graph = model.graph
    for norm in m.nodes_of(model, "InstanceNormalization"):
        scale, shift = (m.weight(norm.inputs[index]) for index in (1, 2))
        shaped = m.input_of(norm, 0).producer()
        if scale is None or shift is None or shaped is None or shaped.op_type != "Reshape":
            continue
        target = m.weight(shaped.inputs[1])
        if target is None or target.size != 3 or (m.as_float32(scale) != 1).any() or (m.as_float32(shift) != 0).any():
            continue
        size = m.emit(norm, "Shape", [norm.inputs[0]], {"start": 2, "end": 3})
        ones = m.emit(norm, "ConstantOfShape", [size], {"value": ir.tensor(np.ones(1, np.float32))})
        epsilon = norm.attributes.get_float("epsilon", 1e-5)
        new = m.emit(norm, "LayerNormalization", [norm.inputs[0], ones], {"axis": -1, "epsilon": epsilon})
        m.replace(graph, norm.outputs[0], new)
    return m.tidy(model)
