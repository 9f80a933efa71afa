"""Weight-only int8: matrix products as com.microsoft MatMulNBits, for a text encoder of billions of weights.

Each block of weights that one output sums has a float32 scale. ONNX Runtime's own kernel quantises, one matrix in
memory at a time. Its MatMulNBitsQuantizer cannot be used on exported bundles as it is: it finds no constant matrix
behind the Cast and Transpose that they are stored with, and needs all weights in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ffrt.errors import RequestError
from graphs.passes import ir as m

BLOCKS = (16, 32, 64, 128, 256)
"""Block sizes that MatMulNBits supports: smaller blocks are more exact and have more scales."""
_Quantise = Callable[[m.Float32Array], tuple[NDArray[np.uint8], m.Float32Array]]
"""float32 `[K, N]` -> uint8 `[N, blocks, block]` in which 128 stands for 0, and scales `[N, blocks]`."""
_MIN_ELEMENTS = 1 << 10
"""Smaller matrices stay as they are: nothing would be saved."""


def to_int8(model: ir.Model, block: int = 32, accuracy_level: int = 0) -> ir.Model:
    """Turn every product by a constant matrix into weight-only int8; embeddings and convolutions stay.

    With `accuracy_level` 4, CPU kernels may round activations to int8 as well: faster, less exact. With 0, sums are
    float32. Write the result with `half=False`: scales are float32. Raises RequestError for a `block` that no kernel
    supports, or if ONNX Runtime is older than 1.22.
    """
    if block not in BLOCKS:
        raise RequestError(f"block: expected one of {list(BLOCKS)}, got {block!r}; 32 is the usual one")
    try:
        from onnxruntime.quantization import matmul_nbits_quantizer  # type: ignore[import-untyped]
    except ImportError as error:
        raise RequestError(
            f"int8_text: expected ONNX Runtime 1.22 or newer, with its quantizer, got {error}; type pip install "
            "--upgrade onnxruntime"
        ) from error
    config = matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, bits=8)
    quantizer = matmul_nbits_quantizer.DefaultWeightOnlyQuantizer(config)

    def quantise(matrix: m.Float32Array) -> tuple[NDArray[np.uint8], m.Float32Array]:
        packed, scales, _ = quantizer.qbits_block_quant(matrix)
        return packed, scales.reshape(packed.shape[:2])

    model = model.clone()
    for node in m.nodes_of(model, "MatMul"):
        weight = _find_matrix(m.input_of(node, 1))
        if weight is not None:
            _replace(model.graph, node, weight, block, accuracy_level, quantise)
    model.opset_imports["com.microsoft"] = 1
    return m.tidy(model)


@dataclass(frozen=True)
class _Matrix:
    """A constant matrix that a product multiplies by."""

    tensor: ir.TensorProtocol
    transposed: bool
    """Whether it is stored as `[N, K]`."""
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        """K and N."""
        rows, columns = self.tensor.shape.numpy()
        return (columns, rows) if self.transposed else (rows, columns)

    def load(self) -> m.Float32Array:
        """The numbers as float32 `[K, N]`; the file that they are mapped from is closed again."""
        numbers = m.as_float32(self.tensor)
        if isinstance(self.tensor, ir.ExternalTensor):
            self.tensor.release()
        return np.ascontiguousarray(numbers.T) if self.transposed else numbers


def _find_matrix(value: ir.Value) -> _Matrix | None:
    """The weights behind `value`; None if they are not a constant matrix of some size."""
    transpose = m.find_producer(value, "Transpose")
    if transpose is not None:
        value = m.input_of(transpose, 0)
    tensor = m.weight(value)
    if tensor is None or len(tensor.shape) != 2 or tensor.size < _MIN_ELEMENTS:
        return None
    if transpose is not None and m.permutation(transpose) != (1, 0):
        return None
    name = tensor.name if tensor.name is not None else "matrix"
    return _Matrix(tensor, transpose is not None, name.removesuffix(".stored"))


def _replace(
    graph: ir.Graph, node: ir.Node, matrix: _Matrix, block: int, accuracy_level: int, quantise: _Quantise
) -> None:
    inner, outputs = matrix.shape
    blocks = math.ceil(inner / block)
    name, shape = f"{matrix.name}.int8", (outputs, blocks, block)
    if name in graph.initializers:  # a matrix that two products share
        packed, scales = graph.initializers[name], graph.initializers[f"{matrix.name}.scale"]
    else:
        packed = ir.val(name, dtype=ir.DataType.UINT8, shape=shape)
        packed.const_value = ir.LazyTensor(
            lambda: ir.tensor(quantise(matrix.load())[0]), ir.DataType.UINT8, ir.Shape(shape), name=name
        )
        graph.register_initializer(packed)
        scales = m.new_weight(graph, f"{matrix.name}.scale", shape[:2], lambda: quantise(matrix.load())[1])
    product = m.emit(
        node,
        "MatMulNBits",
        [node.inputs[0], packed, scales],
        {"K": inner, "N": outputs, "bits": 8, "block_size": block, "accuracy_level": accuracy_level},
        domain="com.microsoft",
    )
    m.replace(graph, node.outputs[0], product)
