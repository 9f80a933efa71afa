"""float16 graphs: what each island keeps, what a naive conversion loses, and the networks of the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from ffrt import Request, bundle
from ffrt.errors import RequestError
from graphs import compare
from graphs.compare import FidelityError
from graphs.deep_cache import with_deep
from graphs.metrics import relative_rms
from graphs.passes import half
from graphs.passes.ir import nodes_of
from graphs.store import open_graph, write_graph
from tests.conftest import write_bundle
from tests.graphs.handmade import DEMO, graph, session_of

Feed = Mapping[str, NDArray[np.generic]]
RNG = np.random.default_rng(0)


def run(model: ir.Model, folder: Path, feed: Feed) -> list[NDArray[np.float32]]:
    """All outputs of a graph once it is written."""
    write_graph(model, folder / "graph.onnx", half=False)
    outputs: list[NDArray[np.float32]] = session_of(folder / "graph.onnx").run(None, dict(feed))
    return outputs


def error(got: list[NDArray[np.float32]], want: list[NDArray[np.float32]]) -> float:
    """The largest relative RMS error; inf if something is not finite."""
    if not all(np.isfinite(array).all() for array in got):
        return float("inf")
    return max(relative_rms(a, b) for a, b in zip(got, want, strict=True))


def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def constants(*numbers: float) -> dict[str, NDArray[np.float32]]:
    return {f"c{index}": np.array(number, np.float32) for index, number in enumerate(numbers)}


def timed() -> tuple[ir.Model, Feed]:
    """The phase of step 999.7 needs digits after the point."""
    text = "g (float[2, 1] x) => (float[2, 8] y) { a = Mul(x, f)  y = Sin(a) }"
    return graph(text, f=np.linspace(1, 0.1, 8, dtype=np.float32)), {"x": np.array([[999.7], [501.3]], np.float32)}


def modulated() -> tuple[ir.Model, Feed]:
    """A linear layer on the time embedding whose products cancel, and a convolution that it scales."""
    w = normal(8, 16)
    b = np.zeros(8, np.float32)
    text = """g (float[2, 1] t, float[2, 8, 4, 4] x) => (float[2, 8, 4, 4] y) {
        a = Mul(t, f)  s = Sin(a)  c = Cos(a)  e = Concat <axis = 1> (s, c)  big = Mul(e, c0)  v = Add(big, c1)
        m = Gemm <transB = 1> (v, w, b)  axes = Constant <value_ints = [2, 3]> ()  n = Unsqueeze(m, axes)
        k = Conv(x, one)  p = Mul(k, n)  y = Conv(p, one) }"""
    w -= w.mean(1, keepdims=True)
    one = np.eye(8, dtype=np.float32)[:, :, None, None]
    weights = {"w": w.astype(np.float16).astype(np.float32), "b": b, "one": one, "f": np.linspace(1, 3, 8)[None]}
    model = graph(text, **{k: np.asarray(v, np.float32) for k, v in weights.items()}, **constants(0.01, 10))
    return model, {"t": np.array([[0.7], [0.3]], np.float32), "x": normal(2, 8, 4, 4)}


def rms_norm(scale: float) -> tuple[ir.Model, Feed]:
    """T5's norm in plain operators: the squares of its input exceed float16 long before the input does."""
    text = """g (float[2, 64] x) => (float[2, 8] y) {
        s = Pow(x, c0)  axes = Constant <value_ints = [-1]> ()  m = ReduceMean(s, axes)  e = Add(m, c1)  r = Sqrt(e)
        i = Reciprocal(r)  n = Mul(x, i)  y = MatMul(n, w) }"""
    return graph(text, w=normal(64, 8), **constants(2, 1e-6)), {"x": normal(2, 64, scale=scale)}


def attention() -> tuple[ir.Model, Feed]:
    """Scores of 100000 before scaling, and a mask of float32's lowest number."""
    text = """g (float[1, 8, 64] q, float[1, 64, 8] k, float[1, 1, 8] mask) => (float[1, 8, 4] y) {
        a = MatMul(q, k)  s = Mul(a, c0)  hidden = Sub(c1, mask)  bias = Mul(hidden, c2)  t = Add(s, bias)
        p = Softmax <axis = -1> (t)  y = MatMul(p, v) }"""
    q, k = np.full((1, 8, 64), 40, np.float32), np.full((1, 64, 8), 40, np.float32)
    mask = np.array([[[1, 1, 1, 1, 1, 0, 0, 0]]], np.float32)
    feed = {"q": q + normal(1, 8, 64), "k": k + normal(1, 64, 8, scale=0.1), "mask": mask}
    return graph(text, v=normal(8, 4), **constants(2**-6, 1, -3.4028235e38)), feed


def t5_block() -> tuple[ir.Model, Feed]:
    """A gated feed-forward layer that writes 200000 to the stream, and the norm behind it."""
    text = """g (float[2, 16] x) => (float[2, 4] y) {
        h = MatMul(x, up)  a = Mul(h, h2)  h2 = MatMul(x, gate)  w = MatMul(a, wo)  r = Add(x, w)
        s = Pow(r, c0)  axes = Constant <value_ints = [-1]> ()  m = ReduceMean(s, axes)  e = Add(m, c1)  q = Sqrt(e)
        i = Reciprocal(q)  n = Mul(r, i)  y = MatMul(n, out) }""".replace(
        "a = Mul(h, h2)  h2 = MatMul(x, gate)", "h2 = MatMul(x, gate)  a = Mul(h, h2)"
    )
    weights = {"up": normal(16, 32, scale=20), "gate": normal(16, 32, scale=20), "wo": normal(32, 16, scale=20)}
    return graph(text, **weights, out=normal(16, 4), **constants(2, 1e-6)), {"x": normal(2, 16)}


def output() -> tuple[ir.Model, Feed]:
    """Products in the thousands, where neighbours in float16 are 1 apart."""
    text = "g (float[4, 8] x) => (float[4, 4] y) { a = MatMul(x, w)  b = Add(a, c0)  y = MatMul(b, v)}"
    return graph(text, w=normal(8, 8), v=normal(8, 4), **constants(2000)), {"x": normal(4, 8)}


CASES = {
    "time": (timed, 1e-3),
    "modulation": (modulated, 1e-3),
    "statistics": (lambda: rms_norm(2000), 2e-3),
    "scores": (attention, 2e-3),
    "residual": (t5_block, 3e-3),
}


@pytest.mark.parametrize("name", CASES)
def test_without_its_island_a_result_is_lost(name: str, tmp_path: Path) -> None:
    build, floor = CASES[name]
    model, feed = build()
    want = run(model, tmp_path, feed)
    others = [island for island in half.ISLANDS if island not in (name, "output")]
    inside = error(run(half.emulate_half(half.to_half(model, [*others, name])), tmp_path, feed), want)
    without = error(run(half.emulate_half(half.to_half(model, others)), tmp_path, feed), want)
    assert inside < floor
    assert without > 4 * inside


def test_without_any_island_graphs_overflow(tmp_path: Path) -> None:
    """The naive graph gives NaN or a constant (black), not just noise."""
    for build in (lambda: rms_norm(2000), attention, t5_block):
        model, feed = build()
        naive = error(run(half.emulate_half(half.to_half(model, ())), tmp_path, feed), run(model, tmp_path, feed))
        assert naive > 0.5


def test_the_output_is_not_rounded(tmp_path: Path) -> None:
    model, feed = output()
    rounded = {
        name: run(half.emulate_half(half.to_half(model, islands)), tmp_path, feed)[0]
        for name, islands in (("with", ["output"]), ("without", []))
    }
    assert (rounded["without"] == rounded["without"].astype(np.float16)).all()
    assert not (rounded["with"] == rounded["with"].astype(np.float16)).all()


def test_the_cpu_provider_alone_would_hide_an_overflow(tmp_path: Path) -> None:
    """Why `emulate_half` exists: if this fails, ONNX Runtime's CPU provider rounds by itself and it can go."""
    model, feed = t5_block()
    naive = half.to_half(model, ())
    assert np.isfinite(run(naive, tmp_path, feed)[0]).all()
    assert error(run(half.emulate_half(naive), tmp_path, feed), run(model, tmp_path, feed)) > 0.5


def test_an_unknown_island_is_refused() -> None:
    with pytest.raises(RequestError, match=r"islands: expected some of .*'scores'.* got \['softmax'\]"):
        half.to_half(timed()[0], ["softmax"])


def test_a_constant_beyond_float16_becomes_its_largest_number(tmp_path: Path) -> None:
    text = "g (float[2] x) => (float[2] y) { a = Mul(x, c0)  b = Add(a, c1)  y = Relu(b) }"
    model = half.to_half(graph(text, **constants(-3.4e38, -np.inf)), ())
    kept = {float(v.const_value.numpy()) for v in model.graph.initializers.values() if v.const_value is not None}
    assert kept == {-65504.0, -np.inf}
    assert run(half.emulate_half(model), tmp_path, {"x": np.array([0, 1], np.float32)})[0].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["text_encoder", "interpolation_unet", "movq_decoder"])
def test_graphs_of_the_demo_are_half_precision_and_close(name: str, tmp_path: Path) -> None:
    spec = bundle.open_bundle(DEMO).graphs[name]
    plain = open_graph(DEMO / spec.file)
    feed = compare.random_inputs(spec.inputs)
    want = run(plain, tmp_path, feed)
    model = half.to_half(plain)
    types = half.dtypes(model.graph)
    nodes = [node for node in model.graph if node.op_type in ("Conv", "MatMul", "Gemm", "InstanceNormalization")]
    halves = [node for node in nodes if types[node.outputs[0]] == ir.DataType.FLOAT16]
    if name != "text_encoder":
        assert sum(node.op_type == "Conv" for node in halves) == sum(node.op_type == "Conv" for node in nodes) - 1
    assert halves
    assert [(v.name, v.dtype) for v in plain.graph.inputs] == [(v.name, v.dtype) for v in model.graph.inputs]
    assert [(v.name, types[v]) for v in model.graph.outputs] == [
        (v.name, ir.DataType.FLOAT) for v in plain.graph.outputs
    ]
    assert error(run(half.emulate_half(model), tmp_path, feed), want) < 4e-3
    if name != "interpolation_unet":  # slow to load
        assert error(run(model, tmp_path, feed), want) < 1e-3  # the written graph runs
    assert (
        half.dtypes(plain.graph)[next(n for n in plain.graph if n.op_type == "MatMul").outputs[0]] == 1
    )  # the original is unchanged


def test_weights_are_float16_without_a_cast_and_casts_never_come_in_pairs() -> None:
    model = half.to_half(open_graph(DEMO / "interpolation_unet.onnx"))
    types = half.dtypes(model.graph)
    for node in model.graph:
        if node.op_type == "Conv" and types[node.outputs[0]] == ir.DataType.FLOAT16:
            assert node.inputs[1] is not None and node.inputs[1].producer() is None
        if node.op_type == "Cast":
            source = node.inputs[0].producer() if node.inputs[0] is not None else None
            floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
            assert source is None or source.op_type != "Cast" or types[source.outputs[0]] not in floats


def test_deep_features_get_no_island() -> None:
    """The second output of step caching is in the middle of the network, which stays float16 around it."""
    whole = open_graph(DEMO / "interpolation_unet.onnx")
    casts = [sum(1 for _ in nodes_of(half.to_half(model), "Cast")) for model in (whole, with_deep(whole))]
    assert casts[1] <= casts[0] + 1


def test_no_weight_is_read_before_it_is_written() -> None:
    reads: list[int] = []

    def numbers() -> ir.TensorProtocol:
        reads.append(1)
        return ir.tensor(np.ones((64, 64), np.float32))

    model = graph(
        "g (float[2, 64] x) => (float[2, 64] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }",
        w=np.zeros((64, 64), np.float32),
    )
    weight = model.graph.initializers["w"]
    weight.const_value = ir.LazyTensor(numbers, ir.DataType.FLOAT, ir.Shape((64, 64)), name="w")
    converted = half.to_half(model)
    assert reads == []
    dtypes = {v.const_value.dtype for v in converted.graph.initializers.values() if v.const_value is not None}
    assert ir.DataType.FLOAT16 in dtypes


def rewrite(folder: Path, scale: float) -> bundle.Bundle:
    """The tiny bundle with its keyframe network in float16, whose prediction is `scale` times too large."""
    tiny = write_bundle(folder)
    model = open_graph(folder / "keyframe_unet.onnx")
    model.graph.initializers["scale"].const_value = ir.tensor(np.array(0.6 * scale, np.float32))
    write_graph(half.emulate_half(half.to_half(model)), folder / "keyframe_unet.onnx", half=True)
    return bundle.write_manifest(folder, replace(tiny.manifest, files=bundle.list_files(folder)))


def test_videos_far_from_the_plain_ones_are_refused(tiny: bundle.Bundle, tmp_path: Path) -> None:
    request = Request("a red circle", num_inference_steps=2)
    near, far = rewrite(tmp_path / "near", 1.01), rewrite(tmp_path / "far", 1.5)
    decibels = [compare.compare_videos(tiny, other, [request], threads=1) for other in (tiny, near, far)]
    assert decibels[0] == float("inf")
    assert 35 < decibels[1] < 100
    assert decibels[2] < 35
    compare.check_psnr(decibels[1])
    with pytest.raises(FidelityError, match=r"expected 35 dB or more; .*--dtype float32"):
        compare.check_psnr(decibels[2])
    with pytest.raises(FidelityError):
        compare.check_psnr(float("nan"))
