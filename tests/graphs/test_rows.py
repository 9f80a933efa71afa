"""Layers that run on the leading rows alone: how many rows that is, that results stay, and what is left alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import parser
from torch import Tensor, nn

from bench.harness.flops import count_flops
from export.models.layers import AttentionBlock, GroupConv, row_an_image
from export.models.limits import Limits
from export.models.temporal import GroupAttentionBlock
from export.onnx.inputs import draw_inputs, multiples_of
from export.onnx.trace import Traced, trace
from ffrt.families import KANDINSKY_1_1
from graphs.passes.guidance_rows import masked_temporal, sole_token
from graphs.passes.ir import open_graph, write_graph
from graphs.passes.split import split
from graphs.passes.table import PASSES, apply, names_of

DEMO = Path(__file__).resolve().parents[2] / "graphs" / "demo"
UNET = "interpolation_unet"
ROWS = ("sole_token", "masked_temporal")
C, E, D = 8, 16, 8
Feed = dict[str, NDArray[np.generic]]


class Layers(nn.Module):
    """What the 1.1 interpolation has of layers that some rows need not, with its inputs."""

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
        embed = row_an_image(torch.sin(time[:, None] * torch.arange(1, E + 1)), x.shape[0])
        mask = row_an_image(temporal_mask, x.shape[0])
        x = self.convolution(self.in_conv(x), groups, mask)
        x = self.text.attend(x, embed, context, context_mask)
        prediction: Tensor = self.out_conv(self.attention(x, embed, groups, mask))
        return prediction


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """:class:`Layers` as the exporter writes it, no weight of it zero."""
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
    """The graph after both passes: alone, and among all others of the CPU."""
    plain = open_graph(layers)
    made = {
        "plain": plain,
        "alone": masked_temporal(sole_token(plain)),
        "others": apply(plain, UNET, "cpu", [name for name in names_of("cpu") if name not in ROWS]),
        "all": apply(plain, UNET, "cpu", names_of("cpu")),
    }
    for name, model in made.items():
        write_graph(model, layers.parent / f"{name}.onnx", half=False)
    return {name: layers.parent / f"{name}.onnx" for name in made}


def session_of(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


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


def same(got: NDArray[np.float32], want: NDArray[np.float32]) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(np.abs(want).max()))


@settings(max_examples=40)
@given(st.data())
def test_the_result_is_the_same_whatever_the_rows(cut: dict[str, Path], data: st.DataObject) -> None:
    """Tokens anywhere in a row, none or all of them, rows in any order, masks of 0, 1 and between; one or more rows."""
    rows, groups, length = (data.draw(st.integers(1, most), label) for label, most in SIZES.items())
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    tokens = data.draw(st.lists(row, min_size=rows, max_size=rows))
    mask = data.draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.5, -2.0]), min_size=rows, max_size=rows))
    feed = feed_of(tokens, mask, groups)
    want = session_of(cut["plain"]).run(None, feed)[0]
    for name in ("alone", "all"):
        same(session_of(cut[name]).run(None, feed)[0], want)


SIZES = {"rows": 4, "groups": 3, "tokens": 4}


@pytest.mark.parametrize("name", ["alone", "all"])
def test_text_asks_for_the_rows_up_to_the_last_with_several_tokens(cut: dict[str, Path], name: str) -> None:
    def operations(*counts: int) -> int:
        return count_flops(cut[name], feed_of(lengths(*counts), [1, 1, 1]))

    every = operations(5, 4, 3)
    a_row = every - operations(5, 4, 1)
    assert a_row > 0.02 * every
    assert operations(5, 1, 1) == operations(1, 1, 1) == every - 2 * a_row, "one row is always left"
    assert operations(1, 1, 3) == operations(0, 4, 0) == every, "a row without a token sees them all"
    assert operations(1, 4, 1) == every - a_row
    without = {count_flops(cut["others"], feed_of(lengths(*counts), [1, 1, 1])) for counts in ((5, 4, 3), (5, 1, 1))}
    assert len(without) == 1, "no other pass does it"


@pytest.mark.parametrize("name", ["alone", "all"])
def test_groups_see_each_other_in_the_rows_up_to_the_last_with_a_mask(cut: dict[str, Path], name: str) -> None:
    def operations(*mask: float) -> int:
        return count_flops(cut[name], feed_of(lengths(5, 4, 3), list(mask)))

    every = operations(1, 1, 1)
    a_row = every - operations(1, 1, 0)
    assert a_row > 0.1 * every
    assert operations(1, 0, 0) == operations(0, 0, 0) == every - 2 * a_row, "one row is always left"
    assert operations(0, 0, 0.1) == operations(0, -1, 1) == every
    assert operations(0, 1, 0) == every - a_row
    without = {count_flops(cut["others"], feed_of(lengths(5, 4, 3), mask)) for mask in ([1.0] * 3, [1.0, 0, 0])}
    assert len(without) == 1, "no other pass does it"


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_layers_behind_each_other_are_cut_once(layers: Path) -> None:
    """Attention over groups and its feed-forward, two merges: the images are joined behind both."""
    made = masked_temporal(open_graph(layers))
    before, after = ops(open_graph(layers)), ops(made)
    assert after["Split"] - before["Split"] == 2, "the convolution, and both merges"
    assert after["Conv"] == before["Conv"] and after["Softmax"] == before["Softmax"], "nothing is there twice"


def test_every_cross_attention_of_the_demo_is_cut(tmp_path: Path) -> None:
    """And what the sole token gives is worked out with the text, once a request: the step has no product for it."""
    plain = open_graph(DEMO / "keyframe_unet.onnx")
    base = apply(plain, "keyframe_unet", "cpu", ["join_modulation", "fuse_attention"])
    model = sole_token(base)
    assert ops(model)["Split"] - ops(base)["Split"] == 8
    assert ops(model)["MultiHeadAttention"] == ops(base)["MultiHeadAttention"]
    before, after = split(base), split(model)
    own = {value.name for value in plain.graph.inputs}
    given = [[{value.name for value in part.graph.inputs} & own for part in parts] for parts in (before, after)]
    assert given[0] == given[1] and "context" not in given[1][-1]
    assert ops(after[-1])["MatMul"] == ops(before[-1])["MatMul"]
    wanted = session_of(DEMO / "keyframe_unet.onnx")
    sessions = []
    for number, part in enumerate(after):
        write_graph(part, tmp_path / f"{number}.onnx", half=False)
        sessions.append(session_of(tmp_path / f"{number}.onnx"))
    rng = np.random.default_rng(1)
    for counts in ((4, 1), (1, 3), (3, 1, 1)):
        rows = len(counts)
        known: Feed = {
            "x": rng.standard_normal((rows * 3, 4, 8, 8)).astype(np.float32),
            "time": np.full(rows, 7, np.float32),
            "context": rng.standard_normal((rows, 6, 96)).astype(np.float32),
            "context_mask": np.array(lengths(*counts)),
            "temporal_positions": np.arange(3),
        }
        want = wanted.run(None, known)[0]
        for session in sessions:
            names = [value.name for value in session.get_outputs()]
            taken = {value.name: known[value.name] for value in session.get_inputs()}
            known |= dict(zip(names, session.run(None, taken), strict=True))
        same(known["prediction"], want)


@pytest.mark.parametrize("name", ["text_encoder", "interpolation_unet", "movq_decoder"])
def test_graphs_without_such_rows_stay(name: str) -> None:
    plain = apply(open_graph(DEMO / f"{name}.onnx"), name, "cpu", ["constant_attention"])
    for one in ROWS:
        made = apply(plain, name, "cpu", [one])
        assert ops(made) == ops(plain)


def test_both_run_on_the_cpu_alone() -> None:
    assert {one.name: one.providers for one in PASSES if one.name in ROWS} == dict.fromkeys(ROWS, ("cpu",))
    assert not set(ROWS) & set(names_of("cuda"))


MIXING = """<ir_version: 10, opset_import: ["" : 20]>
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
    "rows of their own": ("seen = Sigmoid (x)", True),
    "rows that are added up": ("all = ReduceSum (x, first) seen = Sub (x, all)", False),
    "rows that change places": (
        "t = Transpose <perm=[1, 0, 2, 3]> (x) s = Softmax <axis=1> (t) seen = Transpose <perm=[1, 0, 2, 3]> (s)",
        False,
    ),
    "a softmax over rows": ("seen = Softmax <axis=0> (x)", False),
}


@pytest.mark.parametrize("case", LAYERS)
def test_rows_that_see_each_other_stay_together(case: str) -> None:
    layer, apart = LAYERS[case]
    model = ir.from_proto(parser.parse_model(MIXING.format(layer=layer)))
    made = masked_temporal(model)
    assert ops(made)["Concat"] == (2 if apart else 0)
    feed = {"x": np.random.default_rng(0).standard_normal((3, 2, 2, 2)).astype(np.float32)}
    feed["temporal_mask"] = np.array([0, 1, 0], np.float32)
    results = [
        ort.InferenceSession(ir.to_proto(one).SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
        for one in (model, made)
    ]
    same(results[1][0], results[0][0])
