"""Graphs written in ONNX's text form, and what the tests of passes share: running, counting and comparing graphs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from graphs.passes.ir import is_large, nodes_of, only_user

DEMO = Path(__file__).resolve().parents[2] / "graphs" / "demo"
Feed = dict[str, NDArray[np.generic]]


def graph(text: str, **arrays: NDArray[np.generic]) -> ir.Model:
    """A graph in ONNX's own text form, with weights by name."""
    proto = parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return ir.from_proto(proto)


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    return np.float32(scale) * np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def session_of(model: Path | bytes) -> ort.InferenceSession:
    """A session of one thread that runs the graph as it stands, without fusions of its own."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # a weight may be for another variant of the graph
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model: ir.Model, feed: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """The first output of a graph in memory."""
    return np.asarray(session_of(ir.to_proto(model).SerializeToString()).run(None, dict(feed))[0])


def run_parts(sessions: Sequence[ort.InferenceSession], feed: Feed) -> tuple[NDArray[np.float32], Feed]:
    """The prediction of a graph in parts, each fed from the inputs and earlier parts, and the feed of the last part."""
    known, taken = dict(feed), dict(feed)
    for session in sessions:
        taken = {value.name: known[value.name] for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        known |= dict(zip(names, session.run(names, taken), strict=True))
    return np.asarray(known["prediction"], np.float32), taken


def same(got: NDArray[np.float32], want: NDArray[np.float32], tolerance: float = 3e-6) -> None:
    """Equal up to `tolerance` of the largest number."""
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * float(np.abs(want).max()))


def ops(model: ir.Model) -> Counter[str]:
    """How many nodes there are of each operator."""
    return Counter(node.op_type for node in model.graph)


def attentions(model: ir.Model) -> tuple[int, int]:
    """How many attentions are one operator, and how many are plain ones."""
    plain = sum(1 for node in nodes_of(model, "Softmax") if only_user(node.outputs[0], "MatMul"))
    return ops(model)["MultiHeadAttention"], plain


def group_norms(model: ir.Model) -> tuple[int, int]:
    """How many GroupNorms are one operator, and how many are plain ones."""
    return ops(model)["GroupNorm"], ops(model)["InstanceNormalization"]


def weights(model: ir.Model) -> int:
    """Elements of all weights and constants that the graph uses."""
    return _elements(model, lambda tensor: True)


def parameters(model: ir.Model) -> int:
    """Elements of all weights that the graph uses, small constants left out."""
    return _elements(model, is_large)


def _elements(model: ir.Model, counts: Callable[[ir.TensorProtocol], bool]) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values() if value.uses()]
    return sum(math.prod(tensor.shape.numpy()) for tensor in tensors if tensor is not None and counts(tensor))
