"""The update graph: all of a denoising step except its network.

Guidance, clean estimate, threshold, update and the next model input are one graph without weights, which the runtime
runs between two runs of a U-Net so that latents never leave the device. The numbers of a step are inputs
(`ffrt.sampling.Update`). `python -m graphs update` writes it to `runtime/ffrt/stages/update.onnx`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PLACE = Path(__file__).parents[1] / "runtime" / "ffrt" / "stages" / "update.onnx"
OPSET = 18
_node = helper.make_node
_NUMBERS = ("from_x", "from_prediction", "keep_x", "keep_x0", "keep_before", "add_noise")


def update_graph() -> onnx.ModelProto:
    """Build the graph; all tensors but `rank` are float32.

    Inputs:

    - `x`, `x0_before`, `noise` `[n, c, h, w]`
    - `prediction` `[B*n, c, h, w]` of B guidance rows, and `weights` `[B]` of their sum
    - `before`, `after` `[C*n, .., h, w]` of the C rows of the next step: channels of the model input in front of and
      behind `x`; may have none
    - `numbers` `[6]`: the coefficients, in the order of `ffrt.sampling.Update`
    - the threshold, a quantile of |x0|: `rank` int64 `[1]` (counted from the largest, at least 2), `fraction` `[1]`
      of the distance to the next larger value, `least` and `most` `[1]` that it may be; infinite ones leave x0 alone

    Outputs: `x_next` and `x0` `[n, c, h, w]`, and `x_in`, the next model input.
    """
    nodes = [*_guidance(), *_clean_estimate(), *_next_latents(), *_next_input()]
    constants: dict[str, NDArray[np.generic]] = {
        "minus_two": np.array([-2]),
        "minus_one": np.array([-1]),
        "end": np.array([np.iinfo(np.int64).max]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "unit": np.array([1], np.float32),
        "largest_float": np.array([np.finfo(np.float32).max]),
        "last_axes": np.array([2, 3]),
        "ones3": np.array([1, 1, 1]),
    }
    inputs = [
        *(_float(name, "n", "c", "h", "w") for name in ("x", "x0_before", "noise")),
        _float("prediction", "p", "q", "h", "w"),
        _float("weights", "B"),
        _float("before", "N", "k", "h", "w"),
        _float("after", "N", "l", "h", "w"),
        _float("numbers", len(_NUMBERS)),
        helper.make_tensor_value_info("rank", TensorProto.INT64, [1]),
        _float("fraction", 1),
        _float("least", 1),
        _float("most", 1),
    ]
    outputs = [_float(name, "n", "c", "h", "w") for name in ("x_next", "x0")] + [_float("x_in", "N", "m", "h", "w")]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "update", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _float(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _guidance() -> list[onnx.NodeProto]:
    """Sum the predictions of all guidance rows by their weights, and split the numbers of the step."""
    return [
        _node("Shape", ["x"], ["shape"]),
        _node("Shape", ["weights"], ["rows"]),
        _node("Concat", ["rows", "minus_one"], ["by_row"], axis=0),
        _node("Reshape", ["prediction", "by_row"], ["predictions"]),
        _node("Unsqueeze", ["weights", "zero"], ["weight_row"]),
        _node("MatMul", ["weight_row", "predictions"], ["guided_flat"]),
        _node("Reshape", ["guided_flat", "shape"], ["guided"]),
        _node("Split", ["numbers"], list(_NUMBERS), num_outputs=len(_NUMBERS), axis=0),
    ]


def _clean_estimate() -> list[onnx.NodeProto]:
    """The estimate of x0, clipped to the threshold of each frame and divided by it."""
    return [
        _node("Mul", ["x", "from_x"], ["x_part"]),
        _node("Mul", ["guided", "from_prediction"], ["guided_part"]),
        _node("Add", ["x_part", "guided_part"], ["estimate"]),
        _node("Abs", ["estimate"], ["sizes"]),
        _node("Flatten", ["sizes"], ["sizes_flat"], axis=1),
        _node("TopK", ["sizes_flat", "rank"], ["largest", "places"], axis=1, largest=1, sorted=1),
        _node("Slice", ["largest", "minus_one", "end", "one"], ["low"]),
        _node("Slice", ["largest", "minus_two", "minus_one", "one"], ["high"]),
        _node("Sub", ["high", "low"], ["between"]),
        _node("Mul", ["between", "fraction"], ["way"]),
        _node("Add", ["low", "way"], ["quantile"]),
        _node("Max", ["quantile", "least"], ["at_least"]),
        _node("Min", ["at_least", "most"], ["limit_flat"]),
        _node("Unsqueeze", ["limit_flat", "last_axes"], ["limit"]),
        _node("Neg", ["limit"], ["minus_limit"]),
        _node("Max", ["estimate", "minus_limit"], ["raised"]),
        _node("Min", ["raised", "limit"], ["clipped"]),
        _node("Greater", ["limit", "largest_float"], ["off"]),
        _node("Where", ["off", "unit", "limit"], ["divisor"]),
        _node("Div", ["clipped", "divisor"], ["x0"]),
    ]


def _next_latents() -> list[onnx.NodeProto]:
    """`x_next`: x, this x0, the one before and noise, each times its number, summed in that order."""
    return [
        _node("Mul", ["x", "keep_x"], ["x_kept"]),
        _node("Mul", ["x0", "keep_x0"], ["x0_kept"]),
        _node("Add", ["x_kept", "x0_kept"], ["sum1"]),
        _node("Mul", ["x0_before", "keep_before"], ["x0_before_kept"]),
        _node("Add", ["sum1", "x0_before_kept"], ["sum2"]),
        _node("Mul", ["noise", "add_noise"], ["noise_kept"]),
        _node("Add", ["sum2", "noise_kept"], ["x_next"]),
    ]


def _next_input() -> list[onnx.NodeProto]:
    """`x_in`: `x_next` once per guidance row of the next step, between the channels that do not change."""
    return [
        _node("Shape", ["before"], ["seen_items"], start=0, end=1),
        _node("Shape", ["x"], ["items"], start=0, end=1),
        _node("Div", ["seen_items", "items"], ["next_rows"]),
        _node("Concat", ["next_rows", "ones3"], ["repeats"], axis=0),
        _node("Tile", ["x_next", "repeats"], ["seen"]),
        _node("Concat", ["before", "seen", "after"], ["x_in"], axis=1),
    ]
