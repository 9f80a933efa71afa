"""GroupNorm as the one operator that CUDA has for it, com.microsoft GroupNorm on `[N, h, w, C]`.

An exporter writes Reshape to groups, InstanceNormalization, Reshape back, then scale and shift per channel. This pass
writes one node between two Transposes: ONNX Runtime's layout pass (`prefer_nhwc`) treats convolutions in the same way,
and the Transposes of neighbours cancel. A SiLU that follows directly becomes part of the node. Scale and shift of a
conditional norm differ from row to row, which the operator cannot do: they stay a product and a sum behind it.

The kernel sums x and x^2 in float32 and reads two channels at a time, so norms with an odd number of channels per group
stay as they are. The CPU has no such kernel: the result runs on CUDA only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m
from graphs.passes.sizes import channels_of

DOMAIN = "com.microsoft"
MAX_CHANNELS_PER_GROUP = 512
"""Limit of the kernel, which handles a group in one block."""
_VIEWS: dict[int, tuple[int, ...]] = {3: (0, 0, 1, -1), 5: (0, 0, 0, -1)}
"""Shapes that view `[N, C, n]` and `[N, C, T, h, w]` as `[N, C, h, w]`, by number of axes; norms ignore positions."""


@dataclass(frozen=True)
class _Norm:
    """One GroupNorm found in a graph; gamma and beta are None if they are one and zero."""

    x: ir.Value
    rank: int
    channels: int
    groups: int
    epsilon: float
    gamma: ir.TensorProtocol | None
    beta: ir.TensorProtocol | None
    back: ir.Node
    """The Reshape that splits groups into channels again."""
    last: ir.Node
    silu: bool
    modulation: _Modulation | None


@dataclass(frozen=True)
class _Modulation:
    """`x * scale + shift`, both `[N, C, 1, 1]` or `[N, C, h, w]`, and whether a SiLU follows."""

    scale: ir.Value
    shift: ir.Value
    last: ir.Node
    silu: bool


def fuse_group_norm(model: ir.Model) -> ir.Model:
    """Replace every GroupNorm that the CUDA kernel supports by one operator; equal up to rounding."""
    model = model.clone()
    norms = [norm for norm in map(_find, m.nodes_of(model, "InstanceNormalization")) if norm is not None]
    for norm in norms:
        _fuse(model.graph, norm)
    if any(node.domain == DOMAIN for node in model.graph):
        model.opset_imports[DOMAIN] = 1
    return m.tidy(model)


def _find(node: ir.Node) -> _Norm | None:
    split = m.find_producer(node.inputs[0], "Reshape")
    shape = None if split is None else m.weight(split.inputs[1])
    back = m.only_user(node.outputs[0], "Reshape")
    if split is None or shape is None or back is None or not (_is(node.inputs[1], 1.0) and _is(node.inputs[2], 0.0)):
        return None
    sizes = [int(size) for size in shape.numpy().reshape(-1)]
    if len(sizes) != 3 or sizes[0] != 0 or sizes[2] != -1:
        return None
    x, groups, last = m.input_of(split, 0), sizes[1], back
    gamma = beta = None
    known = channels_of(x)
    scale = _then(back.outputs[0], "Mul")
    shift = None if scale is None else _then(scale.outputs[0], "Add")
    if scale is not None and shift is not None:
        per_channel = _per_channel(scale, back.outputs[0]), _per_channel(shift, scale.outputs[0])
        if per_channel[0] is not None and per_channel[1] is not None:
            (gamma, rank), (beta, _) = per_channel  # type: ignore[misc]
            known, last = (gamma.size, rank + 1), shift
    if known is None:
        return None
    channels, rank = known
    per_group, remainder = divmod(channels, groups)
    if remainder or per_group % 2 or per_group > MAX_CHANNELS_PER_GROUP or (rank != 4 and rank not in _VIEWS):
        return None
    silu = _silu(last.outputs[0])
    modulation = _modulation(last.outputs[0]) if silu is None and rank == 4 else None
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    assert epsilon is not None
    return _Norm(
        x,
        rank,
        channels,
        groups,
        epsilon,
        gamma,
        beta,
        back,
        last if silu is None else silu,
        silu is not None,
        modulation,
    )


def _is(value: ir.Value | None, number: float) -> bool:
    """Whether `value` is a constant with all elements equal to `number`."""
    tensor = m.weight(value)
    return tensor is not None and bool((m.as_float32(tensor) == number).all())


def _then(value: ir.Value, op: str) -> ir.Node | None:
    """The only node that uses the numbers of `value`, if it is `op`; a CastLike uses its dtype only."""
    nodes = [node for node in m.users(value) if node.op_type != "CastLike"]
    return nodes[0] if len(nodes) == 1 and nodes[0].op_type == op and not value.is_graph_output() else None


def _per_channel(node: ir.Node, value: ir.Value) -> tuple[ir.TensorProtocol, int] | None:
    """The input of `node` besides `value`, if it is a constant `[C, 1, ...]`, and how many axes it has."""
    other: ir.Value | None = m.input_of(node, 1 if node.inputs[0] is value else 0)
    inserted = 0
    while (unsqueeze := m.find_producer(other, "Unsqueeze")) is not None:
        axes = m.weight(unsqueeze.inputs[1])
        if axes is None:
            return None
        other, inserted = unsqueeze.inputs[0], inserted + axes.size
    tensor = m.weight(other)
    if tensor is None or len(tensor.shape) == 0 or tensor.size != tensor.shape[0] or len(tensor.shape) + inserted < 2:
        return None
    return tensor, len(tensor.shape) + inserted


def _silu(value: ir.Value) -> ir.Node | None:
    """The product of `value` with its sigmoid, if nothing else uses `value`."""
    nodes = {node.op_type: node for node in m.users(value)}
    if set(nodes) != {"Sigmoid", "Mul"} or len(m.users(value)) != 2 or value.is_graph_output():
        return None
    product, gate = nodes["Mul"], nodes["Sigmoid"].outputs[0]
    return product if set(product.inputs) == {value, gate} and m.only_user(gate, "Mul") is product else None


def _modulation(value: ir.Value) -> _Modulation | None:
    product = m.only_user(value, "Mul")
    total = None if product is None else m.only_user(product.outputs[0], "Add")
    if product is None or total is None:
        return None
    scale = m.input_of(product, 1 if product.inputs[0] is value else 0)
    shift = m.input_of(total, 1 if total.inputs[0] is product.outputs[0] else 0)
    if not all(_is_row(factor) or _is_map(factor) for factor in (scale, shift)):
        return None
    silu = _silu(total.outputs[0])
    return _Modulation(scale, shift, total if silu is None else silu, silu is not None)


def _is_row(value: ir.Value) -> bool:
    """Whether `value` is `[N, C, 1, 1]`: the result of a linear layer or a part of it, with axes inserted."""
    add = m.find_producer(value, "Add")
    if add is not None:
        tables = [m.input_of(add, i) for i in (0, 1) if m.scalar(add.inputs[1 - i]) is not None]
        return len(tables) == 1 and _is_row(tables[0])
    node = m.find_producer(value, "Split", "Unsqueeze")
    if node is not None and node.op_type == "Split":
        node = m.find_producer(node.inputs[0], "Unsqueeze")
    inserted: list[int] = []
    linear = value
    while node is not None and node.op_type == "Unsqueeze":
        axes, linear = m.weight(node.inputs[1]), m.input_of(node, 0)
        if axes is None:
            return False
        inserted += [int(axis) for axis in axes.numpy().reshape(-1)]
        node = m.find_producer(linear, "Unsqueeze")
    table = m.find_producer(linear, "Gemm", "Concat", "MatMul", "GatherND", "Gather", "Slice")
    last_two = sorted(inserted) in ([2, 3], [-1, -1], [-2, -1])
    return last_two and (table is not None or _axes(linear) == 2)


def _is_map(value: ir.Value) -> bool:
    """Whether `value` is `[N, C, h, w]`."""
    channels = channels_of(value)
    return _axes(value) == 4 or (channels is not None and channels[1] == 4)


def _axes(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _modulated(graph: ir.Graph, value: ir.Value, modulation: _Modulation) -> ir.Value:
    """`value` `[N, h, w, C]` after scale, shift and SiLU, in the same layout."""
    last = modulation.last
    scale, shift = (
        m.emit(last, "Reshape", [factor, m.constant(graph, np.array((0, 1, 1, -1)))])
        if _is_row(factor)
        else m.emit(last, "Transpose", [factor], {"perm": [0, 2, 3, 1]})
        for factor in (modulation.scale, modulation.shift)
    )
    value = m.emit(last, "Add", [m.emit(last, "Mul", [value, scale]), shift])
    return m.emit(last, "Mul", [value, m.emit(last, "Sigmoid", [value])]) if modulation.silu else value


def _fuse(graph: ir.Graph, norm: _Norm) -> None:
    x, modulation = norm.x, norm.modulation
    last = norm.last if modulation is None else modulation.last
    if norm.rank != 4:
        x = m.emit(last, "Reshape", [x, m.constant(graph, np.array(_VIEWS[norm.rank]))])
    name = f"{x.name}.norm" if norm.gamma is None else f"{norm.gamma.name}.norm"
    gamma = _parameter(graph, f"{name}.gamma", norm.channels, norm.gamma, 1.0)
    beta = _parameter(graph, f"{name}.beta", norm.channels, norm.beta, 0.0)
    rows = m.emit(last, "Transpose", [x], {"perm": [0, 2, 3, 1]})
    attributes: dict[str, object] = {
        "groups": norm.groups,
        "epsilon": norm.epsilon,
        "channels_last": 1,
        "activation": int(norm.silu),
    }
    out = m.emit(last, "GroupNorm", [rows, gamma, beta], attributes, DOMAIN)
    if modulation is not None:
        out = _modulated(graph, out, modulation)
    out = m.emit(last, "Transpose", [out], {"perm": [0, 3, 1, 2]})
    if norm.rank != 4:
        out = m.emit(last, "Reshape", [out, m.input_of(norm.back, 1)])
    m.replace(graph, last.outputs[0], out)


def _parameter(
    graph: ir.Graph, name: str, channels: int, tensor: ir.TensorProtocol | None, otherwise: float
) -> ir.Value:
    """float32 `[C]`: the numbers of `tensor`, or `otherwise` for every channel."""
    if tensor is None or _all(tensor, otherwise):
        return m.constant(graph, np.full(channels, otherwise, np.float32))
    return m.new_weight(graph, name, [channels], _flat(tensor))


def _all(tensor: ir.TensorProtocol, number: float) -> bool:
    return not isinstance(tensor, ir.ExternalTensor | ir.LazyTensor) and bool((m.as_float32(tensor) == number).all())


def _flat(tensor: ir.TensorProtocol) -> Callable[[], m.Float32Array]:
    return lambda: m.as_float32(tensor).reshape(-1)
