"""GroupNorm and views in CUDA's layout: how many, and that they compute what the plain graph does.

The CPU has no kernel for com.microsoft GroupNorm, so here each one is written out by its definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.convenience import get_const_tensor

from graphs.passes.attention import fuse_attention
from graphs.passes.channels_last import channels_last_views
from graphs.passes.group_norm import fuse_group_norm
from graphs.passes.ir import emit, nodes_of, replace
from graphs.store import open_graph, write_graph
from tests.graphs.handmade import DEMO, Feed, group_norms, session_of

fuse_all_attention = partial(fuse_attention, over_time=True, key_lengths=True)
NORMS = {"keyframe_unet": (219, 6), "movq_encoder": (10, 5), "movq_decoder": (16, 8)}
"""How many are fused, and how many stay because their groups have an odd number of channels."""


def written_out(model: ir.Model) -> ir.Model:
    """Every com.microsoft GroupNorm by its definition: over h, w and the channels of a group, then SiLU if set."""
    model = model.clone()
    graph = model.graph

    def constant(array: NDArray[np.generic]) -> ir.Value:
        value = ir.val(f"written.{len(graph.initializers)}", const_value=ir.tensor(array))
        graph.register_initializer(value)
        return value

    for node in nodes_of(model, "GroupNorm"):
        assert node.domain == "com.microsoft" and node.attributes["channels_last"].as_int() == 1
        x, gamma, beta = node.inputs
        assert gamma is not None and beta is not None and gamma.dtype == beta.dtype == ir.DataType.FLOAT
        groups = node.attributes["groups"].as_int()
        epsilon = constant(np.float32(node.attributes["epsilon"].as_float()))
        apart = emit(node, "Reshape", [emit(node, "Shape", [x], {"start": 1, "end": 3}), constant(np.array([-1]))])
        lead = constant(np.array([0, -1, groups]))
        each = gamma.shape.numpy()[0] // groups  # type: ignore[union-attr]
        shape = emit(node, "Concat", [lead, constant(np.array([each]))], {"axis": 0})
        split = emit(node, "Reshape", [x, shape])  # [N, h*w, groups, C / groups]
        axes = constant(np.array([1, 3]))
        centred = emit(node, "Sub", [split, emit(node, "ReduceMean", [split, axes])])
        variance = emit(node, "ReduceMean", [emit(node, "Mul", [centred, centred]), axes])
        deviation = emit(node, "Sqrt", [emit(node, "Add", [variance, epsilon])])
        tokens = emit(node, "Div", [centred, deviation])
        whole = emit(node, "Concat", [constant(np.array([0])), apart, constant(np.array([-1]))], {"axis": 0})
        normed = emit(node, "Reshape", [tokens, whole])
        normed = emit(node, "Add", [emit(node, "Mul", [normed, gamma]), beta])
        if node.attributes["activation"].as_int() == 1:
            normed = emit(node, "Mul", [normed, emit(node, "Sigmoid", [normed])])
        replace(graph, node.outputs[0], normed)
        graph.remove(node, safe=True)
    return model


@pytest.mark.parametrize("name", NORMS)
def test_norms_of_the_demo_are_fused_and_give_the_same_result(name: str, tmp_path: Path) -> None:
    plain = open_graph(DEMO / f"{name}.onnx")
    assert group_norms(plain) == (0, sum(NORMS[name]))
    fused = channels_last_views(fuse_group_norm(fuse_all_attention(plain)))
    assert group_norms(fused) == NORMS[name]
    assert group_norms(plain) == (0, sum(NORMS[name])), "the pass works on a copy"
    write_graph(written_out(fused), tmp_path / "fused.onnx", half=False)
    sessions = [session_of(path) for path in (DEMO / f"{name}.onnx", tmp_path / "fused.onnx")]
    for feed in feeds(plain):
        (wanted,), (got,) = (session.run(None, feed) for session in sessions)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-6 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize(
    ("name", "views", "left", "large"), [("keyframe_unet", 120, 8, 0), ("movq_decoder", 12, 0, 29)]
)
def test_images_are_viewed_and_enlarged_with_channels_last(
    name: str, views: int, left: int, large: int, tmp_path: Path
) -> None:
    plain = fuse_all_attention(open_graph(DEMO / f"{name}.onnx"))
    after = channels_last_views(plain)
    assert (transposed_views(plain), transposed_views(after)) == (views, left), "frames of a pixel have to be moved"
    for model, axes in ((plain, (2, 3)), (after, (1, 2))):
        scales = [get_const_tensor(node.inputs[2]) for node in nodes_of(model, "Resize")]
        enlarged = [tuple(np.flatnonzero(scale.numpy() > 1)) for scale in scales if scale is not None]
        assert enlarged == [axes] * large
    write_graph(after, tmp_path / "after.onnx", half=False)
    feed = feeds(plain)[0]
    wanted, got = (session_of(path).run(None, feed)[0] for path in (DEMO / f"{name}.onnx", tmp_path / "after.onnx"))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-6 * max(1.0, float(np.abs(wanted).max())))


def transposed_views(model: ir.Model) -> int:
    """Transposes between images and their views as tokens or frames."""
    perms = [tuple(node.attributes["perm"].as_ints()) for node in nodes_of(model, "Transpose")]
    return sum(perm == (0, 2, 1) for perm in perms) + sum(perm == (0, 2, 1, 3) for perm in perms)


def feeds(model: ir.Model) -> Sequence[Feed]:
    rng = np.random.default_rng(5)
    inputs: list[Feed] = []
    for b, t, h, w in ((2, 3, 8, 16), (1, 2, 16, 8)):
        sizes = {"B*T": b * t, "B": b, "T": t, "h": h, "w": w, "L": 4, "N": t, "H": 8 * h, "W": 8 * w}
        feed: Feed = {}
        for value in model.graph.inputs:
            assert value.shape is not None and value.name is not None and value.dtype is not None
            shape = [axis if isinstance(axis, int) else sizes[str(axis.value)] for axis in value.shape]
            if value.dtype == ir.DataType.FLOAT:
                feed[value.name] = rng.standard_normal(shape).astype(np.float32)
            else:
                feed[value.name] = rng.integers(1, 2, shape).astype(value.dtype.numpy())
        inputs.append(feed)
    return inputs


@pytest.mark.parametrize("size", [(8, 6, 4), (8, 5), (8, 3, 4, 6)], ids=["image", "tokens", "video"])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("modulated", [None, "row", "map"])
def test_every_form_of_a_norm_is_fused(size: tuple[int, ...], silu: bool, modulated: str | None) -> None:
    model = one_norm(size, silu, modulated)
    fused = fuse_group_norm(model)
    assert group_norms(fused) == (1, 0)
    (node,) = nodes_of(fused, "GroupNorm")
    assert node.attributes["activation"].as_int() == int(silu and modulated is None)
    rng = np.random.default_rng(3)
    feed: Feed = {"x": rng.standard_normal((2, *size)).astype(np.float32)}
    if modulated is not None:
        rest = size[1:] if modulated == "map" else ()
        feed |= {name: rng.standard_normal((2, 8, *rest)).astype(np.float32) for name in ("scale", "shift")}
    (wanted,), (got,) = (
        session_of(ir.to_proto(each).SerializeToString()).run(None, feed) for each in (model, written_out(fused))
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_norm_with_an_odd_number_of_channels_per_group_stays() -> None:
    assert group_norms(fuse_group_norm(one_norm((8, 6, 4), False, None, groups=8))) == (0, 1)
    assert group_norms(fuse_group_norm(one_norm((8, 6, 4), False, None, groups=3))) == (0, 1)


def one_norm(size: tuple[int, ...], silu: bool, modulated: str | None, groups: int = 2) -> ir.Model:
    """GroupNorm of `[N, *size]` with weights, as the exporter writes it; scale and shift per row or per pixel."""
    rng = np.random.default_rng(1)
    spread = (8, *[1] * (len(size) - 1))
    constants: dict[str, NDArray[np.generic]] = {
        "split": np.array([0, groups, -1]),
        "ones": np.ones(groups, np.float32),
        "zeros": np.zeros(groups, np.float32),
        "gamma": rng.standard_normal(spread).astype(np.float32),
        "beta": rng.standard_normal(spread).astype(np.float32),
        "axes": np.arange(2, len(size) + 1),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["groups"]),
        helper.make_node("InstanceNormalization", ["groups", "ones", "zeros"], ["normed"], epsilon=1e-5),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["normed", "shape"], ["back"]),
        helper.make_node("CastLike", ["gamma", "back"], ["gamma.cast"]),
        helper.make_node("Mul", ["back", "gamma.cast"], ["scaled"]),
        helper.make_node("Add", ["scaled", "beta"], ["out"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *size])]
    last = "out"
    if modulated is not None:
        wide = ["N", 8] if modulated == "row" else ["N", *size]
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, wide) for name in ("scale", "shift")]
        parts = ["scale", "shift"]
        if modulated == "row":
            nodes += [helper.make_node("Unsqueeze", [name, "axes"], [f"{name}.wide"]) for name in parts]
            parts = [f"{name}.wide" for name in parts]
        nodes += [helper.make_node("Mul", [last, parts[0]], ["product"])]
        nodes += [helper.make_node("Add", ["product", parts[1]], ["modulated"])]
        last = "modulated"
    if silu:
        nodes += [helper.make_node("Sigmoid", [last], ["share"]), helper.make_node("Mul", [last, "share"], ["y"])]
    else:
        nodes += [helper.make_node("Identity", [last], ["y"])]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *size])]
    graph = helper.make_graph(nodes, "norm", inputs, outputs, initializer=tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
