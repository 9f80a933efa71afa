"""Softmax attention as one operator, com.microsoft MultiHeadAttention, on tokens `[B, n, heads * head_dim]`.

PyTorch's exporter writes each attention as a dozen nodes: split heads and transpose, product, scale, mask or bias,
softmax, product, transpose back and join heads. The operator does all of that without storing the scores.

Which attentions are worth it depends on the provider (`graphs.passes.table`). On CUDA it is all of them; its fast
kernels take key padding as one length per row, so real tokens have to come first, as the runtime orders them. On the
CPU the mask itself is passed, and attention over time stays in plain operators: it has thousands of rows of a few
frames, for which the operator is slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m
from graphs.passes.sizes import number, pieces, width

DOMAIN = "com.microsoft"
MAX_HIDDEN_SCORE = -1e4
"""A score up to this hides a token: exporters write the lowest number of float16 or float32."""
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Attention:
    """One attention found in a graph: its tokens `[..., n, heads * head_dim]`, and the value that it results in."""

    result: ir.Value
    query: ir.Value
    key: ir.Value
    value: ir.Value
    heads: int
    scale: float
    rank: int
    """Axes of the tokens."""
    sizes: list[ir.Value | int]
    """Sizes of all axes but the last, as the graph gives them."""
    mask: ir.Value | None
    """bool `[B, m]`, true for keys that are attended to."""
    bias: ir.Value | None
    """Added to the scores, `[B or 1, heads or 1, n, m]`."""
    joined: ir.Value | None
    """The shape of the result after heads are joined."""
    over_time: bool
    """Rows are pixels, tokens their frames."""


def fuse_attention(model: ir.Model, *, over_time: bool, key_lengths: bool) -> ir.Model:
    """Replace attention by one operator each; with `over_time` also attention between the frames of a pixel.

    With `key_lengths` the number of real tokens of each row takes the place of the mask. The result is the same up to
    rounding, if every row of the mask has a real token and, with `key_lengths`, no real token follows a hidden one.
    """
    model = model.clone()
    attentions = [attention for node in m.nodes_of(model, "Softmax") if (attention := find_attention(node)) is not None]
    for attention in attentions:
        if over_time or not attention.over_time:
            _fuse(model.graph, attention, key_lengths)
    if any(node.domain == DOMAIN for node in model.graph):
        model.opset_imports[DOMAIN] = 1
    return m.tidy(model)


def find_attention(softmax: ir.Node) -> Attention | None:
    """The attention around a Softmax; None if there is none, or the operator cannot compute it."""
    product = m.only_user(softmax.outputs[0], "MatMul")
    if product is None or product.inputs[0] is not softmax.outputs[0] or softmax.attributes.get_int("axis", -1) != -1:
        return None
    scores, mask, bias = m.input_of(softmax, 0), None, None
    where = m.find_producer(scores, "Where")
    if where is not None:
        masked = _masked_scores(where)
        if masked is None:
            return None
        scores, mask = masked
    add = m.find_producer(scores, "Add")
    if add is not None:
        split = [
            (m.input_of(add, i), m.input_of(add, 1 - i)) for i in (0, 1) if _scaled(m.input_of(add, i)) is not None
        ]
        if len(split) != 1 or mask is not None:
            return None
        scores, bias = split[0]
    scaled = _scaled(scores)
    if scaled is None:
        return None
    first, scale = scaled
    query, keys, values = m.input_of(first, 0), m.input_of(first, 1), m.input_of(product, 1)
    split_heads = [_split_heads(query, False), _split_heads(keys, True), _split_heads(values, False)]
    if None not in split_heads:
        return _with_heads(product, split_heads, scale, mask, bias)
    return None if mask is not None or bias is not None else _one_head(product, query, keys, values, scale)


def _with_heads(
    product: ir.Node, split: Sequence[_Heads | None], scale: float, mask: ir.Value | None, bias: ir.Value | None
) -> Attention | None:
    query, key, value = split
    assert query is not None and key is not None and value is not None
    back = m.only_user(product.outputs[0], "Transpose")
    join = None if back is None else m.only_user(back.outputs[0], "Reshape")
    rank = query.rank
    if back is None or join is None or m.permutation(back) != _heads_first(rank):
        return None
    if not query.heads == key.heads == value.heads or not query.rank == key.rank == value.rank:
        return None
    if (mask is not None or bias is not None) and rank != 4:
        return None
    if rank != 4 and 0 in pieces(m.input_of(join, 1)):  # copies a size of all axes, which the operator does not see
        return None
    return Attention(
        join.outputs[0],
        query.tokens,
        key.tokens,
        value.tokens,
        query.heads,
        scale,
        rank - 1,
        query.sizes,
        mask,
        bias,
        m.input_of(join, 1),
        over_time=rank > 4,
    )


def _one_head(product: ir.Node, query: ir.Value, keys: ir.Value, value: ir.Value, scale: float) -> Attention | None:
    """Attention of a single head, whose queries are transposed to `[B, n, C]`."""
    tokens, transposed = m.find_producer(query, "Transpose"), m.find_producer(keys, "Transpose")
    if (
        tokens is None
        or transposed is None
        or len(m.permutation(tokens)) != 3
        or m.permutation(transposed) != (0, 2, 1)
    ):
        return None
    return Attention(
        product.outputs[0],
        query,
        m.input_of(transposed, 0),
        value,
        1,
        scale,
        3,
        [],
        None,
        None,
        None,
        over_time=m.permutation(tokens)[0] == 2,
    )


def _scaled(scores: ir.Value) -> tuple[ir.Node, float] | None:
    """The product of queries and keys behind `scores`, and the factor that it is scaled by."""
    node = m.find_producer(scores, "Mul", "Div", "MatMul")
    if node is None:
        return None
    if node.op_type == "MatMul":
        return node, 1.0
    for index in (0, 1) if node.op_type == "Mul" else (0,):
        product, factor = m.find_producer(node.inputs[index], "MatMul"), m.scalar(node.inputs[1 - index])
        if product is not None and factor is not None:
            return product, factor if node.op_type == "Mul" else 1 / factor
    return None


def _masked_scores(where: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Scores and key mask of `Where(not mask, lowest, scores)` or `Where(mask, scores, lowest)`."""
    condition = m.input_of(where, 0)
    negated = m.find_producer(condition, "Not")
    scores, lowest = (m.input_of(where, i) for i in ((2, 1) if negated is not None else (1, 2)))
    fill = m.scalar(lowest)
    mask = _key_mask(condition if negated is None else m.input_of(negated, 0))
    return None if fill is None or fill > MAX_HIDDEN_SCORE or mask is None else (scores, mask)


def _key_mask(value: ir.Value) -> ir.Value | None:
    """The mask `[B, m]` behind `[B, 1, 1, m]`; None if `value` is not of that form."""
    inserted: list[int] = []
    while (node := m.find_producer(value, "Unsqueeze", "Slice")) is not None:
        if node.op_type == "Slice":
            if not _is_whole(node):
                break
        else:
            axes = m.weight(node.inputs[1])
            if axes is None:
                return None
            inserted = [*map(int, axes.numpy().reshape(-1)), *inserted]
        value = m.input_of(node, 0)
    return value if inserted == [1, 2] else None


def _is_whole(node: ir.Node) -> bool:
    """Whether a Slice takes everything."""
    starts, ends, steps = (m.weight(node.inputs[i]) if i < len(node.inputs) else None for i in (1, 2, 4))
    return (
        starts is not None
        and not starts.numpy().any()
        and ends is not None
        and bool((ends.numpy() >= np.iinfo(np.int32).max).all())
        and (len(node.inputs) < 5 or (steps is not None and bool((steps.numpy() == 1).all())))
    )


@dataclass(frozen=True)
class _Heads:
    """The tokens `[..., n, heads * head_dim]` that `[..., heads, n, head_dim]` comes from."""

    tokens: ir.Value
    heads: int
    rank: int
    """Axes once heads are split off."""
    sizes: list[ir.Value | int]
    """Sizes of all axes in front of heads and head_dim."""


def _split_heads(value: ir.Value, transposed: bool) -> _Heads | None:
    """Look through the Transposes and the Reshape that split heads off; with `transposed`, head_dim is before n."""
    perm: tuple[int, ...] | None = None
    while (node := m.find_producer(value, "Transpose", "Reshape")) is not None and node.op_type == "Transpose":
        perm = m.permutation(node) if perm is None else tuple(m.permutation(node)[axis] for axis in perm)
        value = m.input_of(node, 0)
    if node is None or perm is None or len(perm) < 4:
        return None
    expected = _heads_first(len(perm))
    if transposed:
        expected = (*expected[:-2], expected[-1], expected[-2])
    sizes = pieces(m.input_of(node, 1))
    if perm != expected or len(sizes) != len(perm):
        return None
    heads, head_dim = map(number, sizes[-2:])
    tokens = m.input_of(node, 0)
    if heads is None or head_dim is None or heads < 1 or width(tokens) != heads * head_dim:
        return None
    return _Heads(tokens, heads, len(perm), sizes[:-2])


def _heads_first(rank: int) -> tuple[int, ...]:
    """The permutation that swaps tokens and heads in `[..., n, heads, head_dim]`."""
    return (*range(rank - 3), rank - 2, rank - 3, rank - 1)


def _fuse(graph: ir.Graph, attention: Attention, key_lengths: bool) -> None:
    before = attention.result.producer()
    assert before is not None
    inputs: list[ir.Value | None] = [attention.query, attention.key, attention.value, None]
    if attention.rank > 3:
        rows, last = m.constant(graph, np.array([-1])), m.emit(before, "Shape", [attention.query], {"start": -2})
        shape = m.emit(before, "Concat", [rows, last], {"axis": 0})  # [-1, n, C]
        inputs = [m.emit(before, "Reshape", [value, shape]) for value in inputs[:3] if value is not None] + [None]
    mask = None
    attributes: dict[str, object] = {"num_heads": attention.heads, "scale": attention.scale}
    if attention.mask is not None:
        mask = m.emit(before, "Cast", [attention.mask], {"to": ir.DataType.INT32})
        attributes["mask_filter_value"] = LOWEST
        if key_lengths:
            axis = m.constant(graph, np.array([1]))
            mask = m.emit(before, "ReduceSum", [mask, axis], {"keepdims": 0})
    inputs += [mask, attention.bias]
    while inputs[-1] is None:
        inputs.pop()
    result = m.emit(before, "MultiHeadAttention", inputs, attributes, DOMAIN)
    if attention.joined is not None and not _same_tokens(attention):
        no_zeros = int(0 not in pieces(attention.joined))  # a 0 copies the size of the tokens
        result = m.emit(before, "Reshape", [result, attention.joined], {"allowzero": no_zeros})
    m.replace(graph, attention.result, result)


def _same_tokens(attention: Attention) -> bool:
    """Whether the joined heads have the shape of the queries, which the operator's result has already."""
    assert attention.joined is not None
    return attention.rank == 3 and pieces(attention.joined)[:-1] == attention.sizes
