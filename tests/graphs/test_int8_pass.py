"""Weight-only int8: the same numbers as ONNX Runtime's own quantiser, read one matrix at a time."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from ffrt import bundle
from ffrt.errors import RequestError
from graphs.compare import random_inputs
from graphs.metrics import relative_rms
from graphs.passes import half, int8
from graphs.passes.ir import nodes_of
from graphs.store import open_graph, write_graph
from tests.graphs.handmade import DEMO

K, N = 100, 48


def product() -> onnx.ModelProto:
    """A graph of one matrix product, with one block of zeros."""
    weights = np.random.default_rng(0).standard_normal((K, N)).astype(np.float32)
    weights[:32, 3] = 0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["R", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["R", N])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    found: np.ndarray = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    return found


@pytest.mark.parametrize("block", [32, 128])
def test_the_numbers_are_those_of_the_library(block: int) -> None:
    proto = product()
    logging.disable(logging.INFO)
    library = MatMulNBitsQuantizer(proto, bits=8, block_size=block, is_symmetric=True)
    library.process()
    logging.disable(logging.NOTSET)
    want = {value.name: numpy_helper.to_array(value) for value in library.model.model.graph.initializer}
    got = {
        name: value.const_value.numpy()
        for name, value in int8.to_int8(ir.from_proto(product()), block).graph.initializers.items()
        if value.const_value is not None
    }
    np.testing.assert_allclose(got["w.scale"], want["w_scales"].reshape(N, -1), rtol=1e-6)
    rows = [array.reshape(N, -1)[:, :K].astype(int) for array in (got["w.int8"], want["w_Q8"])]
    assert np.abs(rows[0] - rows[1]).max() <= 1  # ties
    assert (rows[0] != rows[1]).mean() < 1e-3
    assert (rows[0][3, :32] == 128).all()


def test_a_product_keeps_its_value(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((5, K)).astype(np.float32)
    onnx.save(product(), tmp_path / "plain.onnx")
    want = run(tmp_path / "plain.onnx", {"x": x})
    for block, floor in ((32, 8e-3), (128, 1.1e-2)):
        write_graph(int8.to_int8(ir.from_proto(product()), block), tmp_path / "int8.onnx", half=False)
        assert 1e-4 < relative_rms(run(tmp_path / "int8.onnx", {"x": x}), want) < floor


def test_the_text_encoder_of_the_demo_is_smaller_and_close(tmp_path: Path) -> None:
    spec = bundle.open_bundle(DEMO).graphs["text_encoder"]
    plain = open_graph(DEMO / spec.file)
    feed = random_inputs(spec.inputs)
    made = int8.to_int8(plain)
    assert [node.op_type for node in nodes_of(plain, "MatMul", "MatMulNBits")] == ["MatMul"] * 19
    left = [node.op_type for node in nodes_of(made, "MatMul", "MatMulNBits")]
    assert left.count("MatMulNBits") == 15  # 7 in each layer and the projection
    assert left.count("MatMul") == 4  # scores and what they weigh
    want = run(DEMO / spec.file, feed)
    write_graph(made, tmp_path / "int8.onnx", half=False)
    assert 1e-4 < relative_rms(run(tmp_path / "int8.onnx", feed), want) < 1e-2
    write_graph(half.to_half(made), tmp_path / "both.onnx", half=True)
    assert relative_rms(run(tmp_path / "both.onnx", feed), want) < 1e-2
    sizes = [
        sum(path.stat().st_size for path in folder.glob(name))
        for folder, name in ((DEMO, "text_encoder.*"), (tmp_path, "int8.*"))
    ]
    assert sizes[1] < 0.9 * sizes[0]


def test_no_matrix_is_read_before_it_is_written() -> None:
    asked: list[int] = []

    def numbers() -> ir.TensorProtocol:
        asked.append(1)
        return ir.tensor(np.ones((K, N), np.float32))

    model = ir.from_proto(product())
    model.graph.initializers["w"].const_value = ir.LazyTensor(numbers, ir.DataType.FLOAT, ir.Shape((K, N)), name="w")
    made = int8.to_int8(model)
    assert asked == []
    assert (made.graph.initializers["w.int8"].const_value.numpy()[:, :3] == 0).all()  # type: ignore[union-attr]
    assert asked == [1]


def test_a_block_that_no_kernel_has_is_refused() -> None:
    with pytest.raises(RequestError, match=r"block: expected one of \[16, 32, 64, 128, 256\], got 48"):
        int8.to_int8(ir.from_proto(product()), 48)
