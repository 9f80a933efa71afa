"""The step of a split graph has one shape for all prompts, and gives what it gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import parser

from graphs.passes.ir import open_graph, write_graph
from graphs.passes.split import split
from graphs.passes.table import apply, names_of
from graphs.passes.text_length import fixed_text

DEMO = Path(__file__).resolve().parents[2] / "graphs" / "demo"
TOKENS = 20
Feed = dict[str, np.ndarray]


ONE_SHAPE = pytest.mark.parametrize("provider", ["cuda", "openvino"])
"""With attention as one operator that is told lengths, and as plain ones under a mask."""


def keyframe_parts(provider: str) -> list[ir.Model]:
    """The demo's keyframe U-Net as for the provider, but for the kernels that a CPU lacks."""
    names = [name for name in names_of(provider) if name != "fuse_group_norm"]
    return split(apply(open_graph(DEMO / "keyframe_unet.onnx"), "keyframe_unet", provider, names))


def sessions_of(parts: list[ir.Model], folder: Path) -> list[ort.InferenceSession]:
    folder.mkdir()
    for number, part in enumerate(parts):
        write_graph(part, folder / f"{number}.onnx", half=False)
    paths = sorted(folder.glob("*.onnx"))
    return [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in paths]


def run(sessions: list[ort.InferenceSession], feed: Feed) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """What the last part gives, and the shapes of what it was fed."""
    known = dict(feed)
    for session in sessions:
        given = {value.name: known[value.name] for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        known |= dict(zip(names, session.run(names, given), strict=True))
    return known["prediction"], [value.shape for value in given.values()]


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
def test_the_step_stays_the_same_from_prompt_to_prompt(tmp_path: Path, provider: str) -> None:
    parts = keyframe_parts(provider)
    plain, fixed = sessions_of(parts, tmp_path / "plain"), sessions_of(fixed_text(parts, TOKENS), tmp_path / "fixed")
    assert "context_mask" not in [value.name for value in fixed[-1].get_inputs()]
    seen = set()
    for length in (1, 2, 11, TOKENS, TOKENS + 3):
        feed = feed_of(length, 2, length)
        (want, before), (got, after) = run(plain, feed), run(fixed, feed)
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * float(np.abs(want).max()))
        assert sum(shape[0] == 2 and length in shape[1:] for shape in before) >= 2, "it was another one"
        if length <= TOKENS:
            seen.add(tuple(after))
    assert len(seen) == 1, "longer text than was said is taken as it is"


@ONE_SHAPE
def test_rows_are_counted_elsewhere(tmp_path: Path, provider: str) -> None:
    fixed = sessions_of(fixed_text(keyframe_parts(provider), TOKENS), tmp_path / "fixed")
    plain = sessions_of(keyframe_parts(provider), tmp_path / "plain")
    for rows in (1, 3):
        feed = feed_of(7, rows, rows)
        want = run(plain, feed)[0]
        np.testing.assert_allclose(run(fixed, feed)[0], want, rtol=0, atol=2e-6 * float(np.abs(want).max()))


def test_what_is_no_split_graph_with_text_is_left_alone() -> None:
    whole = [open_graph(DEMO / "movq_decoder.onnx")]
    assert fixed_text(whole, TOKENS) is whole
    groups = split(apply(open_graph(DEMO / "interpolation_unet.onnx"), "interpolation_unet", "cuda", names_of("cuda")))
    assert len(groups) == 3 and fixed_text(groups, TOKENS) is groups


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
def test_a_step_that_sees_text_otherwise_is_left_alone(rest: str, changed: bool) -> None:
    parts = [ir.from_proto(parser.parse_model(text)) for text in (REQUEST, STEP % rest)]
    made = fixed_text(parts, TOKENS)
    assert (made is not parts) == changed
    assert sum(node.op_type == "Pad" for node in made[0].graph) == 2 * changed


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
def test_a_step_of_plain_operators_that_sees_text_otherwise_is_left_alone(rest: str, changed: bool) -> None:
    parts = [ir.from_proto(parser.parse_model(text)) for text in (PLAIN_REQUEST, PLAIN_STEP % rest)]
    made = fixed_text(parts, TOKENS)
    assert (made is not parts) == changed
    assert sum(node.op_type == "Pad" for node in made[0].graph) == 3 * changed
