"""A whole bundle rewritten: the same video, refused if it would differ, and nothing half written."""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from ffrt import Bundle, Pipeline
from ffrt.backend.graph import Graph
from ffrt.backend.session import Session
from ffrt.bundle import find_bundle, open_bundle
from ffrt.errors import BundleError, ProviderError, RequestError
from graphs import compare
from graphs import optimise as driver
from graphs.__main__ import main
from graphs.compare import FidelityError, PassError
from graphs.metrics import psnr
from graphs.optimise import optimise
from graphs.passes import table as passes
from graphs.passes.ir import constant, emit, nodes_of
from graphs.passes.table import ON_REQUEST, PASSES, PROVIDERS, names_of
from graphs.store import open_graph
from tests.graphs.handmade import attentions, ops, parameters

ONE_STEP = {"fps": 8, "num_inference_steps": 2, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def plain() -> Bundle:
    """The demo without the network that only a benchmark uses."""
    demo = open_bundle(find_bundle("demo"), verify=False)
    return replace(demo, graphs={name: spec for name, spec in demo.graphs.items() if not name.startswith("masked")})


@pytest.fixture(scope="module")
def fast(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo optimised for the CPU, shared."""
    return optimise(plain, tmp_path_factory.mktemp("fast") / "demo", verify=False)


def test_the_demo_makes_the_same_video(plain: Bundle, fast: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text is computed once per request and its tables once per noise level, not in every step."""
    want = Pipeline(plain, provider="cpu", threads=1)("a red circle moves right", seed=3, **ONE_STEP).frames
    files = {frozenset(part.inputs): part.file for graph in fast.graphs.values() for part in graph.parts[:-1]}
    counted: Counter[str] = Counter()
    run = Session.run_on_device

    def count(self, feed, outputs, cancellation=None):
        counted[files.get(frozenset(feed), "step")] += 1
        return run(self, feed, outputs, cancellation)

    monkeypatch.setattr(Session, "run_on_device", count)
    pipe = Pipeline(fast, provider="cpu", threads=1)
    got = pipe("a red circle moves right", seed=3, **ONE_STEP).frames
    assert psnr(got, want) > 60
    once = {"keyframe_unet_request.onnx": 1, "interpolation_unet_request.onnx": 1}
    tables = {"keyframe_unet_schedule.onnx": 2, "interpolation_unet_schedule.onnx": 2}
    assert {file: counted[file] for file in files.values() if counted[file] > 0} == once | tables
    counted.clear()
    np.testing.assert_array_equal(pipe("a red circle moves right", seed=3, **ONE_STEP).frames, got)
    assert set(counted) <= {"step"}, "the same request and schedule need no part again"


def test_attention_is_fused_and_text_leaves_the_step(plain: Bundle, fast: Bundle) -> None:
    steps = {name: open_graph(fast.path(spec.file)) for name, spec in fast.graphs.items()}
    parts = fast.graphs["interpolation_unet"].parts
    assert parts[0].inputs == ("skip_frames", "perturbation")
    inputs = [value.name for value in steps["keyframe_unet"].graph.inputs]
    assert "context" not in inputs and "x" in inputs, "keys and values come in, text does not"
    for name, (fused, left) in {"interpolation_unet": (2, 0), "keyframe_unet": (12, 4), "text_encoder": (2, 0)}.items():
        assert attentions(steps[name]) == (fused, left), name  # one of the keyframes' moved to the request part
    assert ops(steps["interpolation_unet"])["Softmax"] == 0
    before = parameters(open_graph(plain.path("interpolation_unet.onnx")))
    assert sum(parameters(open_graph(fast.path(part.file))) for part in parts) < 0.95 * before
    assert all(fast.path(part.file).stat().st_size < 5e5 for part in parts)
    assert fast.path("tokenizer.json").read_bytes() == plain.path("tokenizer.json").read_bytes()


def test_the_manifest_says_how_it_was_made(fast: Bundle, plain: Bundle) -> None:
    value = json.loads((fast.folder / "manifest.json").read_text())
    assert value["optimised"] == {"provider": "cpu", "passes": names_of("cpu"), "dtype": "float32"}
    assert (fast.name, fast.keyframes, fast.interpolation) == (plain.name, plain.keyframes, plain.interpolation)
    for name, spec in fast.graphs.items():
        assert (spec.inputs, spec.outputs) == (plain.graphs[name].inputs, plain.graphs[name].outputs)
        assert spec.parity == plain.graphs[name].parity, "nothing was compared, so nothing is added"


def test_measured_errors_are_added_to_the_parity(tiny: Bundle, empty: Path) -> None:
    lines: list[str] = []
    optimised = optimise(tiny, empty / "new", report=lines.append)
    assert [line for line in lines if "relative RMS" in line and "keyframe_unet" in line]
    for name, spec in optimised.graphs.items():
        assert 0 <= spec.parity.relative_rms < 1e-6
        assert spec.parity.floor == tiny.graphs[name].parity.floor


def _recording(name: str, runs: list[str], provider: str = "cpu") -> passes.Pass:
    """The row of a pass that records its runs and changes nothing."""

    def apply(model: ir.Model) -> ir.Model:
        runs.append(name)
        return model

    return replace(next(row for row in PASSES if row.name == name and row.is_for(provider)), apply=apply)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_pass_runs_unless_it_is_left_out(
    tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    for name in names_of(provider):
        if name in (passes.SPLIT, passes.PAD_TEXT):
            continue
        runs: list[str] = []
        monkeypatch.setattr(passes, "PASSES", (_recording(name, runs, provider),))
        optimise(tiny, empty / f"with {name}", provider=provider, verify=False)
        assert runs == [name] * len(tiny.graphs)
        without = optimise(tiny, empty / f"without {name}", provider=provider, verify=False, without=[name])
        assert runs == [name] * len(tiny.graphs), f"{name} ran though it was left out"
        assert without.optimised is not None and name not in without.optimised.passes


def test_graphs_stay_whole_without_split(tiny: Bundle, empty: Path) -> None:
    whole = optimise(tiny, empty / "whole", without=["split"])
    assert all(spec.parts == () for spec in whole.graphs.values())
    assert whole.optimised is not None and "split" not in whole.optimised.passes
    assert [path.suffix for path in whole.folder.iterdir()].count(".onnx") == 5


@pytest.mark.parametrize("name", ON_REQUEST)
def test_a_pass_on_request_runs_only_then(
    tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    runs: list[str] = []
    monkeypatch.setattr(passes, "PASSES", (_recording(name, runs),))
    optimise(tiny, empty / "default", verify=False)
    assert runs == []
    requested = optimise(tiny, empty / "requested", verify=False, also=[name])
    assert len(runs) in (1, len(tiny.graphs))
    assert requested.optimised is not None and name in requested.optimised.passes


BAD_ARGUMENTS = {
    "provider": ({"provider": "tpu"}, r"provider: expected one of \['cpu', 'cuda', 'openvino'\], got 'tpu'; type"),
    "dtype": ({"dtype": "int4"}, r"dtype: expected one of \['float32', 'float16'\] for 'cpu', got 'int4'"),
    "bfloat16": ({"dtype": "bfloat16"}, r"expected one of \['float32', 'float16'\] for 'cpu', got 'bfloat16'"),
    "float16": (
        {"provider": "openvino", "dtype": "float16"},
        r"expected one of \['float32', 'bfloat16'\] for 'openvino', got 'float16'; without it, bfloat16 is used",
    ),
    "pass": ({"without": ["magic"]}, "without: expected some of .*'fold_merge'.*got 'magic'; type .*optimise --help"),
    "another provider's": ({"without": ["fuse_group_norm"]}, "passes for 'cpu', got 'fuse_group_norm'"),
    "not on request": ({"also": ["fold_merge"]}, "also: .* on request, got 'fold_merge'; type .*optimise --help"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_unknown_arguments_are_refused(tiny: Bundle, empty: Path, case: str) -> None:
    arguments, message = BAD_ARGUMENTS[case]
    with pytest.raises(RequestError, match=message):
        optimise(tiny, empty / "new", **arguments)
    assert list(empty.iterdir()) == []


def test_nothing_is_overwritten(tiny: Bundle, empty: Path) -> None:
    (empty / "new").write_text("mine")
    with pytest.raises(BundleError, match="new exists; remove it, or give another folder"):
        optimise(tiny, empty / "new")
    assert (empty / "new").read_text() == "mine" and len(list(empty.iterdir())) == 1


def test_a_bundle_is_not_written_into_another(own_bundle: Bundle) -> None:
    before = sorted(own_bundle.folder.iterdir())
    with pytest.raises(BundleError, match="out: .*new lies in the bundle that it is made from"):
        optimise(own_bundle, own_bundle.folder / "below" / "new")
    assert sorted(own_bundle.folder.iterdir()) == before


ALWAYS = ["fold_merge", "merge_pointwise", "constant_attention", "join_modulation", "drop_neutral"]
RUN: dict[str, list[str]] = {
    "cpu": ["layer_norm", "fuse_attention", "single_token_attention", "masked_temporal", "split"],
    "cuda": ["fuse_attention", "fuse_group_norm", "channels_last_views", "split", "pad_text"],
    "openvino": ["channels_last_views", "split", "pad_text"],
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_passes_of_a_provider(provider: str) -> None:
    assert names_of(provider) == [*ALWAYS, *RUN[provider]]


def test_the_passes_that_run_where_they_are_asked_for() -> None:
    assert ON_REQUEST == ("scale_streams", "int8_text")


def test_a_bundle_is_optimised_once(tiny: Bundle, empty: Path) -> None:
    once = optimise(tiny, empty / "once", verify=False)
    with pytest.raises(BundleError, match="once is optimised for 'cpu'; give the one it was made from"):
        optimise(once, empty / "twice", provider="cuda")
    assert [path.name for path in empty.iterdir()] == ["once"]


def _scaled(model: ir.Model) -> ir.Model:
    """A wrong pass: the last product is one percent too large."""
    model = model.clone()
    for node in [*nodes_of(model, "Mul")][-1:]:
        factor = constant(model.graph, np.array(1.01, np.float32))
        node.replace_input_with(0, emit(node, "Mul", [node.inputs[0], factor]))
    return model


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_pass_that_is_wrong_is_refused(
    tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setattr(passes, "PASSES", (replace(PASSES[0], apply=_scaled),))
    with pytest.raises(PassError, match=r"text_encoder: .*at most 0.001 .*got 0.01.*nothing was written.*--without"):
        optimise(tiny, empty / "new", provider=provider, dtype="float32")
    assert list(empty.iterdir()) == []


def test_an_error_that_is_not_a_number_is_refused(tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "relative_rms", lambda got, want: float("nan"))
    with pytest.raises(PassError):
        optimise(tiny, empty / "new")
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(("decibels", "refused"), [(34.9, True), (float("nan"), True), (35.0, False)])
def test_float16_is_held_to_35_decibels(
    tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch, decibels: float, refused: bool
) -> None:
    monkeypatch.setattr(driver, "compare_videos", lambda plain, other, other_provider: decibels)
    if refused:
        with pytest.raises(FidelityError, match=r"expected 35 dB or more; nothing was written.*--dtype float32"):
            optimise(tiny, empty / "new", provider="cuda", dtype="float16")
        assert list(empty.iterdir()) == []
        return
    half = optimise(tiny, empty / "new", provider="cuda", dtype="float16")
    assert half.optimised is not None
    assert (half.optimised.provider, half.optimised.dtype, half.optimised.psnr) == ("cuda", "float16", 35.0)
    assert [path.name for path in empty.iterdir()] == ["new"]
    with pytest.raises(ProviderError, match="optimised for 'cuda'.*python -m graphs optimise BUNDLE --provider cpu"):
        Graph(half, "keyframe_unet", provider="cpu")


def test_videos_are_not_compared_in_float32(tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "compare_videos", None)
    exact = optimise(tiny, empty / "new")
    assert exact.optimised is not None and exact.optimised.psnr is None


@pytest.mark.parametrize(
    ("fault", "code"), [(OSError(errno.ENOSPC, "No space left on device"), 1), (KeyboardInterrupt(), 130)]
)
@pytest.mark.parametrize("where", [(driver, "write_graph"), (driver, "write_like"), (compare, "Graph")])
def test_a_full_disk_and_ctrl_c_leave_nothing_behind(
    tiny: Bundle,
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: BaseException,
    code: int,
    where: tuple[ModuleType, str],
) -> None:
    module, name = where
    function = getattr(module, name)
    calls: list[str] = []

    def fails(*arguments, **keywords):
        calls.append(name)
        if len(calls) == (1 if name == "write_like" else 3):
            raise fault
        return function(*arguments, **keywords)

    monkeypatch.setattr(module, name, fails)
    assert main(["optimise", str(tiny.folder), "--out", str(empty / "new")]) == code
    assert list(empty.iterdir()) == []
    message = capsys.readouterr().err.splitlines()[-1]
    assert ("is full; free some space" if code == 1 else "stopped; no bundle was written") in message


def test_a_file_that_is_no_graph(own_bundle: Bundle, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own_bundle.folder / "manifest.json"
    value = json.loads(path.read_text())
    raw = b"not a graph"
    own_bundle.path("movq_decoder.onnx").write_bytes(raw)
    value["files"]["movq_decoder.onnx"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    path.write_text(json.dumps(value))
    assert main(["optimise", str(own_bundle.folder), "--out", str(empty / "new")]) == 1
    assert "movq_decoder.onnx, byte 0: expected a field of ModelProto" in capsys.readouterr().err
    assert list(empty.iterdir()) == []
