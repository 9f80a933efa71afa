"""GroupNorm as exporters write it, without what does nothing.

PyTorch's GroupNorm without weights becomes InstanceNormalization times ones plus zeros, a pass over the activations
each, which ONNX Runtime keeps since they are a number a channel.
"""

from __future__ import annotations

import onnx_ir as ir

from graphs.model import nodes_of, numbers, only_user, replace, taken, tidy, weight

_NEUTRAL = {"Mul": 1.0, "Add": 0.0}


def drop_neutral(model: ir.Model) -> ir.Model:
    """Products with ones and sums with zeros behind InstanceNormalization are left out."""
    model = model.clone()
    for norm in nodes_of(model, "InstanceNormalization"):
        shaped = only_user(norm.outputs[0], "Reshape")
        value = norm.outputs[0] if shaped is None else shaped.outputs[0]
        while (node := _affine(value)) is not None:
            other = taken(node, 1 if node.inputs[0] is value else 0)
            kernel = weight(other)
            if kernel is None or (numbers(kernel) != _NEUTRAL[node.op_type]).any() or len(kernel.shape) > 4:
                break
            replace(model.graph, node.outputs[0], value)
            cast = other.producer()
            model.graph.remove([node] if cast is None else [node, cast], safe=True)
    return tidy(model)


def _affine(value: ir.Value) -> ir.Node | None:
    """The product or sum that uses ``value``, beside casts to its type."""
    found = [node for node in {node: None for node, _ in value.uses()} if node.op_type != "CastLike"]
    return found[0] if len(found) == 1 and found[0].op_type in _NEUTRAL else None
