"""A whole bundle rewritten: the same video, refused where it would be another, and nothing half written."""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import graphs.optimise as driver
from ffrt import Bundle, Pipeline
from ffrt.backend.graph import Graph
from ffrt.backend.providers import PROVIDER_NAMES, made_for
from ffrt.backend.session import Session
from ffrt.bundle import find_bundle, open_bundle
from ffrt.errors import BundleError, ProviderError
from graphs.__main__ import main, parser
from graphs.compare import FidelityError, psnr, relative_rms
from graphs.optimise import PassError, optimise
from graphs.passes import table as passes
from graphs.passes.attention import count_attentions
from graphs.passes.ir import constant, emit, nodes_of, open_graph, parameters
from graphs.passes.table import ON_REQUEST, PASSES, PROVIDERS, names_of

ONE_STEP = {"fps": 8, "num_inference_steps": 2, "height": 32, "width": 32}
REQUEST = ["skip_frames", "perturbation"]


@pytest.fixture(scope="module")
def plain() -> Bundle:
    """The demo without the network that only the benchmark needs."""
    demo = open_bundle(find_bundle("demo"), verify=False)
    return replace(demo, graphs={name: spec for name, spec in demo.graphs.items() if not name.startswith("masked")})


@pytest.fixture(scope="module")
def fast(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo optimised for the CPU, shared."""
    return optimise(plain, tmp_path_factory.mktemp("fast") / "demo", verify=False)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder in which a bundle is wanted; what a test looks at afterwards."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_the_demo_makes_the_same_video(plain: Bundle, fast: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """And works its text out once a request, its tables once a noise level, neither in the step."""
    want = Pipeline(plain, provider="cpu", threads=1)("a red circle moves right", seed=3, **ONE_STEP).frames
    files = {frozenset(part.inputs): part.file for graph in fast.graphs.values() for part in graph.parts[:-1]}
    counted: Counter[str] = Counter()
    run = Session.run_on_device

    def count(self, feed, outputs):
        counted[files.get(frozenset(feed), "step")] += 1
        return run(self, feed, outputs)

    monkeypatch.setattr(Session, "run_on_device", count)
    pipe = Pipeline(fast, provider="cpu", threads=1)
    got = pipe("a red circle moves right", seed=3, **ONE_STEP).frames
    assert psnr(float(np.square(got.astype(float) - want).mean())) > 60
    once = {"keyframe_unet_request.onnx": 1, "interpolation_unet_request.onnx": 1}
    tables = {"keyframe_unet_schedule.onnx": 2, "interpolation_unet_schedule.onnx": 2}
    assert {file: counted[file] for file in files.values() if counted[file] > 0} == once | tables
    counted.clear()
    np.testing.assert_array_equal(pipe("a red circle moves right", seed=3, **ONE_STEP).frames, got)
    assert set(counted) <= {"step"}, "the same request and schedule again"


def test_what_is_in_the_demos_graphs(plain: Bundle, fast: Bundle) -> None:
    made = {name: open_graph(fast.path(spec.file)) for name, spec in fast.graphs.items()}
    assert [part.inputs for part in fast.graphs["interpolation_unet"].parts][0] == tuple(REQUEST)
    given = [value.name for value in made["keyframe_unet"].graph.inputs]
    assert "context" not in given and "x" in given, "keys and values come in, text does not"
    for name, (fused, left) in {"interpolation_unet": (2, 0), "keyframe_unet": (12, 4), "text_encoder": (2, 0)}.items():
        assert count_attentions(made[name]) == (fused, left), name  # one of the keyframes' is worked out once a request
    assert not any(node.op_type == "Softmax" for node in made["interpolation_unet"].graph)
    pieces = [open_graph(fast.path(part.file)) for part in fast.graphs["interpolation_unet"].parts]
    before = parameters(open_graph(plain.path("interpolation_unet.onnx")))
    assert sum(map(parameters, pieces)) < 0.95 * before
    assert all(fast.path(part.file).stat().st_size < 5e5 for part in fast.graphs["interpolation_unet"].parts)
    assert fast.path("tokenizer.json").read_bytes() == plain.path("tokenizer.json").read_bytes()


def test_the_manifest_says_how_it_was_made(fast: Bundle, plain: Bundle) -> None:
    value = json.loads((fast.folder / "manifest.json").read_text())
    assert value["optimised"] == {"provider": "cpu", "passes": names_of("cpu"), "dtype": "float32"}
    assert (fast.name, fast.keyframes, fast.interpolation) == (plain.name, plain.keyframes, plain.interpolation)
    for name, spec in fast.graphs.items():
        assert (spec.inputs, spec.outputs) == (plain.graphs[name].inputs, plain.graphs[name].outputs)
        assert spec.parity == plain.graphs[name].parity, "nothing was compared, so nothing is added"


def test_comparisons_are_added_to_the_parity(tiny: Bundle, empty: Path) -> None:
    told: list[str] = []
    made = optimise(tiny, empty / "new", report=told.append)
    assert [line for line in told if "relative RMS" in line and "keyframe_unet" in line]
    for name, spec in made.graphs.items():
        assert 0 <= spec.parity.relative_rms < 1e-6
        assert spec.parity.floor == tiny.graphs[name].parity.floor


# --- which passes


def _marked(name: str, seen: list[str], provider: str = "cpu") -> passes.Pass:
    one = next(each for each in PASSES if each.name == name and provider in each.providers)

    def apply(model: ir.Model) -> ir.Model:
        seen.append(name)
        return model

    return replace(one, apply=apply)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_pass_runs_unless_it_is_left_out(
    tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    for name in names_of(provider):
        if name in (passes.SPLIT, passes.FIXED_TEXT):
            continue
        seen: list[str] = []
        monkeypatch.setattr(passes, "PASSES", (_marked(name, seen, provider),))
        optimise(tiny, empty / f"with {name}", provider=provider, verify=False)
        assert seen == [name] * len(tiny.graphs)
        made = optimise(tiny, empty / f"without {name}", provider=provider, verify=False, without=[name])
        assert seen == [name] * len(tiny.graphs), f"{name} ran though it was left out"
        assert made.optimised is not None and name not in made.optimised.passes


def test_without_the_split_graphs_stay_whole(tiny: Bundle, empty: Path) -> None:
    made = optimise(tiny, empty / "whole", without=["split"])
    assert all(spec.parts == () for spec in made.graphs.values())
    assert made.optimised is not None and "split" not in made.optimised.passes
    assert [path.suffix for path in made.folder.iterdir()].count(".onnx") == 5


@pytest.mark.parametrize("name", ON_REQUEST)
def test_a_pass_on_request_runs_only_then(
    tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(passes, "PASSES", (_marked(name, seen),))
    optimise(tiny, empty / "usual", verify=False)
    assert seen == []
    made = optimise(tiny, empty / "asked", verify=False, also=[name])
    assert len(seen) in (1, len(tiny.graphs))
    assert made.optimised is not None and name in made.optimised.passes


# --- refused, with nothing left

BAD_ARGUMENTS = {
    "provider": ({"provider": "tpu"}, r"provider: expected one of \['cpu', 'cuda', 'openvino'\], got 'tpu'"),
    "dtype": ({"dtype": "int4"}, r"dtype: expected one of \['float32', 'float16', 'bfloat16'\], got 'int4'"),
    "bfloat16": ({"dtype": "bfloat16"}, r"expected one of \['float32', 'float16'\] for 'cpu', got 'bfloat16'"),
    "float16": (
        {"provider": "openvino", "dtype": "float16"},
        r"expected one of \['float32', 'bfloat16'\] for 'openvino', got 'float16'",
    ),
    "pass": ({"without": ["magic"]}, "pass: expected some of .*'fold_merge'.*got 'magic'"),
    "another provider's": ({"without": ["fuse_group_norm"]}, "passes for 'cpu', got 'fuse_group_norm'"),
    "not on request": ({"also": ["fold_merge"]}, "on request, got 'fold_merge'"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_arguments_that_are_not_known(tiny: Bundle, empty: Path, case: str) -> None:
    arguments, want = BAD_ARGUMENTS[case]
    with pytest.raises(ValueError, match=want):
        optimise(tiny, empty / "new", **arguments)
    assert list(empty.iterdir()) == []


def test_what_exists_is_left_alone(tiny: Bundle, empty: Path) -> None:
    (empty / "new").write_text("mine")
    with pytest.raises(BundleError, match="new exists; remove it, or give another folder"):
        optimise(tiny, empty / "new")
    assert (empty / "new").read_text() == "mine" and len(list(empty.iterdir())) == 1


def test_a_bundle_does_not_hold_another(own_bundle: Bundle) -> None:
    before = sorted(own_bundle.folder.iterdir())
    with pytest.raises(BundleError, match="new lies in the bundle that it is made of"):
        optimise(own_bundle, own_bundle.folder / "below" / "new")
    assert sorted(own_bundle.folder.iterdir()) == before


def test_a_bundle_is_optimised_once(tiny: Bundle, empty: Path) -> None:
    made = optimise(tiny, empty / "once", verify=False)
    with pytest.raises(BundleError, match="once is optimised for 'cpu'; give the one it is made of"):
        optimise(made, empty / "twice", provider="cuda")
    assert [path.name for path in empty.iterdir()] == ["once"]


def _scaled(model: ir.Model) -> ir.Model:
    """A wrong pass: the last product comes out a percent too large."""
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
        optimise(tiny, empty / "new", provider=provider)
    assert list(empty.iterdir()) == []


def test_numbers_that_overflow_are_refused(tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "relative_rms", lambda got, want: float("nan"))
    with pytest.raises(PassError):
        optimise(tiny, empty / "new")
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(("decibels", "refused"), [(34.9, True), (float("nan"), True), (35.0, False)])
def test_float16_is_held_to_35_decibels(
    tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch, decibels: float, refused: bool
) -> None:
    monkeypatch.setattr(driver, "measure", lambda plain, other, other_provider: decibels)
    if refused:
        with pytest.raises(FidelityError, match=r"expected 35 dB or more; nothing was written.*--dtype float32"):
            optimise(tiny, empty / "new", provider="cuda", dtype="float16")
        assert list(empty.iterdir()) == []
        return
    made = optimise(tiny, empty / "new", provider="cuda", dtype="float16")
    assert made.optimised is not None
    assert (made.optimised.provider, made.optimised.dtype, made.optimised.psnr) == ("cuda", "float16", 35.0)
    assert [path.name for path in empty.iterdir()] == ["new"]
    with pytest.raises(ProviderError, match="optimised for 'cuda'.*python -m graphs optimise BUNDLE --provider cpu"):
        Graph(made, "keyframe_unet", provider="cpu")


def test_float32_takes_no_video(tiny: Bundle, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "measure", None)
    made = optimise(tiny, empty / "new")
    assert made.optimised is not None and made.optimised.psnr is None


@pytest.mark.parametrize(
    ("fault", "code"), [(OSError(errno.ENOSPC, "No space left on device"), 1), (KeyboardInterrupt(), 130)]
)
@pytest.mark.parametrize("where", ["write_graph", "write_like", "Graph"])
def test_a_full_disk_and_ctrl_c_leave_nothing(
    tiny: Bundle,
    empty: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: BaseException,
    code: int,
    where: str,
) -> None:
    real = getattr(driver, where)
    calls: list[str] = []

    def fails(*arguments, **named):
        calls.append(where)
        if len(calls) == (1 if where == "write_like" else 3):
            raise fault
        return real(*arguments, **named)

    monkeypatch.setattr(driver, where, fails)
    assert main(["optimise", str(tiny.folder), "--out", str(empty / "new")]) == code
    assert list(empty.iterdir()) == []
    told = capsys.readouterr().err.splitlines()[-1]
    assert ("No space left" if code == 1 else "stopped; no bundle was written") in told


def test_a_file_that_is_no_graph(own_bundle: Bundle, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own_bundle.folder / "manifest.json"
    value = json.loads(path.read_text())
    raw = b"not a graph"
    own_bundle.path("movq_decoder.onnx").write_bytes(raw)
    value["files"]["movq_decoder.onnx"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    path.write_text(json.dumps(value))
    assert main(["optimise", str(own_bundle.folder), "--out", str(empty / "new")]) == 1
    assert "movq_decoder.onnx is no ONNX graph" in capsys.readouterr().err
    assert list(empty.iterdir()) == []


# --- the command


def test_the_command(tiny: Bundle, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["optimise", str(tiny.folder), "--out", str(empty / "new"), "--without", "drop_neutral", "split"]
    assert main(line) == 0
    told = capsys.readouterr().err
    made = open_bundle(empty / "new")
    assert made.digest[:12] in told and "keyframe_unet: 19 -> " in told
    assert made.optimised is not None and not {"drop_neutral", "split"} & set(made.optimised.passes)
    assert main(line) == 1
    assert "new exists; remove it" in capsys.readouterr().err
    assert main(["optimise", str(tiny.folder), "--out", str(empty / "x"), "--without", "fuse_group_norm"]) == 1
    assert "the passes for 'cpu', got 'fuse_group_norm'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "want"),
    [(["--provider", "cuda"], "float16"), (["--provider", "cuda", "--dtype", "float32"], "float32"), ([], "float32")],
)
def test_cuda_is_float16_unless_asked(tiny: Bundle, empty: Path, words: list[str], want: str) -> None:
    assert main(["optimise", str(tiny.folder), "--out", str(empty / "new"), "--no-verify", *words]) == 0
    made = open_bundle(empty / "new")
    assert made.optimised is not None and made.optimised.dtype == want
    handed_on = open_graph(made.path("keyframe_unet_schedule.onnx")).graph.outputs[0]
    assert handed_on.dtype == ir.DataType[want.upper().replace("FLOAT32", "FLOAT")]
    assert open_graph(made.path("keyframe_unet.onnx")).graph.outputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["optimise", "demo"], 2),
        (["optimise", "demo", "--provider", "tpu", "--out", "x"], 2),
        (["optimise", "demo", "--dtype", "int4", "--out", "x"], 2),
        (["shrink"], 2),
        ([], 2),
        (["optimise", "demo", "--without", "magic", "--out", "x"], 2),
        (["--help"], 0),
        (["optimise", "--help"], 0),
    ],
)
def test_words_that_the_command_does_not_know(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(empty)
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == code
    out, err = capsys.readouterr()
    assert "usage: python -m graphs" in (err if code else out)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_bundle_that_is_none(folder: str, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimise", str(empty / folder), "--out", str(empty / "new")]) == 1
    assert "python -m graphs: " in capsys.readouterr().err
    assert list(empty.iterdir()) == []


def test_help_names_every_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["optimise", "--help"])
    told = capsys.readouterr().out
    page = (Path(driver.__file__).parents[1] / "docs" / "passes.md").read_text(encoding="utf-8")
    for name in {*(one.name for one in PASSES), passes.SPLIT, passes.FIXED_TEXT}:
        assert f"'{name}'" in told, name
        assert f"| `{name}` |" in page, name


def test_the_command_that_an_error_names_knows_its_provider() -> None:
    assert {made_for(word) for word in PROVIDER_NAMES} <= set(passes.PROVIDERS)


def test_a_graph_that_gives_zeros_is_compared_too() -> None:
    zeros = np.zeros(3)
    assert relative_rms(zeros, zeros) == 0 and relative_rms(np.ones(3), zeros) == np.inf
