"""Weight-only int8: matrix products of a graph as com.microsoft MatMulNBits, for a text encoder of billions of weights.

Every block of weights that one output sums has a float32 scale; numbers are rounded to nearest, as ONNX Runtime's own
matmul_nbits_quantizer does. That one needs all weights in memory, this pass one matrix.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ffrt.errors import RequestError
from graphs.passes import ir as m

BLOCKS = (16, 32, 64, 128, 256)
"""Sizes of a block that MatMulNBits takes: a smaller one is more exact and has more scales."""
_ZERO = 128  # what stands for 0
_LEAST = 1 << 10
"""A matrix with fewer weights stays: nothing is gained."""


def to_int8(model: ir.Model, block: int = 32, accuracy_level: int = 0) -> ir.Model:
    """``model`` with every product by a constant matrix in weight-only int8; embeddings and convolutions stay.

    ``accuracy_level`` 4 lets CPU kernels round activations to int8 as well: faster, less exact. Sums are float32 with
    0. Raises RequestError for a ``block`` that no kernel has. Write the result with ``half=False``: scales are float32.
    """
    if block not in BLOCKS:
        raise RequestError(f"block: expected one of {list(BLOCKS)}, got {block!r}; 32 is the usual one")
    model = model.clone()
    for node in m.nodes_of(model, "MatMul"):
        found = _matrix(m.input_of(node, 1))
        if found is not None:
            _replace(model.graph, node, *found, block, accuracy_level)
    model.opset_imports["com.microsoft"] = 1
    return m.tidy(model)


def _matrix(value: ir.Value) -> tuple[ir.TensorProtocol, bool, str] | None:
    """The weights that ``value`` holds, whether they lie as [N, K], and their name; None if it is no such matrix."""
    transpose = m.find_producer(value, "Transpose")
    if transpose is not None:
        value = m.input_of(transpose, 0)
    tensor = m.weight(value)
    if tensor is None or len(tensor.shape) != 2 or tensor.size < _LEAST:
        return None
    if transpose is not None and transpose.attributes["perm"].as_ints() != (1, 0):
        return None
    name = tensor.name if tensor.name is not None else "matrix"
    return tensor, transpose is not None, name.removesuffix(".stored")


def _replace(
    graph: ir.Graph, node: ir.Node, tensor: ir.TensorProtocol, rows: bool, name: str, block: int, accuracy_level: int
) -> None:
    shape = tensor.shape.numpy()
    outputs, inner = (shape[0], shape[1]) if rows else (shape[1], shape[0])
    blocks = math.ceil(inner / block)

    def cut() -> NDArray[np.float32]:
        found = m.as_float32(tensor)
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()  # its mapping
        return cut_blocks(found if rows else found.T, block)

    key = f"{name}.int8"
    quantised = ir.val(key, dtype=ir.DataType.UINT8, shape=(outputs, blocks, block))
    quantised.const_value = ir.LazyTensor(
        lambda: ir.tensor(quantise(cut())[0]),
        ir.DataType.UINT8,
        ir.Shape((outputs, blocks, block)),
        name=key,
    )
    if key in graph.initializers:  # a matrix that two products share
        quantised = graph.initializers[key]
        scales = graph.initializers[f"{name}.scale"]
    else:
        graph.register_initializer(quantised)
        scales = m.new_weight(graph, f"{name}.scale", (outputs, blocks), lambda: scales_of(cut()))
    product = m.emit(
        node,
        "MatMulNBits",
        [node.inputs[0], quantised, scales],
        {"K": inner, "N": outputs, "bits": 8, "block_size": block, "accuracy_level": accuracy_level},
        domain="com.microsoft",
    )
    m.replace(graph, node.outputs[0], product)


def cut_blocks(matrix: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """[N, K] -> [N, blocks, block], with zeros where the last block is not full."""
    outputs, inner = matrix.shape
    return np.pad(matrix, ((0, 0), (0, -inner % block))).reshape(outputs, -1, block)


def scales_of(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, blocks, block] -> [N, blocks]: what one unit stands for. The largest number of a block becomes -128."""
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)[..., 0]
    return np.asarray(largest / np.float32(-_ZERO), np.float32)


def quantise(blocks: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """[N, blocks, block] -> its numbers as uint8, 128 for 0, and the scales: weight = (number - 128) * scale."""
    scales = scales_of(blocks)
    units = np.divide(blocks, scales[..., None], out=np.zeros_like(blocks), where=scales[..., None] != 0)
    return np.clip(np.rint(units) + _ZERO, 0, 255).astype(np.uint8), scales
