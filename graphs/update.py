"""All of a denoising step but its network, as one graph: guidance, clean estimate, threshold, update, next input.

``python -m graphs.update`` writes ``runtime/ffrt/stages/update.onnx``, which the runtime runs between two runs of a
U-Net so that latents never leave the device. It has no weights; the numbers of a step are inputs
(``ffrt.sampling.Update``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PLACE = Path(__file__).parents[1] / "runtime" / "ffrt" / "stages" / "update.onnx"
OPSET = 18
_NUMBERS = ("from_x", "from_prediction", "keep_x", "keep_x0", "keep_before", "add_noise")


def update_graph() -> onnx.ModelProto:
    """The graph. Inputs: ``x``, ``x0_before``, ``noise`` ``[n, c, h, w]``; ``prediction`` of B guidance rows and
    ``weights`` ``[B]`` that they are summed with; ``before`` and ``after`` ``[B*n, .., h, w]``, what the network sees
    beside ``x`` (no channels for nothing); ``numbers`` ``[6]`` as in ``ffrt.sampling.Update``; the threshold as
    ``rank`` ``[1]`` (of |x0| from above, 2 or more), ``fraction`` ``[1]`` of the way to the next larger, ``most``
    ``[1]``. Outputs: ``x_next``, ``x0``, and ``x_in``, what the network sees next.
    """
    node, nodes = helper.make_node, []
    nodes += [
        node("Shape", ["x"], ["shape"]),
        node("Shape", ["weights"], ["rows"]),
        node("Concat", ["rows", "minus_one"], ["by_row"], axis=0),
        node("Reshape", ["prediction", "by_row"], ["predictions"]),
        node("Unsqueeze", ["weights", "zero"], ["weight_row"]),
        node("MatMul", ["weight_row", "predictions"], ["guided_flat"]),
        node("Reshape", ["guided_flat", "shape"], ["guided"]),
        node("Split", ["numbers"], list(_NUMBERS), num_outputs=len(_NUMBERS), axis=0),
        node("Mul", ["x", "from_x"], ["x_part"]),
        node("Mul", ["guided", "from_prediction"], ["guided_part"]),
        node("Add", ["x_part", "guided_part"], ["estimate"]),
        node("Abs", ["estimate"], ["sizes"]),
        node("Flatten", ["sizes"], ["sizes_flat"], axis=1),
        node("TopK", ["sizes_flat", "rank"], ["largest", "places"], axis=1, largest=1, sorted=1),
        node("Slice", ["largest", "minus_one", "end", "one"], ["low"]),
        node("Slice", ["largest", "minus_two", "minus_one", "one"], ["high"]),
        node("Sub", ["high", "low"], ["between"]),
        node("Mul", ["between", "fraction"], ["way"]),
        node("Add", ["low", "way"], ["quantile"]),
        node("Max", ["quantile", "unit"], ["at_least"]),
        node("Min", ["at_least", "most"], ["limit_flat"]),
        node("Unsqueeze", ["limit_flat", "last_axes"], ["limit"]),
        node("Neg", ["limit"], ["minus_limit"]),
        node("Max", ["estimate", "minus_limit"], ["raised"]),
        node("Min", ["raised", "limit"], ["clipped"]),
        node("Div", ["clipped", "limit"], ["x0"]),
    ]
    total = ""
    for index, (number, value) in enumerate(
        (("keep_x", "x"), ("keep_x0", "x0"), ("keep_before", "x0_before"), ("add_noise", "noise"))
    ):
        nodes.append(node("Mul", [value, number], [f"{value}_kept"]))
        summed = "x_next" if index == 3 else f"sum{index}"
        if total:
            nodes.append(node("Add", [total, f"{value}_kept"], [summed]))
        total = summed if total else f"{value}_kept"
    nodes += [
        node("Concat", ["rows", "ones3"], ["repeats"], axis=0),
        node("Tile", ["x_next", "repeats"], ["seen"]),
        node("Concat", ["before", "seen", "after"], ["x_in"], axis=1),
    ]
    constants: dict[str, NDArray[np.generic]] = {
        "minus_two": np.array([-2]),
        "minus_one": np.array([-1]),
        "end": np.array([np.iinfo(np.int64).max]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "unit": np.array([1], np.float32),
        "last_axes": np.array([2, 3]),
        "ones3": np.array([1, 1, 1]),
    }

    def float_of(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    whole = [float_of(name, "n", "c", "h", "w") for name in ("x", "x0_before", "noise")]
    given = [
        float_of("prediction", "p", "q", "h", "w"),
        float_of("weights", "B"),
        float_of("before", "N", "k", "h", "w"),
        float_of("after", "N", "l", "h", "w"),
        float_of("numbers", len(_NUMBERS)),
        helper.make_tensor_value_info("rank", TensorProto.INT64, [1]),
        float_of("fraction", 1),
        float_of("most", 1),
    ]
    made = [float_of(name, "n", "c", "h", "w") for name in ("x_next", "x0")] + [float_of("x_in", "N", "m", "h", "w")]
    graph = helper.make_graph(
        nodes, "update", [*whole, *given], made, [numpy_helper.from_array(v, k) for k, v in constants.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    PLACE.write_bytes(update_graph().SerializeToString())
    print(f"{PLACE.name}: {PLACE.stat().st_size} bytes")
