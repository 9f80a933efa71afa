"""Convolutions along time: which are merged, which must stay, and that results stay the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs.passes.temporal_conv import fold_merge, merge_pointwise
from tests.graphs.handmade import Feed, graph, normal, ops, run, same, weights

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
    """A 1x1 convolution and one along time; its biases are large, so that an error at the edge shows."""
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
def test_two_convolutions_are_merged_if_that_takes_fewer_operations(
    channels: tuple[int, int, int], rows: int, groups: int, reach: int, width: int
) -> None:
    inner, middle, outer = channels
    model = clip(*channels, reach=reach)
    merged = merge_pointwise(model)
    fewer = reach * outer * inner < middle * inner + reach * outer * middle
    assert ops(merged)["Conv"] == (1 if fewer else 2)
    assert ops(model)["Conv"] == 2
    feed = clip_feed(rows, groups, inner, width=width)
    same(run(merged, feed), run(model, feed))


def test_without_its_bias_at_the_edges_a_merged_convolution_is_far_off() -> None:
    """So the tests of merging can fail."""
    merged, feed = merge_pointwise(clip()), clip_feed(1, 3, 3)
    for value in merged.graph.initializers.values():
        if ".edge" in value.name:
            value.const_value = ir.tensor(np.zeros(value.const_value.shape.numpy(), np.float32))
    want = run(clip(), feed)
    off = np.abs(run(merged, feed) - want).max(axis=(1, 2, 3))
    assert off[1] < 1e-5 * np.abs(want).max() < 1 < min(off[0], off[2])


UNMERGED: dict[str, Callable[[], ir.Model]] = {
    "another user of the first convolution": lambda: clip(3, 5, 5, last="prediction = Add (moved, seen)"),
    "another user of its view": lambda: clip(
        3, 5, 5, behind="""summed = Add (over_time, turned) back = Transpose <perm=[0, 2, 1, 3]> (summed)"""
    ),
    "another user of the result": lambda: clip(
        behind="""bent = Tanh (over_time) summed = Add (over_time, bent)
        back = Transpose <perm=[0, 2, 1, 3]> (summed)"""
    ),
    "a first convolution with strides": lambda: clip(first=POINT.replace("strides=[1, 1]", "strides=[2, 2]")),
    "no bias": lambda: clip(biased=False),
    "a first convolution without a bias": lambda: clip(first=POINT.replace(", before", "")),
}


@pytest.mark.parametrize("case", UNMERGED)
def test_two_convolutions_stay_where_they_must(case: str) -> None:
    model = UNMERGED[case]()
    merged = merge_pointwise(model)
    assert (ops(merged)["Conv"], ops(merged)["Range"]) == (2, 0), "and no edge was added"
    feed = clip_feed(2, 3, 3, height=4)
    same(run(merged, feed), run(model, feed))


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_a_learned_merge_factor_moves_into_the_kernel(groups: int) -> None:
    model = clip(3, 4, 4, last=MERGE.format(m="m", kept="seen"))
    folded = fold_merge(model)
    removed = ops(model) - ops(folded)
    assert (removed["Mul"], removed["Add"], removed["Sub"]) == (2, 1, 1)
    assert weights(folded) < weights(model)
    feed = clip_feed(2, groups, 3)
    same(run(folded, feed), run(model, feed))
    both = merge_pointwise(folded)
    assert ops(both)["Conv"] == 1
    same(run(both, feed), run(model, feed))


UNFOLDED = {
    "a factor that is an input": MERGE.format(m="given", kept="seen"),
    "another residual": MERGE.format(m="m", kept="moved"),
    "no residual": "prediction = Mul (m, moved)",
    "a square": "share = Mul (moved, moved) prediction = Add (share, seen)",
    "factors that do not sum to one": MERGE.format(m="m", kept="seen").replace("Sub (one, m)", "Add (one, m)"),
}


@pytest.mark.parametrize("case", UNFOLDED)
def test_a_merge_stays_where_it_must(case: str) -> None:
    """In 1.1 the factor depends on an input, the temporal mask."""
    model = clip(3, 4, 4, last=UNFOLDED[case])
    folded = fold_merge(model)
    assert ops(folded)["Mul"] == ops(model)["Mul"]
    feed = clip_feed(2, 3, 3)
    same(run(folded, feed), run(model, feed))


def test_a_merge_of_a_convolution_without_bias_stays() -> None:
    model = clip(3, 4, 4, last=MERGE.format(m="m", kept="seen"), biased=False)
    assert ops(fold_merge(model))["Mul"] == ops(model)["Mul"]
