"""Scale and shift of conditional norms: one table for all, and norms that must stay out of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from graphs.passes.modulation import join_modulation
from tests.graphs.handmade import Feed, graph, normal, ops, run, same

NORMS = """
agraph (float[N, 4, h, w] x, float[R, 3] rows, float[6] mixed) => (float[N, 4, h, w] prediction) {{
    {embedding}
    table1 = Gemm <transB=1{factors}> (embedding, kernel1{bias})
    table2 = Gemm <transB=1> (embedding, kernel2, bias2)
    wide1 = Unsqueeze (table1, axes)
    wide2 = Unsqueeze (table2, axes)
    scale1, shift1 = Split <axis=1{halves}> (wide1{sizes})
    scale2, shift2 = Split <axis=1, num_outputs=2> (wide2)
    {plus}
    scaled1 = Mul (x, raised1)
    moved1 = Add (scaled1, shift1)
    raised2 = Add (one, scale2)
    scaled2 = Mul (moved1, raised2)
    prediction = Add (scaled2, shift2)
}}"""
PLUS = "raised1 = Add (scale1, one)"
REPEATED = """count = Shape <start=0, end=1> (x)
    images = Squeeze (count)
    row_count = Shape <start=0, end=1> (rows)
    row_total = Squeeze (row_count)
    each = Div (images, row_total)
    places = Range (zero, images, step)
    row = Div (places, each)
    repeated = Gather <axis=0> (rows, row)
    gate = Sigmoid (repeated)
    embedding = Mul (repeated, gate)"""
ANY = "embedding = Tanh (rows)"


def norms(
    embedding: str = ANY,
    *,
    plus: str = PLUS,
    halves: str = ", num_outputs=2",
    sizes: str = "",
    factors: str = "",
    bias: str = ", bias1",
) -> ir.Model:
    text = NORMS.format(embedding=embedding, plus=plus, halves=halves, sizes=sizes, factors=factors, bias=bias)
    return graph(
        text,
        kernel1=normal(8, 3),
        kernel2=normal(8, 3, seed=1),
        bias1=normal(8),
        bias2=normal(8, seed=1),
        axes=np.array([2, 3]),
        one=np.float32(1),
        two=np.float32(2),
        zero=np.array(0),
        step=np.array(1),
        even=np.array([4, 4]),
        uneven=np.array([7, 1]),
    )


def feed_of(rows: int, images: int) -> Feed:
    return {"x": normal(images, 4, 2, 3), "rows": normal(rows, 3, seed=4), "mixed": normal(6)}


@pytest.mark.parametrize(("embedding", "rows", "each"), [(ANY, 3, 1), (REPEATED, 2, 1), (REPEATED, 3, 5)])
def test_norms_share_one_table(embedding: str, rows: int, each: int) -> None:
    model = norms(embedding)
    joined = join_modulation(model)
    removed = ops(model) - ops(joined)
    assert (removed["Split"], removed["Add"], removed["Unsqueeze"]) == (1, 2, 1)
    assert [value.name for node in joined.graph for value in node.outputs if "modulation" in value.name] == [
        "modulation.0"
    ]
    feed = feed_of(rows, rows * each)
    same(run(joined, feed), run(model, feed))


def test_a_table_has_one_row_per_conditioning_not_per_image() -> None:
    joined = join_modulation(norms(REPEATED))
    table = next(value for node in joined.graph for value in node.outputs if value.name == "modulation.0")
    part = ir.convenience.extract(joined.graph, list(joined.graph.inputs), [table])
    table.type, table.shape = ir.TensorType(ir.DataType.FLOAT), None
    part.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    part.opset_imports.update(joined.graph.opset_imports)
    assert run(ir.Model(part, ir_version=10), feed_of(2, 6)).shape == (2, 16)


NOT_JOINED: dict[str, Callable[[], ir.Model]] = {
    "a scale without one added": lambda: norms(plus="raised1 = Identity (scale1)"),
    "two added": lambda: norms(plus="raised1 = Add (scale1, two)"),
    "a second use of the scale": lambda: norms(plus="once = Add (scale1, one) raised1 = Mul (once, scale1)"),
    "no bias": lambda: norms(bias=""),
    "a factor": lambda: norms(factors=", alpha=2.0"),
}


@pytest.mark.parametrize("case", NOT_JOINED)
def test_a_layer_of_another_form_is_left_out_of_the_table(case: str) -> None:
    model = NOT_JOINED[case]()
    joined = join_modulation(model)
    assert ops(joined)["Split"] == 2, "the other norm still gets its table"
    assert len(next(node for node in joined.graph if node.op_type == "Concat").inputs) == 1
    feed = feed_of(3, 3)
    same(run(joined, feed), run(model, feed))


def test_a_split_into_unequal_parts_is_left_alone() -> None:
    narrow = {"plus": "raised1 = Add (shift1, one)", "halves": "", "sizes": ", uneven"}
    text = norms(**narrow)
    assert ops(join_modulation(norms(halves="", sizes=", even")))["Split"] == 1
    assert len(next(node for node in join_modulation(text).graph if node.op_type == "Concat").inputs) == 1


def test_an_embedding_that_is_no_silu_is_taken_as_it_is() -> None:
    model = norms(REPEATED.replace("Sigmoid (repeated)", "Tanh (repeated)"))
    feed = feed_of(2, 6)
    same(run(join_modulation(model), feed), run(model, feed))
