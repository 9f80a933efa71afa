"""Passes that change no number, on the graphs of the demo: what each removes, and that results stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from bench.harness.flops import count_flops
from graphs.passes.constant_attention import constant_attention
from graphs.passes.modulation import join_modulation
from graphs.passes.split import split
from graphs.passes.table import PASSES
from graphs.passes.temporal_conv import fold_merge, merge_pointwise
from graphs.store import open_graph, write_graph
from tests.graphs.handmade import DEMO, Feed, normal, ops, parameters, run_parts, same, session_of, weights

REMOVED: dict[str, dict[str, dict[str, int]]] = {
    "interpolation_unet": {
        "fold_merge": {"Mul": 128, "Add": 64},
        "merge_pointwise": {"Conv": 16},
        "constant_attention": {"Softmax": 5, "Where": 5, "MatMul": 30, "Gemm": 4, "InstanceNormalization": 4},
        "join_modulation": {"Split": 75, "Add": 76},
        "drop_neutral": {"Mul": 76, "Add": 76},
        "layer_norm": {"InstanceNormalization": 77},
    },
    "keyframe_unet": {
        "join_modulation": {"Split": 222, "Add": 224},
        "drop_neutral": {"Mul": 224, "Add": 224},
        "layer_norm": {"InstanceNormalization": 225},
    },
}
"""Nodes that each pass removes from a graph whose merge factors are folded."""
SIZES = [(2, 1, 8, 16), (1, 2, 16, 8), (3, 5, 8, 8)]
"""B, T or G, h, w."""


@dataclass(frozen=True)
class Plain:
    """A graph of the demo, and what it computes for inputs of several sizes."""

    name: str
    model: ir.Model
    inputs: list[Feed]
    outputs: list[NDArray[np.float32]]


def feeds(model: ir.Model) -> Iterator[Feed]:
    rng = np.random.default_rng(5)
    for b, t, h, w in SIZES:
        sizes = {"B*T": b * t, "B*G": b * t, "B": b, "T": t, "G": t, "h": h, "w": w, "L": 6}
        feed: Feed = {}
        for value in model.graph.inputs:
            shape = [axis if isinstance(axis, int) else sizes[str(axis.value)] for axis in value.shape]
            if value.name == "context_mask":
                feed[value.name] = np.arange(6) < rng.integers(1, 7, (b, 1))
            elif value.name == "time":
                feed[value.name] = rng.uniform(0, 1000, shape).astype(np.float32)
            elif value.dtype == ir.DataType.INT64:
                feed[value.name] = rng.integers(0, 19, shape)
            else:
                feed[value.name] = rng.standard_normal(shape).astype(np.float32)
        yield feed


@pytest.fixture(scope="module", params=list(REMOVED))
def plain(request: pytest.FixtureRequest) -> Plain:
    path = DEMO / f"{request.param}.onnx"
    model, session = open_graph(path), session_of(path)
    inputs = list(feeds(model))
    return Plain(request.param, model, inputs, [session.run(None, feed)[0] for feed in inputs])


def test_each_pass_removes_its_nodes_and_keeps_the_result(plain: Plain, tmp_path: Path) -> None:
    before, elements = ops(plain.model), weights(plain.model)
    for name, removed in REMOVED[plain.name].items():
        rewrite = next(row.apply for row in PASSES if row.name == name)
        start = fold_merge(plain.model) if name != "fold_merge" else plain.model
        end = rewrite(start)
        assert {op: ops(start)[op] - ops(end)[op] for op in removed} == removed, name
        if name in ("fold_merge", "merge_pointwise", "constant_attention"):
            assert weights(end) < weights(start), name
            assert parameters(end) < parameters(start), name
        write_graph(end, tmp_path / f"{name}.onnx", half=False)
        session = session_of(tmp_path / f"{name}.onnx")
        for feed, want in zip(plain.inputs, plain.outputs, strict=True):
            same(session.run(None, feed)[0], want, 2e-5)
    assert (ops(plain.model), weights(plain.model)) == (before, elements), "passes work on a copy"


def test_a_graph_is_written_while_its_numbers_are_looked_at(tmp_path: Path) -> None:
    model = open_graph(DEMO / "movq_decoder.onnx")
    tensors = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    looked_at = [tensor.numpy() for tensor in tensors]
    write_graph(model, tmp_path / "a.onnx", half=False)
    written = open_graph(tmp_path / "a.onnx").graph.initializers
    for tensor, numbers in zip(tensors, looked_at, strict=True):
        found = written[str(tensor.name)].const_value
        assert found is not None
        np.testing.assert_array_equal(found.numpy(), numbers)


SPLITS = {
    "interpolation_unet": [{"skip_frames", "perturbation"}, {"time", "perturbation"}, {"x", "time", "perturbation"}],
    "keyframe_unet": [
        {"context", "context_mask", "temporal_positions"},
        {"time"},
        {"x", "context_mask", "temporal_positions"},
    ],
}
"""The inputs of the graph that each part takes."""


def test_parts_in_order_give_the_result_of_the_whole(plain: Plain, tmp_path: Path) -> None:
    joined = join_modulation(constant_attention(plain.model))
    before = ops(joined)
    parts = split(joined)
    assert ops(joined) == before, "the split works on copies"
    inputs = {value.name for value in plain.model.graph.inputs}
    assert [{value.name for value in part.graph.inputs} & inputs for part in parts] == SPLITS[plain.name]
    step = parts[-1]
    assert [value.name for value in step.graph.outputs] == ["prediction"]
    assert ops(step)["Gemm"] == 0, "scale and shift are computed before"
    spatial = {"interpolation_unet": 0, "keyframe_unet": 9}[plain.name]
    assert before["MatMul"] - ops(step)["MatMul"] >= 2 * spatial, "and so are keys and values of text"
    sessions = []
    for number, part in enumerate(parts):
        write_graph(part, tmp_path / f"{number}.onnx", half=False)
        sessions.append(session_of(tmp_path / f"{number}.onnx"))
    for feed, want in zip(plain.inputs, plain.outputs, strict=True):
        same(run_parts(sessions, feed)[0], want, 2e-5)


def test_the_algebra_saves_operations(tmp_path: Path) -> None:
    path = DEMO / "interpolation_unet.onnx"
    model = open_graph(path)
    feed = {
        "x": normal(2 * 3, 20, 8, 8),
        "time": np.full(2, 637, np.float32),
        "skip_frames": np.full(3, 3),
        "perturbation": np.zeros(3, np.float32),
    }
    counted = [count_flops(path, feed)]
    for rewrite in (lambda model: merge_pointwise(fold_merge(model)), constant_attention):
        model = rewrite(model)
        write_graph(model, tmp_path / "step.onnx", half=False)
        counted.append(count_flops(tmp_path / "step.onnx", feed))
    plain, merged, constant = counted
    assert merged < 0.9 * plain
    assert constant < 0.99 * merged
