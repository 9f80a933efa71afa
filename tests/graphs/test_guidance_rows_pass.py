"""Layers that run on the leading rows only: on how many, that results stay the same, and what is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.harness.flops import count_flops
from export.models.layers import AttentionBlock, GroupConv, row_per_image
from export.models.limits import Limits
from export.models.temporal import GroupAttentionBlock
from export.onnx.inputs import draw_inputs, multiples_of
from export.onnx.trace import Traced, trace
from ffrt.families import KANDINSKY_1_1
from graphs.passes.guidance_rows import masked_temporal, single_token_attention
from graphs.passes.split import split
from graphs.passes.table import PASSES, apply, names_of
from graphs.store import open_graph, write_graph
from tests.graphs.handmade import DEMO, Feed, graph, normal, ops, run, run_parts, same, session_of

UNET = "interpolation_unet"
ROWS = ("single_token_attention", "masked_temporal")
C, E, D = 8, 16, 8


class Layers(nn.Module):
    """The layers of the 1.1 interpolation that some rows can skip, with its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.in_conv, self.out_conv = nn.Conv2d(20, C, 1), nn.Conv2d(C, 12, 1)
        self.convolution = GroupConv(C)
        self.text = AttentionBlock(C, E, D, 4, 4, 2)
        self.attention = GroupAttentionBlock(C, E, 4, 4, 2)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        context_mask: Tensor,
        skip_frames: Tensor,
        perturbation: Tensor,
        temporal_mask: Tensor,
    ) -> Tensor:
        groups = skip_frames.shape[0]
        embed = row_per_image(torch.sin(time[:, None] * torch.arange(1, E + 1)), x.shape[0])
        mask = row_per_image(temporal_mask, x.shape[0])
        x = self.convolution(self.in_conv(x), groups, mask)
        x = self.text.attend(x, embed, context, context_mask)
        prediction: Tensor = self.out_conv(self.attention(x, embed, groups, mask))
        return prediction


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`Layers` as the exporter writes it, with no weight zero."""
    torch.manual_seed(0)
    module = Layers().requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    limits = Limits(1, 8, D, 1, 180)
    signature = KANDINSKY_1_1.contract[UNET]
    example, multiples = draw_inputs(signature, limits, 0), multiples_of(signature, limits)
    path = tmp_path_factory.mktemp("layers") / "plain.onnx"
    onnx.save(trace(Traced(UNET, module, example, multiples, KANDINSKY_1_1.contract)), path)
    return path


@pytest.fixture(scope="module")
def cut(layers: Path) -> dict[str, Path]:
    """The graph after both passes alone, after all other passes of the CPU, and after all."""
    plain = open_graph(layers)
    models = {
        "plain": plain,
        "alone": masked_temporal(single_token_attention(plain)),
        "others": apply(plain, UNET, "cpu", [name for name in names_of("cpu") if name not in ROWS]),
        "all": apply(plain, UNET, "cpu", names_of("cpu")),
    }
    for name, model in models.items():
        write_graph(model, layers.parent / f"{name}.onnx", half=False)
    return {name: layers.parent / f"{name}.onnx" for name in models}


def feed_of(tokens: list[list[bool]], mask: list[float], groups: int = 2, side: int = 2) -> Feed:
    rng = np.random.default_rng(0)
    rows, length = np.shape(tokens)
    return {
        "x": rng.standard_normal((rows * groups, 20, side, side)).astype(np.float32),
        "time": rng.uniform(0, 1000, rows).astype(np.float32),
        "context": rng.standard_normal((rows, length, D)).astype(np.float32),
        "context_mask": np.array(tokens, bool),
        "skip_frames": np.full(groups, 3),
        "perturbation": np.zeros(groups, np.float32),
        "temporal_mask": np.array(mask, np.float32),
    }


def lengths(*counts: int) -> list[list[bool]]:
    return [[at < count for at in range(6)] for count in counts]


@settings(max_examples=40)
@given(st.data())
def test_the_result_is_the_same_whatever_the_rows(cut: dict[str, Path], data: st.DataObject) -> None:
    """One or more rows in any order; tokens anywhere in a row, none or all of them; masks of 0, 1 and others."""
    rows, groups, length = (data.draw(st.integers(1, most), label) for label, most in SIZES.items())
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    tokens = data.draw(st.lists(row, min_size=rows, max_size=rows))
    mask = data.draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.5, -2.0]), min_size=rows, max_size=rows))
    feed = feed_of(tokens, mask, groups)
    want = session_of(cut["plain"]).run(None, feed)[0]
    for name in ("alone", "all"):
        same(session_of(cut[name]).run(None, feed)[0], want, 1e-5)


SIZES = {"rows": 4, "groups": 3, "tokens": 4}


@pytest.mark.parametrize("name", ["alone", "all"])
def test_cross_attention_runs_up_to_the_last_row_with_several_tokens(cut: dict[str, Path], name: str) -> None:
    def operations(*counts: int) -> int:
        return count_flops(cut[name], feed_of(lengths(*counts), [1, 1, 1]))

    every = operations(5, 4, 3)
    per_row = every - operations(5, 4, 1)
    assert per_row > 0.02 * every
    assert operations(5, 1, 1) == operations(1, 1, 1) == every - 2 * per_row, "one row always runs"
    assert operations(1, 1, 3) == operations(0, 4, 0) == every, "a row without tokens attends to all"
    assert operations(1, 4, 1) == every - per_row
    without = {count_flops(cut["others"], feed_of(lengths(*counts), [1, 1, 1])) for counts in ((5, 4, 3), (5, 1, 1))}
    assert len(without) == 1, "no other pass skips rows"


@pytest.mark.parametrize("name", ["alone", "all"])
def test_layers_between_groups_run_up_to_the_last_row_with_a_mask(cut: dict[str, Path], name: str) -> None:
    def operations(*mask: float) -> int:
        return count_flops(cut[name], feed_of(lengths(5, 4, 3), list(mask)))

    every = operations(1, 1, 1)
    per_row = every - operations(1, 1, 0)
    assert per_row > 0.1 * every
    assert operations(1, 0, 0) == operations(0, 0, 0) == every - 2 * per_row, "one row always runs"
    assert operations(0, 0, 0.1) == operations(0, -1, 1) == every
    assert operations(0, 1, 0) == every - per_row
    without = {count_flops(cut["others"], feed_of(lengths(5, 4, 3), mask)) for mask in ([1.0] * 3, [1.0, 0, 0])}
    assert len(without) == 1, "no other pass skips rows"


def test_consecutive_layers_are_cut_once(layers: Path) -> None:
    """Attention over groups and its feed-forward are two merges: images are joined after the second."""
    cut = masked_temporal(open_graph(layers))
    before, after = ops(open_graph(layers)), ops(cut)
    assert after["Split"] - before["Split"] == 2, "one for the convolution, one for both merges"
    assert after["Conv"] == before["Conv"] and after["Softmax"] == before["Softmax"], "nothing is duplicated"


def test_every_cross_attention_of_the_demo_is_cut(tmp_path: Path) -> None:
    """The constant of a single token is computed with the text, once per request: the step has no product for it."""
    plain = open_graph(DEMO / "keyframe_unet.onnx")
    base = apply(plain, "keyframe_unet", "cpu", ["join_modulation", "fuse_attention"])
    model = single_token_attention(base)
    assert ops(model)["Split"] - ops(base)["Split"] == 8
    assert ops(model)["MultiHeadAttention"] == ops(base)["MultiHeadAttention"]
    before, after = split(base), split(model)
    inputs = {value.name for value in plain.graph.inputs}
    taken = [[{value.name for value in part.graph.inputs} & inputs for part in parts] for parts in (before, after)]
    assert taken[0] == taken[1] and "context" not in taken[1][-1]
    assert ops(after[-1])["MatMul"] == ops(before[-1])["MatMul"]
    sessions = []
    for number, part in enumerate(after):
        write_graph(part, tmp_path / f"{number}.onnx", half=False)
        sessions.append(session_of(tmp_path / f"{number}.onnx"))
    whole = session_of(DEMO / "keyframe_unet.onnx")
    rng = np.random.default_rng(1)
    for counts in ((4, 1), (1, 3), (3, 1, 1)):
        rows = len(counts)
        feed: Feed = {
            "x": rng.standard_normal((rows * 3, 4, 8, 8)).astype(np.float32),
            "time": np.full(rows, 7, np.float32),
            "context": rng.standard_normal((rows, 6, 96)).astype(np.float32),
            "context_mask": np.array(lengths(*counts)),
            "temporal_positions": np.arange(3),
        }
        same(run_parts(sessions, feed)[0], whole.run(None, feed)[0], 1e-5)


@pytest.mark.parametrize("name", ["text_encoder", "interpolation_unet", "movq_decoder"])
def test_graphs_without_such_layers_stay_as_they_are(name: str) -> None:
    plain = apply(open_graph(DEMO / f"{name}.onnx"), name, "cpu", ["constant_attention"])
    for row in ROWS:
        assert ops(apply(plain, name, "cpu", [row])) == ops(plain)


def test_both_passes_are_for_the_cpu_only() -> None:
    assert {row.name: row.providers for row in PASSES if row.name in ROWS} == dict.fromkeys(ROWS, ("cpu",))
    assert not set(ROWS) & set(names_of("cuda"))


MERGE = """
agraph (float[N, C, h, w] x, float[N] temporal_mask) => (float[N, C, h, w] prediction)
    <float[1] f = {{0.3}}, int64[4] wide = {{-1, 1, 1, 1}}, float one = {{1}}, int64[1] first = {{0}}> {{
    m = Mul (f, temporal_mask)
    share = Reshape (m, wide)
    rest = Sub (one, share)
    {layer}
    kept = Mul (rest, x)
    given = Mul (share, seen)
    prediction = Add (kept, given)
}}"""
LAYERS = {
    "rows that stay apart": ("seen = Sigmoid (x)", True),
    "a sum over rows": ("all = ReduceSum (x, first) seen = Sub (x, all)", False),
    "rows transposed": (
        "t = Transpose <perm=[1, 0, 2, 3]> (x) s = Softmax <axis=1> (t) seen = Transpose <perm=[1, 0, 2, 3]> (s)",
        False,
    ),
    "a softmax over rows": ("seen = Softmax <axis=0> (x)", False),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_that_mix_rows_are_not_cut(case: str) -> None:
    layer, is_cut = LAYERS[case]
    model = graph(MERGE.format(layer=layer))
    rewritten = masked_temporal(model)
    assert ops(rewritten)["Concat"] == (2 if is_cut else 0)
    feed: Feed = {"x": normal(3, 2, 2, 2), "temporal_mask": np.array([0, 1, 0], np.float32)}
    same(run(rewritten, feed), run(model, feed), 1e-5)
