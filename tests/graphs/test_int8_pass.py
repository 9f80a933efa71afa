"""Weight-only int8: the error of each block, sizes, and matrices that are read one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from ffrt import bundle
from ffrt.errors import RequestError
from graphs.compare import random_inputs
from graphs.metrics import relative_rms
from graphs.passes import half, int8
from graphs.store import open_graph, write_graph
from tests.graphs.handmade import DEMO, graph, normal, ops, run, session_of

K, N = 100, 48


def product() -> ir.Model:
    """A graph of one matrix product, whose matrix has one block of zeros."""
    weights = normal(K, N)
    weights[:32, 3] = 0
    return graph(f"g (float[R, {K}] x) => (float[R, {N}] y) {{ y = MatMul (x, w) }}", w=weights)


def initializers(model: ir.Model) -> dict[str, NDArray[np.generic]]:
    values = model.graph.initializers.items()
    return {name: value.const_value.numpy() for name, value in values if value.const_value is not None}


@pytest.mark.parametrize("block", int8.BLOCKS)
def test_every_weight_is_within_half_a_unit_of_its_block(block: int) -> None:
    want = initializers(product())["w"].T.astype(np.float64)  # [N, K]
    arrays = initializers(int8.to_int8(product(), block))
    units, scales = arrays["w.int8"].astype(np.float64) - 128, arrays["w.scale"]
    assert units.shape == (N, -(-K // block), block) and scales.shape == units.shape[:2]
    got = (units * scales[..., None]).reshape(N, -1)
    error = np.abs(got[:, :K] - want).reshape(N, K)
    unit = np.repeat(np.abs(scales), block, axis=1)[:, :K]
    assert (error <= 1.01 * unit).all(), "the largest number of the other sign may be clipped by one unit"
    assert (error <= 0.51 * unit).mean() > 0.99
    if block <= 32:
        assert (got[3, :32] == 0).all(), "a block of zeros"


def test_a_product_keeps_its_value() -> None:
    feed = {"x": normal(5, K, seed=1)}
    want = run(product(), feed)
    for block, limit in ((32, 8e-3), (128, 1.1e-2)):
        assert 1e-4 < relative_rms(run(int8.to_int8(product(), block), feed), want) < limit


def test_the_text_encoder_of_the_demo_is_smaller_and_close(tmp_path: Path) -> None:
    spec = bundle.open_bundle(DEMO).graphs["text_encoder"]
    plain = open_graph(DEMO / spec.file)
    feed = random_inputs(spec.inputs)
    quantised = int8.to_int8(plain)
    assert ops(plain)["MatMul"] == 19
    assert ops(quantised)["MatMulNBits"] == 15  # 7 in each layer and the projection
    assert ops(quantised)["MatMul"] == 4  # scores, and the values that they weight
    want = session_of(DEMO / spec.file).run(None, feed)[0]
    write_graph(quantised, tmp_path / "int8.onnx", half=False)
    assert 1e-4 < relative_rms(session_of(tmp_path / "int8.onnx").run(None, feed)[0], want) < 1e-2
    write_graph(half.to_half(quantised), tmp_path / "both.onnx", half=True)
    assert relative_rms(session_of(tmp_path / "both.onnx").run(None, feed)[0], want) < 1e-2
    sizes = [
        sum(path.stat().st_size for path in folder.glob(name))
        for folder, name in ((DEMO, "text_encoder.*"), (tmp_path, "int8.*"))
    ]
    assert sizes[1] < 0.9 * sizes[0]


def test_no_matrix_is_read_before_it_is_written() -> None:
    reads: list[int] = []

    def read() -> ir.TensorProtocol:
        reads.append(1)
        return ir.tensor(np.ones((K, N), np.float32))

    model = product()
    model.graph.initializers["w"].const_value = ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape((K, N)), name="w")
    quantised = int8.to_int8(model)
    assert reads == []
    assert (initializers(quantised)["w.int8"][:, :3] == 0).all()
    assert len(reads) == 2, "for the numbers and for the scales"


def test_a_block_that_no_kernel_supports_is_refused() -> None:
    with pytest.raises(RequestError, match=r"block: expected one of \[16, 32, 64, 128, 256\], got 48"):
        int8.to_int8(product(), 48)
