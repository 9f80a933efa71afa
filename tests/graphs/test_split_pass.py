"""A graph split into parts: what each takes, that results stay the same, and graphs that cannot be split."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from export.checkpoints.defaults import INTERPOLATION_1_1
from export.models.configs import UNetConfig
from export.models.interpolation import TextedInterpolationUNet
from export.models.layers import AttentionBlock, GroupConv
from export.models.limits import Limits
from export.models.unet import Conditioning
from export.onnx.inputs import draw_inputs, multiples_of
from export.onnx.trace import Traced, trace
from ffrt.backend.parts import Parts
from ffrt.backend.session import Session
from ffrt.bundle import PartSpec
from ffrt.errors import BundleError
from ffrt.families import KANDINSKY_1_1
from ffrt.sampling import Sampling, drain, normal_noise
from ffrt.stages.interpolate import WINDOW_GROUPS, interpolation_steps, noise_shape, windows
from graphs.passes.split import split
from graphs.passes.table import apply, names_of
from graphs.store import open_graph, write_graph
from tests.graphs.handmade import Feed, graph, normal, run, run_parts, same, session_of

NAME = "interpolation_unet"
C, E, D = 8, 16, 8
ONCE = ("skip_frames", "perturbation")


class Body(nn.Module):
    """One layer of each kind that mask, text or tables enter, in place of all levels of the U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.in_conv, self.out_conv = nn.Conv2d(20, C, 1), nn.Conv2d(C, 12, 1)
        self.convolution = GroupConv(C)
        self.text = AttentionBlock(C, E, D, 4, 4, 2)

    def forward(self, x: Tensor, given: Conditioning) -> Tensor:
        assert given.frames is not None
        given = given.per_image(x.shape[0])
        x = self.convolution(self.in_conv(x), given.frames, given.temporal_mask)
        prediction: Tensor = self.out_conv(self.text.attend(x, given.time_embed, given.context, given.context_mask))
        return prediction


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 1.1 interpolation with `Body` as the exporter writes it, with no weight zero."""
    torch.manual_seed(0)
    module = TextedInterpolationUNet(UNetConfig(C, C, E, D, num_channels=20, out_channels=12, groups=4, head_dim=4))
    module.body = Body()
    for parameter in module.requires_grad_(False).parameters():
        parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    signature, limits = KANDINSKY_1_1.contract[NAME], Limits(1, 8, D, 1, 180)
    traced = Traced(
        NAME, module, draw_inputs(signature, limits, 0), multiples_of(signature, limits), KANDINSKY_1_1.contract
    )
    path = tmp_path_factory.mktemp("split") / "plain.onnx"
    onnx.save(trace(traced), path)
    return path


def parts_of(plain: Path, provider: str = "cpu") -> list[ir.Model]:
    """The parts after all passes of a provider whose result the CPU can run."""
    names = [name for name in names_of(provider) if name != "fuse_group_norm"]
    return split(apply(open_graph(plain), NAME, provider, names))


@pytest.fixture(scope="module")
def whole(plain: Path) -> Session:
    return Session(plain, NAME, provider="cpu", threads=1)


@pytest.fixture
def opened() -> list[str]:
    """The files that `apart` opened again."""
    return []


@pytest.fixture(params=["cpu", "cuda"])
def apart(plain: Path, request: pytest.FixtureRequest, opened: list[str]) -> Parts:
    """The parts as the runtime opens them: the first two take one number for all groups."""
    sessions = []

    def reopen(file: str, cancellation: object = None) -> Session:
        opened.append(file)
        return Session(plain.parent / file, NAME, provider="cpu", threads=1)

    parts = parts_of(plain, request.param)
    for number, part in enumerate(parts):
        for value in part.graph.inputs:
            if number < len(parts) - 1 and value.name in ONCE:
                value.shape = ir.Shape([1])
        path = plain.parent / f"{request.param}{number}.onnx"
        write_graph(part, path, half=False)
        names = (tuple(str(value.name) for value in values) for values in (part.graph.inputs, part.graph.outputs))
        sessions.append((PartSpec(path.name, *names), Session(path, NAME, provider="cpu", threads=1)))
    return Parts(NAME, KANDINSKY_1_1.contract[NAME][0], sessions, reopen)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_only_the_step_takes_x_and_the_mask(plain: Path, provider: str) -> None:
    parts = parts_of(plain, provider)
    inputs = {spec.name for spec in KANDINSKY_1_1.contract[NAME][0]}
    assert [{value.name for value in part.graph.inputs} & inputs for part in parts] == [
        {"context", "context_mask", *ONCE},
        {"time", "context_mask", "perturbation"},
        {"x", "context_mask", "perturbation", "temporal_mask"},
    ]
    step = parts[-1].graph
    mask = next(value for value in step.inputs if value.name == "temporal_mask")
    assert {node.op_type for node, _ in mask.uses()} and not any(node.op_type == "Shape" for node, _ in mask.uses())
    assert not any(node.op_type == "Gemm" for node in step), "scale and shift are computed before"
    handed_on = [value for value in step.inputs if value.name not in inputs]
    assert len(handed_on) >= 3, "keys, values and the table come from earlier parts"


@pytest.mark.parametrize(("rows", "groups"), list(product((1, 2, 3), (1, 2, 5))))
def test_parts_give_the_result_of_the_whole(apart: Parts, whole: Session, rows: int, groups: int) -> None:
    """The mask changes with every call, prompt and time do not: results that are kept must not depend on it."""
    rng = np.random.default_rng([rows, groups])
    feed: Feed = {
        "x": rng.standard_normal((rows * groups, 20, 3, 2)).astype(np.float32),
        "time": np.full(rows, 431, np.float32),
        "context": rng.standard_normal((rows, 6, D)).astype(np.float32),
        "context_mask": np.arange(6) < rng.integers(1, 7, (rows, 1)),
        "skip_frames": np.full(groups, 3),
        "perturbation": np.full(groups, 0.5, np.float32),
    }
    results = []
    for mask in ([1, 0, 0.5], [0, 1, 1], [1, 1, 1]):
        inputs = {**feed, "temporal_mask": np.array(mask[:rows], np.float32)}
        results.append(apart.run(inputs)["prediction"])
        same(results[-1], whole.run(inputs)["prediction"], 1e-5)
    assert np.abs(results[0] - results[1]).max() > 1e-2


def test_precomputed_parts_are_closed_and_opened_again_for_other_inputs(
    apart: Parts, whole: Session, opened: list[str]
) -> None:
    rng = np.random.default_rng(5)
    feed: Feed = {
        "context": rng.standard_normal((2, 6, D)).astype(np.float32),
        "context_mask": np.arange(6) < [[4], [1]],
        "skip_frames": np.full(3, 3),
        "perturbation": np.full(3, 0.5, np.float32),
    }
    times = [np.full(2, time, np.float32) for time in (900, 400, 100)]
    step = {"x": rng.standard_normal((6, 20, 3, 2)).astype(np.float32), "temporal_mask": np.array([1, 0], np.float32)}
    apart.precompute({**feed, "time": time} for time in times[:2])
    for time, reopened in zip(times, (0, 0, 1), strict=True):
        inputs = {**feed, **step, "time": time}
        same(apart.run(inputs)["prediction"], whole.run(inputs)["prediction"], 1e-5)
        assert len(opened) == reopened, "only a time that was not precomputed needs the part again"


@pytest.mark.parametrize("guidance_scale", [0.25, 0.0])
@pytest.mark.parametrize("groups", [2, WINDOW_GROUPS, WINDOW_GROUPS + 5])
def test_parts_interpolate_in_windows_as_the_whole_does(
    apart: Parts, whole: Session, groups: int, guidance_scale: float
) -> None:
    assert len(windows(groups, WINDOW_GROUPS, 2)) == 1 + (groups > WINDOW_GROUPS)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((groups + 1, 4, 2, 2), dtype=np.float32)
    prompt = rng.standard_normal((2, 6, D), dtype=np.float32), np.arange(6) < np.array([[4], [1]])
    results = []
    for network in (apart, whole):
        steps = interpolation_steps(
            network.run,
            INTERPOLATION_1_1,
            INTERPOLATION_1_1.passes[0],
            latents,
            normal_noise(7, 2, noise_shape("group", latents.shape)),
            Sampling(2, guidance_scale, "ddpm"),
            prompt=prompt,
        )
        results.append(drain(steps))
    same(*results, 1e-5)


SIZED = """
agraph (float[N, 2] x, float[{mask}] temporal_mask, float[B] time, float[B, 2] context) => (float[N, 2] prediction)
    <float[2] null = {{1, 2}}, int64[1] two = {{2}}, int64[1] axes = {{1}}> {{
    rows = Shape {size} (temporal_mask)
    sizes = Concat <axis=0> (rows, two)
    nulls = Expand (null, sizes)
    told = Sub (context, nulls)
    column = Unsqueeze (time, axes)
    timed = Add (told, column)
    factors = Unsqueeze (temporal_mask, axes)
    masked = Mul (x, factors)
    prediction = Add (masked, timed)
}}"""


@pytest.mark.parametrize("size", ["", "<start=0>", "<start=0, end=1>"])
def test_a_size_of_the_mask_is_read_from_the_input_that_changes_least(size: str) -> None:
    """Text and time have that size too, but the time would make its part run at every noise level."""
    model = graph(SIZED.format(mask="B", size=size))
    parts = split(model)
    assert [[value.name for value in part.graph.inputs] for part in parts] == [
        ["context"],
        ["time", "told"],
        ["x", "temporal_mask", "timed"],
    ]
    assert any(node.inputs[0].name == "temporal_mask" for node in model.graph if node.op_type == "Shape"), (
        "the split works on a copy"
    )


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


def test_a_graph_without_x_stays_whole() -> None:
    model = family("latent")
    assert split(model) == [model]


def test_a_part_that_would_be_empty_is_left_out() -> None:
    model = graph("agraph (float[N] x, float[N] time) => (float[N] y) { y = Add (x, time) }")
    assert len(split(model)) == 1
    timed = graph("agraph (float[N] x, float[N] time) => (float[N] y) { late = Sin (time) y = Add (x, late) }")
    assert [[node.op_type for node in part.graph] for part in split(timed)] == [["Sin"], ["Add"]]


def test_the_last_part_gives_all_outputs() -> None:
    """Also one that does not depend on x and is handed on by an earlier part."""
    model = family()
    parts = split(model)
    assert [[value.name for value in part.graph.inputs] for part in parts][:2] == [["context"], ["time", "told"]]
    assert [value.name for value in parts[-1].graph.outputs] == ["prediction", "told"]
    feed: Feed = {"x": normal(3, 2), "time": normal(3), "context": normal(3, 2, seed=1)}
    sessions = [session_of(ir.to_proto(part).SerializeToString()) for part in parts]
    same(run_parts(sessions, feed)[0], run(model, feed))


@pytest.mark.parametrize(
    "model",
    [
        graph(SIZED.format(mask="M", size="")),
        family(last="all = Shape (x) more = Expand (timed, all) prediction = Add (x, more)"),
    ],
    ids=["of the mask", "of x"],
)
def test_a_size_that_only_the_step_has_is_refused(model: ir.Model) -> None:
    with pytest.raises(BundleError, match="earlier parts need in another input, got none.*--without split"):
        split(model)
