"""GroupNorm as exporters write it: neutral products and sums are removed, and the CPU gets LayerNormalization."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphs.passes.norm import drop_neutral, layer_norm
from tests.graphs.handmade import Feed, graph, normal, ops, run, same

NORM = """
agraph (float[N, 4, h, w] x) => (float[N, 4, h, w] prediction) {{
    rows = Reshape (x, groups)
    first = InstanceNormalization <epsilon=0.01> (rows, unit, nothing)
    back = Reshape (first, whole)
    ones = Cast <to=1> (stored_ones)
    zeros = Cast <to=1> (stored_zeros)
    product = Mul (back, ones)
    sum = Add (zeros, product)
    bent = Tanh (sum)
    other_rows = Reshape (bent, groups)
    second = InstanceNormalization (other_rows, unit, nothing)
    other_back = Reshape (second, whole)
    other_product = Mul (other_back, ones)
    prediction = Add (other_product, {last})
}}"""


def two_norms(ones: float = 1.0, last: str = "zeros", unit: float = 1.0) -> ir.Model:
    return graph(
        NORM.format(last=last),
        groups=np.array([0, 2, -1]),
        whole=np.array([-1, 4, 2, 3]),
        unit=np.full(2, unit, np.float32),
        nothing=np.zeros(2, np.float32),
        learned=normal(4, 1, 1),
        stored_ones=np.full((4, 1, 1), ones, np.float16),
        stored_zeros=np.zeros((4, 1, 1), np.float16),
    )


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (two_norms(), {"Mul": 0, "Add": 0}),
        (two_norms(last="learned"), {"Mul": 0, "Add": 1}),
        (two_norms(ones=0.5), {"Mul": 2, "Add": 2}),
    ],
)
def test_products_with_ones_are_removed_and_others_stay(model: ir.Model, left: dict[str, int]) -> None:
    rewritten = drop_neutral(model)
    assert {op: ops(rewritten)[op] for op in left} == left
    assert ops(model)["Mul"] == 2
    feed: Feed = {"x": normal(3, 4, 2, 3)}
    same(run(rewritten, feed), run(model, feed))


@pytest.mark.parametrize(("unit", "left"), [(1.0, 0), (1.5, 2)])
def test_a_norm_without_weights_becomes_layer_norm(unit: float, left: int) -> None:
    """With the same epsilon, which matters for such a small input."""
    model = two_norms(unit=unit)
    rewritten = layer_norm(model)
    assert (ops(rewritten)["InstanceNormalization"], ops(rewritten)["LayerNormalization"]) == (left, 2 - left)
    assert ops(model)["InstanceNormalization"] == 2
    feed: Feed = {"x": normal(3, 4, 2, 3, scale=0.1)}
    same(run(rewritten, feed), run(model, feed))
