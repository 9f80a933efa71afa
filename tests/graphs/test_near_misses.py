"""Graphs that nearly are what a pass looks for: it may rewrite them or leave them, but what they compute stays.

Every node of a small graph is changed in every way that is listed here, one at a time: another operator, other
attributes, other constants, swapped inputs, another value in an input's place. Where ONNX Runtime runs the changed
graph, it is run after the pass too.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import AttributeProto, numpy_helper

from graphs.passes.attention import fuse_attention
from graphs.passes.constant_attention import constant_attention
from graphs.passes.group_norm import fuse_group_norm
from graphs.passes.modulation import join_modulation
from graphs.passes.norm import drop_neutral, layer_norm
from graphs.passes.temporal_conv import fold_merge, merge_pointwise
from tests.graphs import test_attention_pass as attention
from tests.graphs import test_constant_attention_pass as constants
from tests.graphs import test_group_norm_pass as group_norm
from tests.graphs import test_modulation_pass as modulation
from tests.graphs import test_norm_pass as norm
from tests.graphs import test_temporal_conv_pass as temporal
from tests.graphs.handmade import Feed, normal, session_of

OTHERS = {
    "Add": ("Mul", "Sub"),
    "Mul": ("Add", "Div"),
    "Sub": ("Add",),
    "Div": ("Mul",),
    "Tanh": ("Sigmoid",),
    "Sigmoid": ("Tanh",),
    "Softmax": ("LogSoftmax",),
    "Not": ("Identity",),
    "Identity": ("Neg",),
    "Squeeze": ("Identity",),
}
TOLERANCE = 2e-4
"""Of the largest number: passes that skip or merge products add them up in another order."""


@dataclass(frozen=True)
class Subject:
    """A pass, a graph that it rewrites, and something to feed it; nodes that it takes on trust are not changed."""

    rewrite: Callable[[ir.Model], ir.Model]
    model: Callable[[], ir.Model]
    feed: Callable[[], Feed]
    trusted: range = range(0)


def attention_feed(holes: bool) -> Feed:
    feed: Feed = {name: normal(2, 5, 8, seed=index) for index, name in enumerate("qkv")}
    return feed | {"mask": np.array([[1, 1, not holes, 1, 0], [1, 1, 0, holes, 0]], bool)}


def norm_feed() -> Feed:
    return {"x": normal(3, 8, 2, 6), "scale": normal(3, 8, seed=1), "shift": normal(3, 8, seed=2)}


SUBJECTS: dict[str, Subject] = {
    "drop_neutral": Subject(drop_neutral, norm.two_norms, lambda: {"x": normal(3, 4, 2, 3)}),
    "layer_norm": Subject(layer_norm, norm.two_norms, lambda: {"x": normal(3, 4, 2, 3)}),
    "fuse_attention, cpu": Subject(
        partial(fuse_attention, over_time=False, key_lengths=False),
        lambda: attention.handmade(mask_first=False),
        lambda: attention_feed(True),
    ),
    "fuse_attention, cuda": Subject(
        partial(fuse_attention, over_time=True, key_lengths=True),
        lambda: attention.handmade(mask_first=True),
        lambda: attention_feed(False),
    ),
    "constant_attention": Subject(
        constant_attention, lambda: constants.attention([1, 0, 0]), lambda: constants.feed_of(3)
    ),
    "constant_attention, biased": Subject(
        constant_attention,
        lambda: constants.attention([0, 1, 0], behind=constants.BIASED),
        lambda: constants.feed_of(3),
    ),
    "join_modulation": Subject(join_modulation, modulation.norms, lambda: modulation.feed_of(3, 3)),
    "join_modulation, repeated": Subject(
        join_modulation,
        lambda: modulation.norms(modulation.REPEATED),
        lambda: modulation.feed_of(2, 6),
        trusted=range(8),  # rows that are indexed by a range over the images are taken for repeated ones
    ),
    "fuse_group_norm": Subject(
        lambda model: group_norm.written_out(fuse_group_norm(model)),
        lambda: group_norm.one_norm((8, 2, 6), True, "row"),
        norm_feed,
    ),
    "merge_pointwise": Subject(merge_pointwise, temporal.clip, lambda: temporal.clip_feed(2, 3, 3)),
    "fold_merge, one channel for all": Subject(
        fold_merge,
        lambda: temporal.clip(inner=4, middle=4, outer=1, last=temporal.MERGE.format(m="m", kept="seen")),
        lambda: temporal.clip_feed(2, 3, 4),
    ),
    "fold_merge": Subject(
        fold_merge,
        lambda: temporal.clip(inner=4, middle=4, last=temporal.MERGE.format(m="m", kept="seen")),
        lambda: temporal.clip_feed(2, 3, 4),
    ),
}


def changed(model: onnx.ModelProto, trusted: range = range(0)) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Every change of one place, in words; of all nodes but those that are `trusted`."""
    for index, node in enumerate(model.graph.node):
        if index in trusted:
            continue
        place = f"node {index} {node.op_type}"
        for other in OTHERS.get(node.op_type, ()):
            yield f"{place}: {other}", with_node(model, index, lambda one, other=other: setattr(one, "op_type", other))
        for number, attribute in enumerate(node.attribute):
            for words, value in other_values(attribute):

                def put(one: onnx.NodeProto, number: int = number, value: AttributeProto = value) -> None:
                    one.attribute[number].CopyFrom(value)

                yield f"{place}, {attribute.name}: {words}", with_node(model, index, put)
        for a, b in itertools.combinations(range(min(3, len(node.input))), 2):

            def swap(one: onnx.NodeProto, a: int = a, b: int = b) -> None:
                one.input[a], one.input[b] = one.input[b], one.input[a]

            yield f"{place}: inputs {a} and {b} swapped", with_node(model, index, swap)
        known = [value.name for value in model.graph.input]
        known += [name for earlier in model.graph.node[:index] for name in earlier.output]
        for at in range(len(node.input)):
            for name in known[-3:] + known[:2]:
                if name != node.input[at]:
                    yield (
                        f"{place}: {name} as input {at}",
                        with_node(model, index, lambda one, at=at, name=name: one.input.__setitem__(at, name)),
                    )
    for index, tensor in enumerate(model.graph.initializer):
        for words, array in other_arrays(numpy_helper.to_array(tensor)):
            one = copy.deepcopy(model)
            one.graph.initializer[index].CopyFrom(numpy_helper.from_array(array, tensor.name))
            yield f"{tensor.name}: {words}", one


def with_node(model: onnx.ModelProto, index: int, change: Callable[[onnx.NodeProto], None]) -> onnx.ModelProto:
    one = copy.deepcopy(model)
    change(one.graph.node[index])
    return one


def other_values(attribute: AttributeProto) -> Iterator[tuple[str, AttributeProto]]:
    """Attributes of the same kind that are a little different."""
    kind, value = attribute.type, onnx.helper.get_attribute_value(attribute)
    values: list[object] = []
    if attribute.name == "num_outputs":  # ONNX Runtime ends the process where it does not fit
        return
    if kind == AttributeProto.INT:
        values = [value + 1, value - 1]
    elif kind == AttributeProto.FLOAT:
        values = [3 * value + 0.1]
    elif kind == AttributeProto.INTS:
        values = [value[::-1], [*value[1:], value[0]], [value[0] + 1, *value[1:]], [*value[:-1], value[-1] + 1]]
    for other in values:
        if other != value:
            yield str(other), onnx.helper.make_attribute(attribute.name, other)


def other_arrays(array: NDArray[np.generic]) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Constants of the same dtype: one element changed, the first or the last, all of them, or another order."""
    if array.dtype == np.bool_:
        yield "negated", ~array
        yield "turned", np.roll(array, 1, -1)
        return
    for words, step in (("one more", 1), ("one less", -1)):
        for at in {0, array.size - 1} if array.size else ():
            other = array.copy().reshape(-1)
            other[at] += np.asarray(step, array.dtype)
            yield f"{words} at {at}", other.reshape(array.shape)
    with np.errstate(over="ignore"):  # what hides a token is the lowest number
        yield "twice", array * np.asarray(2, array.dtype)
    yield "negative", -array
    if array.ndim == 1 and array.size > 1:
        yield "reversed", array[::-1].copy()
    if array.ndim == 2:
        yield "turned", np.ascontiguousarray(array[::-1])


def first_output(model: onnx.ModelProto, feed: Feed) -> NDArray[np.float32] | None:
    """What a graph computes; None where it does not run, or makes no number."""
    try:
        onnx.checker.check_model(model, full_check=True)  # some of what it refuses ends ONNX Runtime's process
        session = session_of(model.SerializeToString())
        taken = {value.name: feed[value.name] for value in session.get_inputs()}
        found = np.asarray(session.run(None, taken)[0])
    except Exception:  # ONNX Runtime has no class of its own for what cannot be opened or run
        return None
    return found if found.size and np.isfinite(found).all() else None


def check(subject: Subject, model: onnx.ModelProto, words: str) -> bool:
    """Whether the graph runs; if it does, it computes the same after the pass."""
    feed = subject.feed()
    want = first_output(model, feed)
    if want is None:
        return False
    rewritten = ir.to_proto(subject.rewrite(ir.from_proto(copy.deepcopy(model))))
    got = first_output(rewritten, feed)
    assert got is not None, f"{words}: the rewritten graph does not run"
    assert got.shape == want.shape, words
    most = float(np.abs(want).max())
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * max(most, 0.1), err_msg=words)
    return True


@pytest.mark.parametrize("name", SUBJECTS)
def test_what_is_nearly_a_pattern_computes_what_it_did(name: str) -> None:
    subject = SUBJECTS[name]
    model = ir.to_proto(subject.model())
    assert check(subject, model, "unchanged")
    kinds = [check(subject, other, words) for words, other in changed(model, subject.trusted)]
    assert sum(kinds) > 20, f"{sum(kinds)} of {len(kinds)} changed graphs run"
