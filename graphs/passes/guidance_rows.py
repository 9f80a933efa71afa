"""Layers that only the leading rows of a batch need run on those rows only.

Guidance puts the row without a prompt last, where some layers do nothing, or the same to every pixel. The number of
leading rows is computed in the graph from its own inputs, so the result is the same for any inputs. Sizes then depend
on numbers, which suits the CPU: a GPU would copy each of them to the host, and could not record its launches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphs.passes import ir as m
from graphs.passes.attention import find_attention
from graphs.passes.constant_attention import kernel_of
from graphs.passes.sizes import number, pieces, shape_of

TEMPORAL_MASK = "temporal_mask"
"""Input float32 `[B]` of the 1.1 interpolation: 0 switches off all layers between the groups of that row."""
_PER_IMAGE = ("Mul", "Add")
"""Operators whose other operand has one row per image: scale and shift of norms."""
_PER_VIDEO = ("MatMul", "Where", "MultiHeadAttention")
"""Operators whose other operands have one row per video: keys, values and mask of text."""
_ROWWISE = frozenset(
    {
        *_PER_IMAGE,
        *_PER_VIDEO,
        "Sub",
        "Conv",
        "Sigmoid",
        "Softmax",
        "InstanceNormalization",
        "LayerNormalization",
        "Reshape",
        "Transpose",
        "Shape",
        "ConstantOfShape",
        "CastLike",
    }
)
"""Operators that treat every row separately, and those that compute shapes for them."""


@dataclass(frozen=True)
class _Cut:
    """Where a batch of N images in B rows is cut; all values are int64."""

    rows: ir.Value
    """`[1]`: the number R of leading rows, at least one."""
    images: ir.Value
    """`[1]`: the number of their images."""
    sizes: ir.Value
    """`[2]`: how many images lead, and how many follow."""
    row_of: ir.Value
    """The row of every image that follows."""


def single_token_attention(model: ir.Model) -> ir.Model:
    """Run cross-attention up to the last row with several tokens; rows behind it, with one token, get a constant.

    A softmax over one token is 1, whatever the query: these rows take `W_o W_v token`, which depends on the text only,
    and need neither norm nor queries. Attention may be one operator or plain ones.
    """
    model = model.clone()
    graph = model.graph
    cuts: dict[tuple[ir.Value, ir.Value | int], _Cut] = {}
    for attended, values, mask in _masked_attentions(model):
        residual = _residual(attended)
        if residual is None:
            continue
        total, entry, product, images = residual
        layer = _between(graph, {entry}, total)
        if attended.producer() not in layer or values.producer() in layer or mask.producer() in layer:
            continue  # queries do not come from the images, or keys and values do
        if (mask, images) not in cuts:  # N is read from the images, so that `split` moves the rest out of the step
            count = m.emit(total, "Shape", [entry], {"start": 0, "end": 1})
            cuts[mask, images] = _cut(graph, total, _several(graph, total, mask), count)
        cut = cuts[mask, images]
        head, rest = _parts(total, entry, cut)
        leading = _leading_rows(graph, total, layer, {entry: head}, cut)
        if leading is None:
            continue
        token = m.emit(total, "Unsqueeze", [mask, m.constant(graph, np.array([2]))])
        token = m.emit(total, "Where", [token, values, m.constant(graph, np.array(0, np.float32))])  # [B, m, C]
        token = m.emit(total, "ReduceSum", [token, m.constant(graph, np.array([1]))], {"keepdims": 1})
        token = m.emit(total, "MatMul", [token, product.inputs[1]])
        token = m.emit(total, "Reshape", [token, m.constant(graph, np.array([0, -1, 1, 1]))])
        rest = m.emit(total, "Add", [rest, m.emit(total, "Gather", [token, cut.row_of])])
        m.replace(graph, total.outputs[0], m.emit(total, "Concat", [leading, rest], {"axis": 0}))
    graph.sort()
    return m.tidy(model)


def masked_temporal(model: ir.Model) -> ir.Model:
    """Run layers between groups up to the last row whose temporal mask is not 0.

    With a mask of 0, `(1 - 0) x + 0 layer(x)` is x. Rows with a mask of 0 before that last one are computed as before.
    """
    model = model.clone()
    graph = model.graph
    mask = next((value for value in graph.inputs if value.name == TEMPORAL_MASK), None)
    cuts: dict[ir.Value, tuple[_Cut, ir.Value]] = {}
    parts_of: dict[tuple[ir.Value, ir.Value], tuple[ir.Value, ir.Value]] = {}
    for total in [] if mask is None else m.nodes_of(model, "Add"):
        merge = _merged(total)
        if merge is None or mask is None or _before_repeat(merge[1]) is not mask:
            continue
        entry, numbers = merge
        if numbers not in cuts:
            off = m.emit(total, "Equal", [mask, m.constant(graph, np.array(0, np.float32))])
            images = m.emit(total, "Shape", [numbers], {"start": 0, "end": 1})
            cut = _cut(graph, total, m.emit(total, "Not", [off]), images)
            cuts[numbers] = cut, _leading(graph, total, numbers, cut.images)
        cut, leading_numbers = cuts[numbers]
        parts = parts_of.get((entry, numbers))  # of the layer before
        head, rest = _parts(total, entry, cut) if parts is None else parts
        layer = _between(graph, {entry, numbers}, total)
        leading = _leading_rows(graph, total, layer, {entry: head, numbers: leading_numbers}, cut)
        if leading is not None:
            whole = m.emit(total, "Concat", [leading, rest], {"axis": 0})
            parts_of[whole, numbers] = leading, rest
            m.replace(graph, total.outputs[0], whole)
    graph.sort()
    return m.tidy(model)


def _cut(graph: ir.Graph, before: ir.Node, needed: ir.Value, images: ir.Value) -> _Cut:
    """A cut of `images` `[1]` behind the last row that is `needed`, bool `[B]`; behind row 0 if none is."""
    zero, one = (m.constant(graph, np.array(at)) for at in (0, 1))
    rows = m.emit(before, "Shape", [needed])
    places = m.emit(before, "Range", [zero, m.emit(before, "Squeeze", [rows]), one])
    places = m.emit(before, "Mul", [places, m.emit(before, "Cast", [needed], {"to": ir.DataType.INT64})])
    last = m.emit(before, "ReduceMax", [places, m.constant(graph, np.array([0]))], {"keepdims": 1})
    leading = m.emit(before, "Add", [last, m.constant(graph, np.array([1]))])
    each = m.emit(before, "Div", [images, rows])
    count = m.emit(before, "Mul", [leading, each])
    sizes = m.emit(before, "Concat", [count, m.emit(before, "Sub", [images, count])], {"axis": 0})
    following = m.emit(before, "Range", [*(m.emit(before, "Squeeze", [end]) for end in (count, images)), one])
    return _Cut(leading, count, sizes, m.emit(before, "Div", [following, each]))


def _parts(before: ir.Node, images: ir.Value, cut: _Cut) -> tuple[ir.Value, ir.Value]:
    """The leading images, and those that follow."""
    head = m.emit(before, "Split", [images, cut.sizes], {"axis": 0}, num_outputs=2)
    node = head.producer()
    assert node is not None
    return head, node.outputs[1]


def _leading(graph: ir.Graph, before: ir.Node, value: ir.Value, count: ir.Value) -> ir.Value:
    """The first `count` of the first axis, which may also be of size one."""
    zero = m.constant(graph, np.array([0]))
    return m.emit(before, "Slice", [value, zero, count, zero])


def _several(graph: ir.Graph, before: ir.Node, mask: ir.Value) -> ir.Value:
    """Bool `[B]`: the rows of `mask` `[B, m]` that do not have exactly one token."""
    tokens = m.emit(before, "Cast", [mask], {"to": ir.DataType.INT64})
    tokens = m.emit(before, "ReduceSum", [tokens, m.constant(graph, np.array([1]))], {"keepdims": 0})
    return m.emit(before, "Not", [m.emit(before, "Equal", [tokens, m.constant(graph, np.array(1))])])


def _between(graph: ir.Graph, starts: set[ir.Value], end: ir.Node) -> list[ir.Node]:
    """Every node on a path from `starts` to `end`, in order."""
    waiting, before = [end], {end}
    while waiting:
        sources = (value.producer() for value in waiting.pop().inputs if value is not None and value not in starts)
        fresh = {node for node in sources if node is not None} - before
        before |= fresh
        waiting += fresh
    reached, path = set(starts), []
    for node in graph:
        if node in before and not reached.isdisjoint(node.inputs):
            reached.update(node.outputs)
            path.append(node)
    return path


def _leading_rows(
    graph: ir.Graph, before: ir.Node, layer: Sequence[ir.Node], heads: Mapping[ir.Value, ir.Value], cut: _Cut
) -> ir.Value | None:
    """The result of `layer` for the leading rows, with `heads` in place of its inputs; None if it may mix rows."""
    copies: dict[ir.Value | None, ir.Value | None] = {None: None}
    copies.update(heads.items())
    for node in layer:
        moves_rows = node.op_type == "Transpose" and m.permutation(node)[:1] != (0,)
        if node.op_type not in _ROWWISE or moves_rows or node.attributes.get_int("axis", -1) == 0:
            return None
        for index, value in enumerate(node.inputs):
            if value in copies or value is None:
                continue
            if node.op_type == "Reshape":
                copies[value] = _of_any_rows(graph, before, value)
            elif m.weight(value) is not None or (
                node.op_type == "MatMul" and index == 1 and kernel_of(node) is not None
            ):
                copies[value] = value
            elif node.op_type in (*_PER_IMAGE, *_PER_VIDEO):
                count = cut.images if node.op_type in _PER_IMAGE else cut.rows
                copies[value] = _leading(graph, before, value, count)
            if copies.get(value) is None:
                return None
        inputs = [copies[value] for value in node.inputs]
        first = m.emit(before, node.op_type, inputs, dict(node.attributes), node.domain, len(node.outputs))
        copy = first.producer()
        assert copy is not None
        copies.update(zip(node.outputs, copy.outputs, strict=True))
    return copies[layer[-1].outputs[0]]


def _of_any_rows(graph: ir.Graph, before: ir.Node, shape: ir.Value) -> ir.Value | None:
    """`shape` with its first axis inferred; None if another axis is."""
    first, *others = pieces(shape)
    if first in (0, -1):
        return shape
    return None if not others or -1 in map(number, others) else shape_of(graph, before, [-1, *others])


def _masked_attentions(model: ir.Model) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
    """Result, values `[B, m, C]` and mask, bool `[B, m]`, of every attention with a mask of keys and no bias."""
    for node in m.nodes_of(model, "Softmax", "MultiHeadAttention"):
        if node.op_type == "Softmax":
            plain = find_attention(node)
            if plain is not None and plain.mask is not None:
                yield plain.result, plain.value, plain.mask
        elif len(node.inputs) == 5 and (cast := m.input_of(node, 4).producer()) is not None and cast.op_type == "Cast":
            yield node.outputs[0], m.input_of(node, 2), m.input_of(cast, 0)


def _residual(attended: ir.Value) -> tuple[ir.Node, ir.Value, ir.Node, ir.Value | int] | None:
    """The sum of images `[N, C, h, w]` and an attention's result, the images, the output projection and N."""
    value, product = attended, None
    while (node := m.only_user(value, "Reshape", "Transpose", "MatMul")) is not None:
        product = node if node.op_type == "MatMul" else product
        value = node.outputs[0]
    total, shaped = m.only_user(value, "Add"), value.producer()
    if total is None or product is None or kernel_of(product) is None or shaped is None or shaped.op_type != "Reshape":
        return None
    sizes = pieces(m.input_of(shaped, 1))
    entry = m.input_of(total, 1 if total.inputs[0] is value else 0)
    return (total, entry, product, sizes[0]) if len(sizes) == 4 and sizes[0] not in (0, -1) else None


def _merged(total: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """X and m of `total` = `(1 - f m) x + f m layer(x)`, where f is a weight and m has one number per image."""
    for kept, new in (
        (m.find_producer(one, "Mul"), m.find_producer(other, "Mul"))
        for one, other in (total.inputs, total.inputs[::-1])
    ):
        if kept is None or new is None:
            return None
        for index in (0, 1):
            difference = m.find_producer(kept.inputs[index], "Sub")
            is_rest = difference is not None and m.scalar(difference.inputs[0]) == 1
            share = m.input_of(difference, 1) if difference is not None and is_rest else None
            shaped = None if share is None or share not in new.inputs else m.find_producer(share, "Reshape")
            factor = None if shaped is None else m.find_producer(shaped.inputs[0], "Mul")
            numbers = [] if factor is None else [value for value in factor.inputs if m.weight(value) is None]
            if len(numbers) == 1 and numbers[0] is not None:
                return m.input_of(kept, 1 - index), numbers[0]
    return None


def _before_repeat(value: ir.Value) -> ir.Value:
    """The value whose rows were repeated for images (`export.models.layers.row_per_image`)."""
    while (node := value.producer()) is not None and node.op_type in ("Gather", "GatherND", "Transpose"):
        value = m.input_of(node, 0)
    return value
