"""The step of a split graph has one shape for all prompts, and the same result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import parser

from graphs.passes.split import split
from graphs.passes.table import apply, names_of
from graphs.passes.text_length import pad_text
from graphs.store import open_graph, write_graph
from tests.graphs.handmade import DEMO, Feed, ops, run_parts, same, session_of

TOKENS = 20
ONE_SHAPE = pytest.mark.parametrize("provider", ["cuda", "openvino"])
"""Attention as one operator with key lengths, and as plain operators with a mask."""


def keyframe_parts(provider: str) -> list[ir.Model]:
    """The demo's keyframe U-Net as for the provider, except for kernels that the CPU lacks."""
    names = [name for name in names_of(provider) if name != "fuse_group_norm"]
    return split(apply(open_graph(DEMO / "keyframe_unet.onnx"), "keyframe_unet", provider, names))


def sessions_of(parts: list[ir.Model], folder: Path) -> list[ort.InferenceSession]:
    folder.mkdir()
    for number, part in enumerate(parts):
        write_graph(part, folder / f"{number}.onnx", half=False)
    return [session_of(path) for path in sorted(folder.glob("*.onnx"))]


def feed_of(length: int, rows: int, seed: int) -> Feed:
    rng = np.random.default_rng(seed)
    real = rng.integers(1, length + 1, (rows, 1))
    return {
        "x": rng.standard_normal((rows * 3, 4, 8, 8)).astype(np.float32),
        "time": np.full(rows, 300, np.float32),
        "context": rng.standard_normal((rows, length, 96)).astype(np.float32),
        "context_mask": np.arange(length) < real,
        "temporal_positions": np.arange(3) * 5,
    }


@ONE_SHAPE
def test_the_step_has_one_shape_for_prompts_of_any_length(tmp_path: Path, provider: str) -> None:
    parts = keyframe_parts(provider)
    plain, padded = sessions_of(parts, tmp_path / "plain"), sessions_of(pad_text(parts, TOKENS), tmp_path / "padded")
    assert "context_mask" not in [value.name for value in padded[-1].get_inputs()]
    shapes = set()
    for length in (1, 2, 11, TOKENS, TOKENS + 3):
        feed = feed_of(length, 2, length)
        (want, before), (got, after) = run_parts(plain, feed), run_parts(padded, feed)
        same(got, want, 2e-6)
        plain_shapes = [value.shape for value in before.values()]
        assert sum(shape[0] == 2 and length in shape[1:] for shape in plain_shapes) >= 2, "the plain step has many"
        if length <= TOKENS:
            shapes.add(tuple(value.shape for value in after.values()))
    assert len(shapes) == 1, "longer text is not padded"


@ONE_SHAPE
def test_padding_works_for_any_number_of_rows(tmp_path: Path, provider: str) -> None:
    padded = sessions_of(pad_text(keyframe_parts(provider), TOKENS), tmp_path / "padded")
    plain = sessions_of(keyframe_parts(provider), tmp_path / "plain")
    for rows in (1, 3):
        feed = feed_of(7, rows, rows)
        same(run_parts(padded, feed)[0], run_parts(plain, feed)[0], 2e-6)


def test_graphs_that_are_whole_or_without_text_are_left_alone() -> None:
    whole = [open_graph(DEMO / "movq_decoder.onnx")]
    assert pad_text(whole, TOKENS) is whole
    groups = split(apply(open_graph(DEMO / "interpolation_unet.onnx"), "interpolation_unet", "cuda", names_of("cuda")))
    assert len(groups) == 3 and pad_text(groups, TOKENS) is groups


STEP = """<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
agraph (float[B, S, 4] x, bool[B, L] context_mask, int32[B] real, float[B, L, 4] key, float[B, L, 4] value)
    => (float[B, S, 4] prediction) {
    y = com.microsoft.MultiHeadAttention <num_heads=1> (x, key, value, , real)
    %s
}"""
REQUEST = """<ir_version: 10, opset_import: ["" : 20]>
agraph (float[B, L, 4] context, bool[B, L] context_mask) => (int32[B] real, float[B, L, 4] key, float[B, L, 4] value)
    <int64[1] one = {1}> {
    number = Cast <to=6> (context_mask)
    real = ReduceSum <keepdims=0> (number, one)
    key = Neg (context)
    value = Sin (context)
}"""


@pytest.mark.parametrize(
    ("rest", "changed"),
    [
        ("prediction = Identity (y)", True),
        (
            "some = Cast <to=1> (context_mask)\n mean = ReduceMean <keepdims=1> (some)\nprediction = Add (y, mean)",
            False,
        ),
        ("mean = ReduceMean <keepdims=1> (key)\n prediction = Add (y, mean)", False),
        (
            "size = Shape (context_mask)\n some = Cast <to=1> (size)\n n = ReduceMax <keepdims=1> (some)\n"
            "prediction = Add (y, n)",
            False,
        ),
    ],
)
def test_a_step_that_uses_text_in_another_way_is_left_alone(rest: str, changed: bool) -> None:
    parts = [ir.from_proto(parser.parse_model(text)) for text in (REQUEST, STEP % rest)]
    padded = pad_text(parts, TOKENS)
    assert (padded is not parts) == changed
    assert ops(padded[0])["Pad"] == 2 * changed


PLAIN_STEP = """<ir_version: 10, opset_import: ["" : 20]>
agraph (float[B, 1, S, 4] x, bool[B, L] context_mask, bool[B, 1, 1, L] hidden, float[B, 1, 4, L] key,
        float[B, 1, L, 4] value) => (float[B, 1, S, 4] prediction) <float low = {-1e9}, float scale = {0.5}> {
    product = MatMul (x, key)
    scores = Mul (product, scale)
    seen = Where (hidden, low, scores)
    weights = Softmax <axis=-1> (seen)
    y = MatMul (weights, value)
    %s
}"""
PLAIN_REQUEST = """<ir_version: 10, opset_import: ["" : 20]>
agraph (float[B, L, 4] context, bool[B, L] context_mask)
    => (bool[B, 1, 1, L] hidden, float[B, 1, 4, L] key, float[B, 1, L, 4] value)
    <int64[2] at = {1, 2}, int64[1] one = {1}> {
    not = Not (context_mask)
    hidden = Unsqueeze (not, at)
    value = Unsqueeze (context, one)
    key = Transpose <perm=[0, 1, 3, 2]> (value)
}"""


@pytest.mark.parametrize(
    ("rest", "changed"),
    [
        ("prediction = Identity (y)", True),
        ("some = Cast <to=1> (hidden)\n mean = ReduceMean <keepdims=1> (some)\n prediction = Add (y, mean)", False),
        ("mean = ReduceMean <keepdims=1> (value)\n prediction = Add (y, mean)", False),
        ("more = MatMul (key, weights)\n mean = ReduceMean <keepdims=1> (more)\n prediction = Add (y, mean)", False),
    ],
)
def test_a_step_of_plain_operators_that_uses_text_in_another_way_is_left_alone(rest: str, changed: bool) -> None:
    parts = [ir.from_proto(parser.parse_model(text)) for text in (PLAIN_REQUEST, PLAIN_STEP % rest)]
    padded = pad_text(parts, TOKENS)
    assert (padded is not parts) == changed
    assert ops(padded[0])["Pad"] == 3 * changed
