"""Fused attention: how many are fused, and that they compute what plain ones do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphs.passes.attention import fuse_attention
from graphs.passes.ir import tidy
from graphs.store import open_graph, write_graph
from tests.graphs.handmade import DEMO, Feed, attentions, ops, run, session_of

PROVIDERS = {
    "cpu": partial(fuse_attention, over_time=False, key_lengths=False),
    "cuda": partial(fuse_attention, over_time=True, key_lengths=True),
}
ATTENTIONS = {
    "text_encoder": (2, 0),
    "keyframe_unet": (13, 4),
    "interpolation_unet": (7, 0),
    "masked_interpolation_unet": (7, 0),
    "movq_encoder": (2, 0),
    "movq_decoder": (3, 0),
}
"""Over tokens `[B, n, C]`, and over time."""
LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_attention_of_the_demo_is_fused(name: str) -> None:
    plain = open_graph(DEMO / f"{name}.onnx")
    spatial, over_time = ATTENTIONS[name]
    assert attentions(plain) == (0, spatial + over_time)
    assert attentions(PROVIDERS["cpu"](plain)) == (spatial, over_time)
    fused = PROVIDERS["cuda"](plain)
    assert attentions(fused) == (spatial + over_time, 0)
    assert attentions(plain) == (0, spatial + over_time), "the pass works on a copy"
    per_attention = 1 if name.startswith("movq") else 5  # one head: keys; several: queries, keys (2), values, result
    removed = ops(tidy(plain.clone()))["Transpose"] - ops(fused)["Transpose"]
    assert removed == per_attention * (spatial + over_time)


@pytest.mark.parametrize("name", ["text_encoder", "keyframe_unet", "movq_encoder"])
def test_fused_graphs_of_the_demo_give_the_same_result(name: str, tmp_path: Path) -> None:
    plain = open_graph(DEMO / f"{name}.onnx")
    sessions = [session_of(DEMO / f"{name}.onnx")]
    for provider, fuse in PROVIDERS.items():
        write_graph(fuse(plain), tmp_path / f"{provider}.onnx", half=True)
        sessions.append(session_of(tmp_path / f"{provider}.onnx"))
    for feed in feeds(plain):
        wanted, *others = [session.run(None, feed) for session in sessions]
        for outputs in others:
            for want, got in zip(wanted, outputs, strict=True):
                np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * max(1.0, float(np.abs(want).max())))


def feeds(model: ir.Model) -> Iterator[Feed]:
    """Random inputs of several sizes, text of several lengths."""
    rng = np.random.default_rng(5)
    for b, t, h, w, lengths in ((2, 3, 8, 16, (7, 1)), (1, 2, 16, 8, (3,)), (3, 2, 8, 8, (2, 4, 4))):
        longest = max(lengths)
        sizes = {"B*T": b * t, "B": b, "T": t, "h": h, "w": w, "L": longest, "N": t, "H": 8 * h, "W": 8 * w}
        feed: Feed = {}
        for value in model.graph.inputs:
            assert value.shape is not None and value.name is not None and value.dtype is not None
            shape = [axis if isinstance(axis, int) else sizes[str(axis.value)] for axis in value.shape]
            if value.name.endswith("mask"):
                feed[value.name] = (np.arange(longest) < np.array(lengths)[:, None]).astype(value.dtype.numpy())
            elif value.dtype == ir.DataType.INT64:
                feed[value.name] = rng.integers(0, 19, shape)
            else:
                feed[value.name] = rng.standard_normal(shape).astype(np.float32)
        yield feed


@pytest.mark.parametrize("rows", [[[1, 1, 1, 1, 1]], [[1, 0, 0, 0, 0]], [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]])
@pytest.mark.parametrize("mask_first", [True, False])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_hidden_keys_stay_hidden_however_high_they_score(
    rows: list[list[int]], mask_first: bool, provider: str
) -> None:
    mask = np.array(rows, bool)
    tokens = {name: np.ones((len(rows), length, 8), np.float32) for name, length in (("q", 3), ("k", 5), ("v", 5))}
    tokens["k"] *= np.where(mask, -60, 4e4)[:, :, None].astype(np.float32)  # default filters of -1e4 would let these in
    tokens["v"] *= np.arange(5, dtype=np.float32)[:, None]
    model = handmade(mask_first=mask_first)
    fused = PROVIDERS[provider](model)
    assert attentions(fused) == (1, 0)
    feed = {**tokens, "mask": mask}
    wanted = run(model, feed)
    means = [np.arange(5)[row].mean() for row in mask]
    np.testing.assert_allclose(wanted, np.broadcast_to(np.array(means)[:, None, None], wanted.shape), rtol=1e-6)
    np.testing.assert_allclose(run(fused, feed), wanted, rtol=1e-6)


def test_a_mask_with_holes_is_exact_on_the_cpu() -> None:
    rng = np.random.default_rng(0)
    feed: Feed = {
        name: rng.standard_normal((2, length, 8)).astype(np.float32)
        for name, length in zip("qkv", (3, 5, 5), strict=True)
    }
    feed["mask"] = np.array([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]], bool)
    model = handmade(mask_first=False)
    np.testing.assert_allclose(run(PROVIDERS["cpu"](model), feed), run(model, feed), rtol=1e-5, atol=1e-6)


def test_attention_that_the_operator_cannot_compute_stays_plain() -> None:
    per_query = handmade(mask_first=False, unsqueezed=(1,))  # [B, 1, n, m]: not a mask of keys
    assert attentions(PROVIDERS["cuda"](per_query)) == (0, 1)
    soft = handmade(mask_first=False, lowest=-1.0)
    assert attentions(PROVIDERS["cpu"](soft)) == (0, 1)


def handmade(mask_first: bool, lowest: float = LOWEST, unsqueezed: tuple[int, ...] = (1, 2)) -> ir.Model:
    """Two heads of four, constant shapes and Div where the exporter writes Concat and Mul; keys in one Transpose."""
    constants = {
        "heads": np.array([0, 0, 2, 4]),
        "whole": np.array([0, 0, 8]),
        "axes": np.array(unsqueezed),
        "lowest": np.float32(lowest),
        "root": np.float32(2),
    }
    nodes = [helper.make_node("Unsqueeze", ["mask", "axes"], ["spread"])]
    for name, perm in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        nodes.append(helper.make_node("Reshape", [name, "heads"], [f"{name}.split"]))
        nodes.append(helper.make_node("Transpose", [f"{name}.split"], [f"{name}.heads"], perm=perm))
    nodes.append(helper.make_node("MatMul", ["q.heads", "k.heads"], ["product"]))
    nodes.append(helper.make_node("Div", ["product", "root"], ["scores"]))
    if mask_first:
        nodes.append(helper.make_node("Where", ["spread", "scores", "lowest"], ["masked"]))
    else:
        nodes.append(helper.make_node("Not", ["spread"], ["hidden"]))
        nodes.append(helper.make_node("Where", ["hidden", "lowest", "scores"], ["masked"]))
    nodes.append(helper.make_node("Softmax", ["masked"], ["shares"], axis=-1))
    nodes.append(helper.make_node("MatMul", ["shares", "v.heads"], ["mixed"]))
    nodes.append(helper.make_node("Transpose", ["mixed"], ["back"], perm=(0, 2, 1, 3)))
    nodes.append(helper.make_node("Reshape", ["back", "whole"], ["y"]))
    floats = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", f"n{n}", 8]) for n in ("q", "k", "v", "y")]
    mask = helper.make_tensor_value_info("mask", TensorProto.BOOL, ["B", *["n"] * (2 - len(unsqueezed)), "nk"])
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "attention", [*floats[:3], mask], floats[3:], initializer=tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10))
