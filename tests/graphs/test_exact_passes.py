"""Rewrites that change nothing: what each takes away, that results stay, and what it must leave alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from bench.harness.flops import count_flops
from graphs.passes.constant_attention import constant_attention
from graphs.passes.ir import open_graph, parameters, write_graph
from graphs.passes.modulation import join_modulation
from graphs.passes.norm import drop_neutral, layer_norm
from graphs.passes.split import split
from graphs.passes.table import PASSES
from graphs.passes.temporal_conv import fold_merge, merge_pointwise

DEMO = Path(__file__).resolve().parents[2] / "graphs" / "demo"
Feed = dict[str, NDArray[np.generic]]
LOWEST = float(np.finfo(np.float32).min)


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def weights(model: ir.Model) -> int:
    """Numbers in everything that the graph keeps, small constants too."""
    kept = (v for v in model.graph.initializers.values() if v.uses() and v.const_value is not None)
    return sum(math.prod(v.const_value.shape.numpy()) for v in kept)


def session_of(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(model: ir.Model, feed: Feed) -> NDArray[np.float32]:
    """The first output of a graph made by hand."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # a weight may be for another variant of the graph
    proto = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


def graph(text: str, **arrays: NDArray[np.generic]) -> ir.Model:
    """ONNX's own text form, with weights by name."""
    proto = parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return ir.from_proto(proto)


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    return np.float32(scale) * np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def same(got: NDArray[np.float32], want: NDArray[np.float32], tolerance: float = 3e-6) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * float(np.abs(want).max()))


# --- graphs of the demo

TAKEN: dict[str, dict[str, dict[str, int]]] = {
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
"""Nodes that each pass takes out, of graphs whose merge factors are folded."""
SIZES = [(2, 1, 8, 16), (1, 2, 16, 8), (3, 5, 8, 8)]
"""B, T or G, h, w."""


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


@pytest.fixture(scope="module", params=list(TAKEN))
def plain(request: pytest.FixtureRequest) -> tuple[str, ir.Model, list[Feed], list[NDArray[np.float32]]]:
    """A graph of the demo, and what it gives for several sizes."""
    path = DEMO / f"{request.param}.onnx"
    model, session = open_graph(path), session_of(path)
    asked = list(feeds(model))
    return request.param, model, asked, [session.run(None, feed)[0] for feed in asked]


def test_demo_graphs(plain: tuple[str, ir.Model, list[Feed], list[NDArray[np.float32]]], tmp_path: Path) -> None:
    name, model, asked, wanted = plain
    before, stored = ops(model), weights(model)
    for word, fewer in TAKEN[name].items():
        rewrite = next(one.apply for one in PASSES if one.name == word)
        start = fold_merge(model) if word != "fold_merge" else model
        made = rewrite(start)
        taken = {op: ops(start)[op] - ops(made)[op] for op in fewer}
        assert taken == fewer, word
        if word in ("fold_merge", "merge_pointwise", "constant_attention"):
            assert weights(made) < weights(start), word
            assert parameters(made) < parameters(start), word
        write_graph(made, tmp_path / f"{word}.onnx", half=False)
        session = session_of(tmp_path / f"{word}.onnx")
        for feed, want in zip(asked, wanted, strict=True):
            same(session.run(None, feed)[0], want, 2e-5)
    assert (ops(model), weights(model)) == (before, stored), "passes work on a copy"


SPLITS = {
    "interpolation_unet": [{"skip_frames", "perturbation"}, {"time", "perturbation"}, {"x", "time", "perturbation"}],
    "keyframe_unet": [
        {"context", "context_mask", "temporal_positions"},
        {"time"},
        {"x", "context_mask", "temporal_positions"},
    ],
}
"""What each part takes of the graph's own inputs."""


def test_demo_graphs_are_split(
    plain: tuple[str, ir.Model, list[Feed], list[NDArray[np.float32]]], tmp_path: Path
) -> None:
    name, model, asked, wanted = plain
    joined = join_modulation(constant_attention(model))
    before = ops(joined)
    parts = split(joined)
    assert ops(joined) == before, "the split works on copies"
    own = {value.name for value in model.graph.inputs}
    assert [{value.name for value in part.graph.inputs} & own for part in parts] == SPLITS[name]
    step = parts[-1]
    assert [value.name for value in step.graph.outputs] == ["prediction"]
    assert ops(step)["Gemm"] == 0, "scale and shift are worked out before"
    spatial = {"interpolation_unet": 0, "keyframe_unet": 9}[name]
    assert before["MatMul"] - ops(step)["MatMul"] >= 2 * spatial, "and so are keys and values of text"
    sessions = []
    for number, part in enumerate(parts):
        write_graph(part, tmp_path / f"{number}.onnx", half=False)
        sessions.append(session_of(tmp_path / f"{number}.onnx"))
    for feed, want in zip(asked, wanted, strict=True):
        known = dict(feed)
        for session in sessions:
            outputs = [value.name for value in session.get_outputs()]
            given = {value.name: known[value.name] for value in session.get_inputs()}
            known |= dict(zip(outputs, session.run(None, given), strict=True))
        same(known["prediction"], want, 2e-5)


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
    for rewrite in (lambda one: merge_pointwise(fold_merge(one)), constant_attention):
        model = rewrite(model)
        write_graph(model, tmp_path / "step.onnx", half=False)
        counted.append(count_flops(tmp_path / "step.onnx", feed))
    plain, merged, constant = counted
    assert merged < 0.9 * plain
    assert constant < 0.99 * merged


# --- convolutions along time, by hand

CLIP = """
agraph (float[N, I, h, w] x, float[B] time, float[1] given) => (float[N, O, h, w] prediction) {{
    {first}
    rows = Shape (time)
    all = Shape <start=0, end=1> (x)
    groups = Div (all, rows)
    high = Shape <start=2, end=3> ({sized})
    wide = Shape <start=3, end=4> ({sized})
    pixels = Mul (high, wide)
    view = Concat <axis=0> (rows, groups, channels, pixels)
    clip = Reshape (seen, view)
    turned = Transpose <perm=[0, 2, 1, 3]> (clip)
    over_time = Conv <kernel_shape=[{reach}, 1], pads=[{pad}, 0, {pad}, 0], strides=[1, 1], dilations=[1, 1]>
        (turned, kernel{bias})
    {behind}
    images = Concat <axis=0> (all, out, high, wide)
    moved = Reshape (back, images)
    {last}
}}"""
POINT = "seen = Conv <kernel_shape=[1, 1], pads=[0, 0, 0, 0], strides=[1, 1]> (x, point, before)"
BEHIND = "back = Transpose <perm=[0, 2, 1, 3]> (over_time)"
MERGE = """share = Mul ({m}, moved)
    rest = Sub (one, {m})
    kept = Mul (rest, {kept})
    prediction = Add (kept, share)"""
PLAIN = "prediction = Identity (moved)"


def clip(
    inner: int = 3,
    middle: int = 5,
    outer: int = 4,
    *,
    first: str = POINT,
    last: str = PLAIN,
    behind: str = BEHIND,
    biased: bool = True,
    reach: int = 3,
) -> ir.Model:
    """A 1x1 convolution and one along time; its biases are large, so that a wrong edge shows."""
    arrays: Feed = {
        "kernel": normal(outer, middle, reach, 1),
        "out": np.array([outer]),
        "channels": np.array([middle]),
        "m": np.float32([0.3]),
        "one": np.float32([1]),
    }
    if "point" in first:
        arrays |= {"point": normal(middle, inner, 1, 1), "before": normal(middle, scale=50, seed=1)}
    if biased:
        arrays["after"] = normal(outer, scale=20, seed=2)
    text = CLIP.format(
        first=first,
        last=last,
        behind=behind,
        bias=", after" if biased else "",
        reach=reach,
        pad=reach // 2,
        sized="seen" if "[2, 2]" in first else "x",
    )
    return graph(text, **arrays)


def clip_feed(rows: int, groups: int, inner: int, height: int = 2, width: int = 3) -> Feed:
    return {
        "x": normal(rows * groups, inner, height, width, seed=7),
        "time": np.zeros(rows, np.float32),
        "given": np.float32([0.6]),
    }


@settings(max_examples=25)
@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([3, 5]),
    st.integers(1, 3),
)
def test_two_convolutions_become_one_where_that_is_less(
    channels: tuple[int, int, int], rows: int, groups: int, reach: int, width: int
) -> None:
    inner, middle, outer = channels
    model = clip(*channels, reach=reach)
    merged = merge_pointwise(model)
    less = reach * outer * inner < middle * inner + reach * outer * middle
    assert ops(merged)["Conv"] == (1 if less else 2)
    assert ops(model)["Conv"] == 2
    feed = clip_feed(rows, groups, inner, width=width)
    same(run(merged, feed), run(model, feed))


def test_the_edge_matters() -> None:
    """Without its bias at the edges the merged convolution is far off, so the tests above can fail."""
    merged, feed = merge_pointwise(clip()), clip_feed(1, 3, 3)
    for value in merged.graph.initializers.values():
        if ".edge" in value.name:
            value.const_value = ir.tensor(np.zeros(value.const_value.shape.numpy(), np.float32))
    want = run(clip(), feed)
    off = np.abs(run(merged, feed) - want).max(axis=(1, 2, 3))
    assert off[1] < 1e-5 * np.abs(want).max() < 1 < min(off[0], off[2])


CASES: dict[str, Callable[[], ir.Model]] = {
    "another user of the first": lambda: clip(3, 5, 5, last="prediction = Add (moved, seen)"),
    "another user of its view": lambda: clip(
        3, 5, 5, behind="""summed = Add (over_time, turned) back = Transpose <perm=[0, 2, 1, 3]> (summed)"""
    ),
    "another use of what they give": lambda: clip(
        behind="""bent = Tanh (over_time) summed = Add (over_time, bent)
        back = Transpose <perm=[0, 2, 1, 3]> (summed)"""
    ),
    "a first one that is no 1x1": lambda: clip(first=POINT.replace("strides=[1, 1]", "strides=[2, 2]")),
    "no bias": lambda: clip(biased=False),
    "a first one without a bias": lambda: clip(first=POINT.replace(", before", "")),
}


@pytest.mark.parametrize("case", CASES)
def test_two_convolutions_stay_where_they_must(case: str) -> None:
    model = CASES[case]()
    merged = merge_pointwise(model)
    assert (ops(merged)["Conv"], ops(merged)["Range"]) == (2, 0), "no edge was added either"
    feed = clip_feed(2, 3, 3, height=4)
    same(run(merged, feed), run(model, feed))


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_a_learned_merge_factor_is_in_the_kernel(groups: int) -> None:
    model = clip(3, 4, 4, last=MERGE.format(m="m", kept="seen"))
    folded = fold_merge(model)
    gone = ops(model) - ops(folded)
    assert (gone["Mul"], gone["Add"], gone["Sub"]) == (2, 1, 1)
    assert weights(folded) < weights(model)
    feed = clip_feed(2, groups, 3)
    same(run(folded, feed), run(model, feed))
    both = merge_pointwise(folded)
    assert ops(both)["Conv"] == 1
    same(run(both, feed), run(model, feed))


UNFOLDED = {
    "a factor that is given": MERGE.format(m="given", kept="seen"),
    "another residual": MERGE.format(m="m", kept="moved"),
    "no residual": "prediction = Mul (m, moved)",
    "a square": "share = Mul (moved, moved) prediction = Add (share, seen)",
    "factors that do not sum to one": MERGE.format(m="m", kept="seen").replace("Sub (one, m)", "Add (one, m)"),
}


@pytest.mark.parametrize("case", UNFOLDED)
def test_a_merge_stays_where_it_must(case: str) -> None:
    """A temporal mask makes the factor of 1.1 one that is given."""
    model = clip(3, 4, 4, last=UNFOLDED[case])
    folded = fold_merge(model)
    assert ops(folded)["Mul"] == ops(model)["Mul"]
    feed = clip_feed(2, 3, 3)
    same(run(folded, feed), run(model, feed))


def test_a_merge_without_a_bias_is_left_and_no_error() -> None:
    model = clip(3, 4, 4, last=MERGE.format(m="m", kept="seen"), biased=False)
    assert ops(fold_merge(model))["Mul"] == ops(model)["Mul"]


# --- attention to one token, by hand

ATTENTION = """
agraph (float[R, n, 6] x, float[R, m, 4] text, bool[R, m] text_mask) => (float[R, n, 6] prediction) {{
    rows = Shape <start=0, end=1> (x)
    text_size = Concat <axis=0> (rows, tokens, width)
    mask_size = Concat <axis=0> (rows, tokens)
    fixed = Expand (null, text_size)
    fixed_mask = Expand (null_mask, mask_size)
    query = MatMul (x, wq)
    key = MatMul ({context}, wk)
    value = MatMul ({context}, wv)
    query_parts = Reshape (query, heads)
    key_parts = Reshape (key, heads)
    value_parts = Reshape (value, heads)
    query_heads = Transpose <perm=[0, 2, 1, 3]> (query_parts)
    key_heads = Transpose <perm=[0, 2, 3, 1]> (key_parts)
    value_heads = Transpose <perm=[0, 2, 1, 3]> (value_parts)
    scores = MatMul (query_heads, key_heads)
    wide_mask = Unsqueeze ({mask}, axes)
    hidden = Not (wide_mask)
    masked = {where}
    shares = Softmax <axis=-1> (masked)
    seen = MatMul (shares, value_heads)
    seen_parts = Transpose <perm=[0, 2, 1, 3]> (seen)
    joined = Reshape (seen_parts, whole)
    {behind}
}}"""
SUM = "out = MatMul (joined, wo) prediction = Add (x, out)"


def attention(
    seen: list[int],
    *,
    context: str = "fixed",
    mask: str = "fixed_mask",
    where: str = "Where (hidden, lowest, scores)",
    fill: float = LOWEST,
    behind: str = SUM,
) -> ir.Model:
    """Cross-attention of two heads to constant tokens, of which ``seen`` are not padding."""
    size = len(seen)
    return graph(
        ATTENTION.format(context=context, mask=mask, where=where, behind=behind),
        null=normal(1, size, 4, scale=3),
        null_mask=np.array([seen], bool),
        tokens=np.array([size]),
        width=np.array([4]),
        wq=normal(6, 6),
        wk=normal(4, 6),
        wv=normal(4, 6, seed=1),
        wo=normal(6, 6, seed=2),
        heads=np.array([0, 0, 2, 3]),
        whole=np.array([0, 0, 6]),
        axes=np.array([1, 2]),
        lowest=np.float32(fill),
        bias=normal(6),
        six=np.array([6]),
        minus=np.array([-1, 6]),
        size=np.array([2, -1, 6]),
    )


def attention_feed(tokens: int, rows: int = 2) -> Feed:
    mask = np.zeros((rows, tokens), bool)
    mask[:, : max(1, tokens - 1)] = True
    return {"x": normal(rows, 5, 6), "text": normal(rows, tokens, 4, seed=3), "text_mask": mask}


@pytest.mark.parametrize("seen", [[1], [1, 0, 0], [0, 1, 0]])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_attention_to_one_token_is_a_constant(seen: list[int], rows: int) -> None:
    model = attention(seen)
    made = constant_attention(model)
    assert ops(made)["Softmax"] == ops(made)["MatMul"] == 0
    assert ops(model)["Softmax"] == 1
    assert weights(made) == 6
    feed = attention_feed(len(seen), rows)
    same(run(made, feed), run(model, feed))


BENT = "out = MatMul (joined, wo) biased = Add (out, bias) shaped = Reshape (biased, size) prediction = Add (x, shaped)"
NOT_CONSTANT: dict[str, Callable[[], ir.Model]] = {
    "two tokens": lambda: attention([1, 1, 0]),
    "no token": lambda: attention([0, 0, 0]),
    "a context that is given": lambda: attention([1, 0, 0], context="text"),
    "a mask that is given": lambda: attention([1, 0, 0], mask="text_mask"),
    "scores where others are hidden": lambda: attention([1, 0, 0], where="Where (hidden, scores, lowest)"),
    "a number that hides little": lambda: attention([1, 0, 0], fill=-1.0),
    "a bias behind the output": lambda: attention([1, 0, 0], behind=BENT),
}


@pytest.mark.parametrize("case", NOT_CONSTANT)
def test_attention_stays_where_it_must(case: str) -> None:
    model = NOT_CONSTANT[case]()
    made = constant_attention(model)
    assert ops(made)["Softmax"] == 1
    feed = attention_feed(3)
    same(run(made, feed), run(model, feed))


# --- scale and shift of norms, by hand

NORMS = """
agraph (float[N, 4, h, w] x, float[R, 3] rows, float[6] mixed) => (float[N, 4, h, w] prediction) {{
    {embedding}
    table1 = Gemm <transB=1{factors}> (embedding, kernel1{bias})
    table2 = Gemm <transB=1> (embedding, kernel2, bias2)
    wide1 = Unsqueeze (table1, axes)
    wide2 = Unsqueeze (table2, axes)
    scale1, shift1 = Split <axis=1{halves}> (wide1{sizes})
    scale2, shift2 = Split <axis=1, num_outputs=2> (wide2)
    {plus}
    scaled1 = Mul (x, raised1)
    moved1 = Add (scaled1, shift1)
    raised2 = Add (one, scale2)
    scaled2 = Mul (moved1, raised2)
    prediction = Add (scaled2, shift2)
}}"""
PLUS = "raised1 = Add (scale1, one)"
ROW_AN_IMAGE = """count = Shape <start=0, end=1> (x)
    images = Squeeze (count)
    row_count = Shape <start=0, end=1> (rows)
    row_total = Squeeze (row_count)
    each = Div (images, row_total)
    places = Range (zero, images, step)
    row = Div (places, each)
    repeated = Gather <axis=0> (rows, row)
    gate = Sigmoid (repeated)
    embedding = Mul (repeated, gate)"""
ANY = "embedding = Tanh (rows)"


def norms(
    embedding: str = ANY,
    *,
    plus: str = PLUS,
    halves: str = ", num_outputs=2",
    sizes: str = "",
    factors: str = "",
    bias: str = ", bias1",
) -> ir.Model:
    text = NORMS.format(embedding=embedding, plus=plus, halves=halves, sizes=sizes, factors=factors, bias=bias)
    return graph(
        text,
        kernel1=normal(8, 3),
        kernel2=normal(8, 3, seed=1),
        bias1=normal(8),
        bias2=normal(8, seed=1),
        axes=np.array([2, 3]),
        one=np.float32(1),
        two=np.float32(2),
        zero=np.array(0),
        step=np.array(1),
        even=np.array([4, 4]),
        uneven=np.array([7, 1]),
    )


def norms_feed(rows: int, images: int) -> Feed:
    return {"x": normal(images, 4, 2, 3), "rows": normal(rows, 3, seed=4), "mixed": normal(6)}


@pytest.mark.parametrize(("embedding", "rows", "each"), [(ANY, 3, 1), (ROW_AN_IMAGE, 2, 1), (ROW_AN_IMAGE, 3, 5)])
def test_norms_share_one_table(embedding: str, rows: int, each: int) -> None:
    model = norms(embedding)
    made = join_modulation(model)
    gone = ops(model) - ops(made)
    assert (gone["Split"], gone["Add"], gone["Unsqueeze"]) == (1, 2, 1)
    assert [value.name for node in made.graph for value in node.outputs if "modulation" in value.name] == [
        "modulation.0"
    ]
    feed = norms_feed(rows, rows * each)
    same(run(made, feed), run(model, feed))


def test_a_table_has_a_row_a_conditioning_not_an_image() -> None:
    made = join_modulation(norms(ROW_AN_IMAGE))
    table = next(value for node in made.graph for value in node.outputs if value.name == "modulation.0")
    part = ir.convenience.extract(made.graph, list(made.graph.inputs), [table])
    table.type, table.shape = ir.TensorType(ir.DataType.FLOAT), None
    part.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    part.opset_imports.update(made.graph.opset_imports)
    assert run(ir.Model(part, ir_version=10), norms_feed(2, 6)).shape == (2, 16)


NOT_JOINED: dict[str, Callable[[], ir.Model]] = {
    "a scale without one added": lambda: norms(plus="raised1 = Identity (scale1)"),
    "two added": lambda: norms(plus="raised1 = Add (scale1, two)"),
    "a second use of the scale": lambda: norms(plus="once = Add (scale1, one) raised1 = Mul (once, scale1)"),
    "no bias": lambda: norms(bias=""),
    "a factor": lambda: norms(factors=", alpha=2.0"),
}


@pytest.mark.parametrize("case", NOT_JOINED)
def test_a_norm_that_is_another_is_left_out_of_the_table(case: str) -> None:
    model = NOT_JOINED[case]()
    made = join_modulation(model)
    assert ops(made)["Split"] == 2, "the other one is still joined"
    assert len(next(node for node in made.graph if node.op_type == "Concat").inputs) == 1
    feed = norms_feed(3, 3)
    same(run(made, feed), run(model, feed))


def test_parts_that_are_no_halves_are_left_alone() -> None:
    narrow = {"plus": "raised1 = Add (shift1, one)", "halves": "", "sizes": ", uneven"}
    text = norms(**narrow)
    assert ops(join_modulation(norms(halves="", sizes=", even")))["Split"] == 1
    assert len(next(node for node in join_modulation(text).graph if node.op_type == "Concat").inputs) == 1


def test_a_product_that_is_no_silu_is_seen_as_it_is() -> None:
    model = norms(ROW_AN_IMAGE.replace("Sigmoid (repeated)", "Tanh (repeated)"))
    feed = norms_feed(2, 6)
    same(run(join_modulation(model), feed), run(model, feed))


NORM = """
agraph (float[N, 4, h, w] x) => (float[N, 4, h, w] prediction) {{
    rows = Reshape (x, groups)
    first = InstanceNormalization <epsilon=0.01> (rows, unit, nothing)
    back = Reshape (first, whole)
    ones = Cast <to=1> (stored_ones)
    zeros = Cast <to=1> (stored_zeros)
    product = Mul (back, ones)
    sum = Add (zeros, product)
    bent = Tanh (sum)
    other_rows = Reshape (bent, groups)
    second = InstanceNormalization (other_rows, unit, nothing)
    other_back = Reshape (second, whole)
    other_product = Mul (other_back, ones)
    prediction = Add (other_product, {last})
}}"""


def two_norms(ones: float = 1.0, last: str = "zeros", unit: float = 1.0) -> ir.Model:
    return graph(
        NORM.format(last=last),
        groups=np.array([0, 2, -1]),
        whole=np.array([-1, 4, 2, 3]),
        unit=np.full(2, unit, np.float32),
        nothing=np.zeros(2, np.float32),
        learned=normal(4, 1, 1),
        stored_ones=np.full((4, 1, 1), ones, np.float16),
        stored_zeros=np.zeros((4, 1, 1), np.float16),
    )


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (two_norms(), {"Mul": 0, "Add": 0}),
        (two_norms(last="learned"), {"Mul": 0, "Add": 1}),
        (two_norms(ones=0.5), {"Mul": 2, "Add": 2}),
    ],
)
def test_products_with_ones_go_and_others_stay(model: ir.Model, left: dict[str, int]) -> None:
    made = drop_neutral(model)
    assert {op: ops(made)[op] for op in left} == left
    assert ops(model)["Mul"] == 2
    feed: Feed = {"x": normal(3, 4, 2, 3)}
    same(run(made, feed), run(model, feed))


@pytest.mark.parametrize(("unit", "left"), [(1.0, 0), (1.5, 2)])
def test_a_norm_without_weights_becomes_one_over_the_last_axis(unit: float, left: int) -> None:
    """Its epsilon goes along: with so small an input it matters."""
    model = two_norms(unit=unit)
    made = layer_norm(model)
    assert (ops(made)["InstanceNormalization"], ops(made)["LayerNormalization"]) == (left, 2 - left)
    assert ops(model)["InstanceNormalization"] == 2
    feed: Feed = {"x": normal(3, 4, 2, 3, scale=0.1)}
    same(run(made, feed), run(model, feed))


# --- parts, by hand

FAMILY = """
agraph (float[N, 2] {x}, float[B] time, float[B, 2] context) => (float[N, 2] prediction, float[B, 2] told) {{
    text = MatMul (context, kernel)
    told = Tanh (text)
    waves = Sin (time)
    wide = Unsqueeze (waves, axes)
    timed = Add (wide, told)
    {last}
}}"""


def family(x: str = "x", last: str = "prediction = Add ({x}, timed)") -> ir.Model:
    return graph(FAMILY.format(x=x, last=last.format(x=x)), kernel=normal(2, 2), axes=np.array([1]))


def test_a_graph_without_x_comes_back_alone() -> None:
    model = family("latent")
    assert split(model) == [model]


def test_a_part_that_would_give_nothing_is_left_out() -> None:
    model = graph("agraph (float[N] x, float[N] time) => (float[N] y) { y = Add (x, time) }")
    assert len(split(model)) == 1
    timed = graph("agraph (float[N] x, float[N] time) => (float[N] y) { late = Sin (time) y = Add (x, late) }")
    assert [[node.op_type for node in part.graph] for part in split(timed)] == [["Sin"], ["Add"]]


def test_outputs_stay_with_the_last_part() -> None:
    """Also one that does not depend on x, which the part that works it out hands on."""
    model = family()
    parts = split(model)
    assert [[v.name for v in part.graph.inputs] for part in parts][:2] == [["context"], ["time", "told"]]
    assert [v.name for v in parts[-1].graph.outputs] == ["prediction", "told"]
    feed: Feed = {"x": normal(3, 2), "time": normal(3), "context": normal(3, 2, seed=1)}
    known = dict(feed)
    for part in parts:
        made = ir.to_proto(part).SerializeToString()
        session = ort.InferenceSession(made, providers=["CPUExecutionProvider"])
        given = {value.name: known[value.name] for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        known |= dict(zip(names, session.run(None, given), strict=True))
    same(known["prediction"], run(model, feed))


def test_a_size_of_x_that_earlier_parts_need_keeps_the_graph_whole() -> None:
    model = family(last="all = Shape (x) more = Expand (timed, all) prediction = Add (x, more)")
    assert len(split(model)) == 1
