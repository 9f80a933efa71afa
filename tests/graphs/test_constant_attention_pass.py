"""Attention to one constant token becomes a constant, and any other stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from graphs.passes.constant_attention import constant_attention
from tests.graphs.handmade import Feed, graph, normal, ops, run, same, weights

LOWEST = float(np.finfo(np.float32).min)

ATTENTION = """
agraph (float[R, n, 6] x, float[R, m, 4] text, bool[R, m] text_mask) => (float[R, n, 6] prediction) {{
    rows = Shape <start=0, end=1> (x)
    text_size = Concat <axis=0> (rows, tokens, width)
    mask_size = Concat <axis=0> (rows, tokens)
    fixed = Expand (null, text_size)
    fixed_mask = Expand (null_mask, mask_size)
    query = MatMul (x, wq)
    key = MatMul ({context}, wk)
    value = MatMul ({context}, wv)
    query_parts = Reshape (query, heads)
    key_parts = Reshape (key, heads)
    value_parts = Reshape (value, heads)
    query_heads = Transpose <perm=[0, 2, 1, 3]> (query_parts)
    key_heads = Transpose <perm=[0, 2, 3, 1]> (key_parts)
    value_heads = Transpose <perm=[0, 2, 1, 3]> (value_parts)
    scores = MatMul (query_heads, key_heads)
    wide_mask = Unsqueeze ({mask}, axes)
    hidden = Not (wide_mask)
    masked = {where}
    shares = Softmax <axis=-1> (masked)
    seen = MatMul (shares, value_heads)
    seen_parts = Transpose <perm=[0, 2, 1, 3]> (seen)
    joined = Reshape (seen_parts, whole)
    {behind}
}}"""
SUM = "out = MatMul (joined, wo) prediction = Add (x, out)"


def attention(
    visible: list[int],
    *,
    context: str = "fixed",
    mask: str = "fixed_mask",
    where: str = "Where (hidden, lowest, scores)",
    fill: float = LOWEST,
    behind: str = SUM,
) -> ir.Model:
    """Cross-attention of two heads to constant tokens, of which `visible` are not padding."""
    size = len(visible)
    return graph(
        ATTENTION.format(context=context, mask=mask, where=where, behind=behind),
        null=normal(1, size, 4, scale=3),
        null_mask=np.array([visible], bool),
        tokens=np.array([size]),
        width=np.array([4]),
        wq=normal(6, 6),
        wk=normal(4, 6),
        wv=normal(4, 6, seed=1),
        wo=normal(6, 6, seed=2),
        heads=np.array([0, 0, 2, 3]),
        whole=np.array([0, 0, 6]),
        axes=np.array([1, 2]),
        lowest=np.float32(fill),
        bias=normal(6),
        six=np.array([6]),
        minus=np.array([-1, 6]),
        size=np.array([2, -1, 6]),
    )


def feed_of(tokens: int, rows: int = 2) -> Feed:
    mask = np.zeros((rows, tokens), bool)
    mask[:, : max(1, tokens - 1)] = True
    return {"x": normal(rows, 5, 6), "text": normal(rows, tokens, 4, seed=3), "text_mask": mask}


@pytest.mark.parametrize("visible", [[1], [1, 0, 0], [0, 1, 0]])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_attention_to_one_token_is_a_constant(visible: list[int], rows: int) -> None:
    model = attention(visible)
    constant = constant_attention(model)
    assert ops(constant)["Softmax"] == ops(constant)["MatMul"] == 0
    assert ops(model)["Softmax"] == 1
    assert weights(constant) == 6
    feed = feed_of(len(visible), rows)
    same(run(constant, feed), run(model, feed))


BIASED = (
    "out = MatMul (joined, wo) biased = Add (out, bias) shaped = Reshape (biased, size) prediction = Add (x, shaped)"
)


def rows_that_differ(of: str) -> ir.Model:
    """One token is visible in every row of two, but another one, or with other numbers, in the second."""
    model = attention([1, 0, 0])
    name, values = {
        "fixed_mask": ("null_mask", np.array([[1, 0, 0], [0, 1, 0]], bool)),
        "fixed": ("null", normal(2, 3, 4, scale=3)),
    }[of]
    model.graph.initializers[name].const_value = ir.tensor(values, name=name)
    model.graph.initializers[name].shape = ir.Shape(values.shape)
    return model


COMPUTED = "wt = Tanh (wo) out = MatMul (joined, wt) prediction = Add (x, out)"
NOT_CONSTANT: dict[str, Callable[[], ir.Model]] = {
    "a projection that is computed": lambda: attention([1, 0, 0], behind=COMPUTED),
    "two tokens": lambda: attention([1, 1, 0]),
    "no token": lambda: attention([0, 0, 0]),
    "a context that is an input": lambda: attention([1, 0, 0], context="text"),
    "a mask that is an input": lambda: attention([1, 0, 0], mask="text_mask"),
    "a mask the other way round": lambda: attention([1, 0, 0], where="Where (hidden, scores, lowest)"),
    "a number that hides nothing": lambda: attention([1, 0, 0], fill=-1.0),
    "another token in each row": lambda: rows_that_differ("fixed_mask"),
    "other numbers in each row": lambda: rows_that_differ("fixed"),
    "a bias behind the output": lambda: attention([1, 0, 0], behind=BIASED),
}


@pytest.mark.parametrize("case", NOT_CONSTANT)
def test_attention_stays_where_it_must(case: str) -> None:
    model = NOT_CONSTANT[case]()
    rewritten = constant_attention(model)
    assert ops(rewritten)["Softmax"] == 1
    feed = feed_of(3)
    same(run(rewritten, feed), run(model, feed))
