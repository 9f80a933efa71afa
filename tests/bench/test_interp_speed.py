"""Group against masked interpolation: what is counted, what is timed, and what the program says when it cannot."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from bench.datasets.release import TWO_LEVELS
from bench.harness import run as harness
from bench.harness.flops import count_flops, node_flops
from bench.harness.machine import product_graph, product_rate
from bench.harness.record import BenchError
from bench.interp_speed import __main__ as interp_speed
from bench.interp_speed.cost import DESIGNS, IN_A_ROW, Cell, fed, measure_cell, parameters, ratios, stepping
from bench.interp_speed.flops import PUBLISHED_TFLOP, full_table
from bench.interp_speed.plot import plot
from bench.interp_speed.quality import METRIC_NAMES
from bench.interp_speed.table import table
from export.checkpoints.weights import load_half
from export.models.configs import INTERPOLATION_SHAPES, PRESETS, UNetConfig, masked_shape
from export.onnx.demo import between, untexted
from export.onnx.random import numbers, write_random, write_random_bundle
from ffrt import Bundle, BundleError, Pipeline, open_bundle
from ffrt.stages.interpolate import GRAPHS, METHODS, Method, graph_feed, noise_shape

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "graphs" / "demo"
TINY = UNetConfig(16, 16, 32, 32, 20, 12, groups=4, head_dim=16, **TWO_LEVELS)


@pytest.mark.parametrize(("rows", "groups", "side"), [(1, 3, 16), (2, 5, 8)])
@pytest.mark.parametrize("method", METHODS)
def test_a_graph_has_the_flops_that_pytorch_counts(method: Method, rows: int, groups: int, side: int) -> None:
    shape = (groups + 1, 4, side, side)
    feed = graph_feed(method, np.zeros((rows, *shape), np.float32), 3)
    items, *rest = noise_shape(method, shape)
    inputs = feed(np.zeros((rows * items, *rest), np.float32), 500.0)
    demo = PRESETS["demo"]
    group = demo.interpolation
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = between(demo, group if method == "group" else masked_shape(group))
        network(*(torch.from_numpy(value).to("meta") for value in inputs.values()))
    assert count_flops(DEMO / f"{GRAPHS[method]}.onnx", inputs) == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "flops"),
    [
        ("Conv", [[1, 3, 8, 8], [5, 3, 3, 3], [5]], [1, 5, 8, 8], 2 * 5 * 64 * 27),
        ("ConvTranspose", [[1, 3, 4, 4], [3, 5, 2, 2]], [1, 5, 8, 8], 2 * 3 * 16 * 20),
        ("Gemm", [[4, 6], [6, 7]], [4, 7], 2 * 4 * 6 * 7),
        ("Gemm", [[6, 4], [7, 6]], [4, 7], 2 * 4 * 6 * 7),
        ("MatMul", [[2, 4, 6], [6, 7]], [2, 4, 7], 2 * 2 * 4 * 6 * 7),
    ],
)
def test_flops_of_one_node(operator: str, inputs: list[list[int]], output: list[int], flops: int) -> None:
    assert node_flops(operator, inputs, output) == flops


def test_the_product_graph_multiplies(tmp_path: Path) -> None:
    (tmp_path / "products.onnx").write_bytes(product_graph(8, 3))
    assert count_flops(tmp_path / "products.onnx", {"a": np.eye(8, dtype=np.float32)}) == 3 * 2 * 8**3
    assert product_rate("cpu", 1, runs=1) > 1e8


@pytest.mark.slow
def test_the_released_shape_costs_what_is_published() -> None:
    rows = full_table(DESIGNS)
    at_512 = {row["design"]: row for row in rows if row["side_px"] == 512}
    for name, published in PUBLISHED_TFLOP.items():
        assert at_512[name]["tflop"] == pytest.approx(published, rel=2e-3)
    assert at_512["masked_windows"]["ratio"] == pytest.approx(5.0, abs=0.01)
    assert at_512["masked_sequence"]["ratio"] == pytest.approx(4.07, abs=0.01)
    assert at_512["group"]["parameters"] == 3_872_572_046 + 4096  # the released network and our null embedding
    assert {row["side_px"] for row in rows} == {512, 256}


def test_small_is_the_prototypes_shape() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in untexted(INTERPOLATION_SHAPES["small"]).parameters())
    assert count == pytest.approx(72.9e6, rel=1e-3)


def test_a_cell_knows_its_frames(tiny: Bundle) -> None:
    assert (Cell(1, 8, 32).keyframes(tiny), Cell(1, 30, 32).keyframes(tiny)) == (3, 9)
    assert (Cell(2, 8, 32).added(tiny), Cell(1, 30, 32).added(tiny)) == (12, 24)
    with pytest.raises(BenchError, match="expected a pass of tiny, got 24"):
        Cell(1, 24, 32).keyframes(tiny)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_several_clips_is_that_of_each(masked: Bundle, method: str) -> None:
    way = next(name for name in METHODS if name == method)
    pipe = Pipeline(masked, provider="cpu", threads=1)
    both = stepping(pipe, Cell(2, 8, 32), way)()
    feed, x = fed(masked, Cell(2, 8, 32), way)
    inputs = feed(x, 500.0)
    rows = {key: len(inputs[key]) // 2 for key in ("x", "time")}
    half = {key: value[: rows[key]] if key in rows else value for key, value in inputs.items()}
    one = pipe.graph("interpolation_unet" if way == "group" else "masked_interpolation_unet")(half)["prediction"]
    np.testing.assert_allclose(both[: len(one)], one, atol=1e-6)


def test_ratios_are_of_runs_beside_each_other() -> None:
    found = ratios({"group": [1.0, 2.0, 4.0], "masked_windows": [5.0, 10.0, 20.0], "masked_sequence": [3.0, 8.0, 20.0]})
    assert found["masked_windows/group"] == {"median": 5.0, "iqr": 0.0}
    assert found["masked_sequence/group"] == {"median": 4.0, "iqr": 1.0}
    assert ratios({"masked_windows": [1.0]}) == {}


def test_rounds_keep_every_run() -> None:
    ticks = iter(range(100))
    found = harness.rounds({"a": int, "b": int}, runs=3, clock=lambda: float(next(ticks)))
    assert found == {"a": [1.0] * 3, "b": [1.0] * 3}


@pytest.fixture
def rated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose rate of matrix products is known."""
    monkeypatch.setattr(interp_speed, "product_rate", lambda provider, threads: 1e10)


@pytest.mark.usefixtures("rated")
def test_a_quick_run_prints_the_ratio_of_every_design(
    masked: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--bundle", str(masked.folder), "--threads", "1", "--folder", str(tmp_path)]
    assert interp_speed.main(arguments) == 0
    record = json.loads((tmp_path / "interp_speed_demo.json").read_text())
    assert set(record["ratios"]) == {"masked_windows/group", "masked_sequence/group"} and not record["whole"]
    assert all(ratio > 0 for ratio in record["ratios"].values())
    assert record["environment"]["bundle_digest"] == masked.digest
    assert (tmp_path / "interp_speed_demo.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "masked, windows of 5" in said and "| masked_sequence/group |" in said
    assert str(masked.folder) not in json.dumps(record)


@pytest.mark.usefixtures("rated", "lpips_without_weights")
def test_quality_and_memory_stand_in_the_record(
    masked: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interp_speed, "session", lambda: None)
    arguments = ["--bundle", str(masked.folder), "--threads", "1", "--runs", "1", "--clips", "2"]
    arguments += ["--parts", "cost", "quality", "--json", str(tmp_path / "record.json")]
    assert interp_speed.main(arguments) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert [cell["clips"] for cell in record["cells"]] == [1, 2, 4, 1, 1]
    first = record["cells"][0]["designs"]
    assert set(first) == set(DESIGNS.values()) and all(found["peak_bytes"] > 1e7 for found in first.values())
    assert set(record["quality"]["methods"]) >= {*first, "hold", "linear", "minterpolate", "autoencoder"}
    assert all(set(errors) == set(METRIC_NAMES) for errors in record["quality"]["standard_errors"].values())
    assert plot(record).shape[1:] == (1200, 3)
    shown = table(record)
    assert "PSNR of the changes" in shown and "LPIPS" in shown and "2 clips, ± the standard error" in shown


@pytest.mark.usefixtures("rated")
def test_an_absent_design_is_said_and_fails(tiny: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--bundle", str(tiny.folder), "--threads", "1", "--json", str(tmp_path / "record.json")]
    assert interp_speed.main(arguments) == 1
    assert "masked_windows did not run" in capsys.readouterr().err
    assert json.loads((tmp_path / "record.json").read_text())["absent"] == ["masked_windows", "masked_sequence"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "cuda"], "provider 'cuda' is not in this build"),
        (["--provider", "abacus"], "provider: expected one of"),
        (["--runs", "0"], "--runs: expected 1 or more, got 0"),
        (["--bundle", "nowhere"], "nowhere cannot be opened"),
        (["--side", "40"], "--side: expected a multiple of 16 pixels, got 40"),
        (["--scale", "demo", "small", "--json", "record.json"], "expected --folder, got --json"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tiny: Bundle, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--quick", "--bundle", str(tiny.folder), "--folder", str(tmp_path / "none")]
    assert interp_speed.main([*usual, *arguments]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.usefixtures("rated")
def test_scales_are_measured_in_turn_and_keep_their_own_records(
    masked: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_for: list[str] = []
    monkeypatch.setattr(interp_speed, "bundle_of", lambda scale, *_: asked_for.append(scale) or masked)
    arguments = ["--quick", "--scale", "small", "demo", "--threads", "1", "--folder", str(tmp_path / "run")]
    assert interp_speed.main(arguments) == 0
    assert asked_for == ["small", "demo"]
    records = {path.name: path for path in (tmp_path / "run").iterdir()}
    assert set(records) == {f"interp_speed_{scale}.{end}" for scale in asked_for for end in ("json", "png")}
    for scale in asked_for:
        assert json.loads(records[f"interp_speed_{scale}.json"].read_text())["scale"] == scale
    said = capsys.readouterr().out
    assert said.index("scale small") < said.index("scale demo")


@pytest.mark.usefixtures("rated")
def test_the_full_scale_leaves_its_weights_on_disk(
    masked: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interp_speed, "bundle_of", lambda *_: masked)
    for scale, memory, row in (("full", "low", 1), ("small", "fast", IN_A_ROW)):
        record = tmp_path / f"{scale}.json"
        kept = ["--json", str(record), "--plot", str(tmp_path / "plot.png")]
        assert interp_speed.main(["--quick", "--scale", scale, "--side", "32", "--threads", "1", *kept]) == 0
        found = json.loads(record.read_text())
        assert (found["memory"], found["steps_in_a_row"], found["cells"][0]["side_px"]) == (memory, row, 32)


@pytest.mark.parametrize("arguments", [["--scale", "huge"], ["--methods", "magic"]])
def test_unknown_words_are_refused_with_the_known_ones(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        interp_speed.main(arguments)
    assert stopped.value.code == 2 and "choose from" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.networks
def test_a_random_bundle_is_what_its_weights_say(tmp_path: Path) -> None:
    group = replace(TINY, dim_mult=(1,), num_blocks=(2,), add_cross_attention=(True,), add_self_attention=(True,))
    networks = {"interpolation_unet": group, "masked_interpolation_unet": masked_shape(group)}
    said: list[str] = []
    found = write_random_bundle(open_bundle(DEMO), networks, tmp_path / "random", said.append)
    assert len(said) == 2 and [path.name for path in tmp_path.iterdir()] == ["random"]
    pipe = Pipeline(found, provider="cpu", threads=1)
    for method in METHODS:
        name = "interpolation_unet" if method == "group" else "masked_interpolation_unet"
        config = networks[name]
        network = load_half(untexted(config), found.folder / f"{name}.safetensors")
        assert parameters(found.folder / f"{name}.onnx") == sum(p.numel() for p in network.parameters())
        feed, x = fed(found, Cell(1, 8, 64), method)
        inputs = feed(x, 500.0)
        with torch.no_grad():
            wanted = network(*(torch.from_numpy(value) for value in inputs.values())).numpy()
        got = pipe.graph(name)(inputs)["prediction"]
        assert np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)) < 1e-3
    cell = measure_cell(pipe, Cell(1, 8, 64), METHODS, 1, 2, 1e9, None)
    flops = {name: design["flops"] for name, design in cell["designs"].items()}
    assert flops["masked_windows"] == pytest.approx(5 * flops["group"], rel=0.1)


def test_random_weights_keep_the_deviation_of_their_fan_in(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = torch.nn.Sequential(torch.nn.Conv2d(8, 64, 3), torch.nn.Linear(100, 50))
    write_random(module, tmp_path / "random.safetensors", numbers(0))
    real = torch.nn.Sequential(torch.nn.Conv2d(8, 64, 3), torch.nn.Linear(100, 50))
    load_half(real, tmp_path / "random.safetensors")
    weights = [(real[0].weight, 72), (real[1].weight, 100)]
    for weight, fan_in in weights:
        assert isinstance(weight, torch.Tensor)
        assert float(weight.detach().std()) == pytest.approx(fan_in**-0.5, rel=0.05)


def test_a_random_bundle_that_fails_leaves_nothing(tmp_path: Path) -> None:
    broken = replace(TINY, head_dim=7)
    with pytest.raises((ValueError, BundleError, RuntimeError)):
        write_random_bundle(open_bundle(DEMO), {"interpolation_unet": broken}, tmp_path / "random", lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_graphs_of_one_signature_keep_their_own_axes() -> None:
    """Both interpolation networks have inputs of the same names: the axes must come from the graph's own contract."""
    from export.onnx.trace import name_axes
    from ffrt.families import KANDINSKY_1_0

    inputs, outputs = KANDINSKY_1_0.contract["masked_interpolation_unet"]
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    infos = [
        [helper.make_tensor_value_info(t.name, types[t.dtype], [None] * len(t.shape)) for t in side]
        for side in (inputs, outputs)
    ]
    model = helper.make_model(helper.make_graph([], "empty", *infos))
    name_axes(model, (inputs, outputs))
    named = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert named == ["B*F", 9, "h", "w"]
