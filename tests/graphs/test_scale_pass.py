"""Residual streams in smaller units: the same result, and no black frames where they exceed float16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from ffrt import bundle
from ffrt.errors import RequestError
from graphs.compare import random_inputs
from graphs.passes import half, scale
from graphs.passes.ir import as_float32, new_weight, nodes_of, weight
from graphs.store import open_graph
from tests.graphs.handmade import DEMO, graph
from tests.graphs.test_half_pass import constants, error, normal, run


def open_demo(name: str) -> tuple[ir.Model, dict[str, NDArray[np.generic]]]:
    spec = bundle.open_bundle(DEMO).graphs[name]
    return open_graph(DEMO / spec.file), random_inputs(spec.inputs)


def test_a_network_in_other_units_gives_the_same_result(tmp_path: Path) -> None:
    model, feed = open_demo("movq_encoder")
    scaled = scale.scale_streams(model)
    assert sum(value.name is not None and ".scaled" in value.name for value in scaled.graph.initializers.values()) > 20
    assert len(list(nodes_of(scaled, "Mul"))) <= len(list(nodes_of(model, "Mul"))) + 5
    before, after = (
        [n.attributes["epsilon"].as_float() for n in nodes_of(each, "InstanceNormalization")]
        for each in (model, scaled)
    )
    np.testing.assert_allclose(np.array(after) * 256, before)
    assert error(run(scaled, tmp_path, feed), run(model, tmp_path, feed)) < 1e-6


def test_activations_beyond_float16_give_no_black_frames(tmp_path: Path) -> None:
    """Every residual sum of the network is around 100000, more than float16 holds."""
    model, feed = open_demo("interpolation_unet")
    first = next(nodes_of(model, "Conv"))
    tensor = weight(first.inputs[1])
    assert tensor is not None
    large = new_weight(model.graph, "large", tensor.shape.numpy(), lambda: as_float32(tensor) * np.float32(1e5))
    first.replace_input_with(1, large)
    want = run(model, tmp_path, feed)
    assert error(run(half.emulate_half(half.to_half(model)), tmp_path, feed), want) == float("inf")
    scaled = scale.scale_streams(model, 6)
    assert error(run(half.emulate_half(half.to_half(scaled)), tmp_path, feed), want) < 5e-3


def test_operators_that_cannot_absorb_the_units_get_a_multiplication(tmp_path: Path) -> None:
    """A product of two inputs writes the stream, a constant is added to it and a sine reads it."""
    text = """g (float[1, 4, 8] x) => (float[1, 4, 8] y, float[1, 4, 8] z, int64[3] n) {
        p = Mul(x, x)  a = Add(p, c0)  t = Transpose <perm = [0, 2, 1]> (a)  s = Transpose <perm = [0, 2, 1]> (t)
        y = InstanceNormalization <epsilon = 0.1> (s, one, zero)  z = Sin(a)  n = Shape(a) }"""
    model = graph(text, one=np.ones(4, np.float32), zero=np.zeros(4, np.float32), **constants(3))
    feed = {"x": normal(1, 4, 8)}
    scaled = scale.scale_streams(model, 5)
    assert len(list(nodes_of(scaled, "Mul"))) == 4
    for want, got in zip(run(model, tmp_path, feed), run(scaled, tmp_path, feed), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_an_exponent_out_of_range_is_refused() -> None:
    with pytest.raises(RequestError, match="exponent: expected 1 to 12, got 0"):
        scale.scale_streams(graph("g (float[1] x) => (float[1] y) { y = Sin(x) }"), 0)
