"""`python -m graphs`: what its commands write, and how they refuse."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import onnx_ir as ir
import pytest

from ffrt import Bundle
from ffrt.backend.providers import PROVIDERS as ROWS
from ffrt.bundle import open_bundle
from graphs import optimise as driver
from graphs.__main__ import main, parser
from graphs.passes.table import PAD_TEXT, PASSES, PROVIDERS, SPLIT
from graphs.store import open_graph
from graphs.update import PLACE


def test_optimise_writes_a_bundle_and_reports_its_digest(
    tiny: Bundle, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["optimise", str(tiny.folder), "--out", str(empty / "new"), "--without", "drop_neutral", "split"]
    assert main(line) == 0
    output = capsys.readouterr().err
    bundle = open_bundle(empty / "new")
    assert bundle.digest[:12] in output and "keyframe_unet: 19 -> " in output
    assert bundle.optimised is not None and not {"drop_neutral", "split"} & set(bundle.optimised.passes)


def test_errors_name_the_argument_as_it_was_typed(
    tiny: Bundle, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["optimise", str(tiny.folder), "--out", str(empty / "new"), "--no-verify"]
    assert main(line) == 0
    capsys.readouterr()
    for arguments, message in (
        (line, "--out: expected a new folder, but"),
        (["optimise", str(empty / "new"), "--out", str(empty / "x")], "BUNDLE: expected a plain one, but"),
        ([*line, "--without", "fuse_group_norm"], "--without: expected some of"),
        ([*line, "--dtype", "bfloat16"], "--dtype: expected one of"),
    ):
        assert main(arguments) == 1
        assert capsys.readouterr().err.startswith(f"python -m graphs: {message}")
    assert [path.name for path in empty.iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("options", "dtype"),
    [(["--provider", "cuda"], "float16"), (["--provider", "cuda", "--dtype", "float32"], "float32"), ([], "float32")],
)
def test_graphs_for_cuda_are_float16_by_default(tiny: Bundle, empty: Path, options: list[str], dtype: str) -> None:
    assert main(["optimise", str(tiny.folder), "--out", str(empty / "new"), "--no-verify", *options]) == 0
    bundle = open_bundle(empty / "new")
    assert bundle.optimised is not None and bundle.optimised.dtype == dtype
    handed_on = open_graph(bundle.path("keyframe_unet_schedule.onnx")).graph.outputs[0]
    assert handed_on.dtype == ir.DataType[dtype.upper().replace("FLOAT32", "FLOAT")]
    assert open_graph(bundle.path("keyframe_unet.onnx")).graph.outputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (["optimise", "demo"], 2),
        (["optimise", "demo", "--provider", "tpu", "--out", "x"], 2),
        (["optimise", "demo", "--dtype", "int4", "--out", "x"], 2),
        (["optimise", "demo", "--without", "magic", "--out", "x"], 2),
        (["cache", "demo"], 2),
        (["shrink"], 2),
        ([], 2),
        (["--help"], 0),
        (["optimise", "--help"], 0),
    ],
)
def test_unknown_words_end_with_the_usage(
    line: list[str], code: int, capsys: pytest.CaptureFixture[str], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(empty)
    with pytest.raises(SystemExit) as end:
        main(line)
    assert end.value.code == code
    out, err = capsys.readouterr()
    assert "usage: python -m graphs" in (err if code else out)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_a_bundle_is_refused(folder: str, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimise", str(empty / folder), "--out", str(empty / "new")]) == 1
    assert "python -m graphs: " in capsys.readouterr().err
    assert list(empty.iterdir()) == []


PLACES = {
    "a folder": ("mine", "--out: expected a new folder, but"),
    "a link to nothing": ("dangling", "--out: expected a new folder, but"),
    "a file": ("mine/notes.txt", "--out: expected a new folder, but"),
    "below a file": ("mine/notes.txt/new", "--out: '.*' lies below '.*notes.txt', which is no folder"),
    "the working folder": (".", "--out: expected a new folder, but"),
    "the bundle itself": ("bundle", "--out: expected a new folder, but"),
    "in the bundle": ("bundle/new", "--out: .* lies in the bundle"),
}


@pytest.mark.parametrize("command", ["optimise", "cache"])
@pytest.mark.parametrize("case", PLACES)
def test_nothing_that_exists_is_replaced(
    own_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str, command: str
) -> None:
    folder = own_bundle.folder.parent
    place, message = PLACES[case]
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    (folder / "dangling").symlink_to("nowhere")
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main([command, "bundle", "--out", place]) == 1
    assert re.match(f"python -m graphs: {message}", capsys.readouterr().err)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("moment", ["before", "after"])
def test_ctrl_c_says_what_was_written(
    tiny: Bundle, empty: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    rename = os.rename

    def pressed(source: Path, target: Path) -> None:
        if target == empty / "new" and moment == "before":
            raise KeyboardInterrupt
        rename(source, target)
        if target == empty / "new":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "rename", pressed)
    assert main(["optimise", str(tiny.folder), "--out", str(empty / "new"), "--no-verify"]) == 130
    message = capsys.readouterr().err.splitlines()[-1]
    if moment == "after":
        assert message == f"python -m graphs: stopped; {empty / 'new'} had been written"
        assert open_bundle(empty / "new").name == tiny.name
    else:
        assert message == "python -m graphs: stopped; no bundle was written"
    assert [path.name for path in empty.iterdir()] == ["new"] * (moment == "after")


def test_update_writes_over_a_graph_and_over_nothing_else(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty / "notes.txt").write_text("mine")
    (empty / "old.onnx").write_text("old")
    (empty / "old.onnx").chmod(0o600)
    (empty / "kept.onnx").write_text("kept")
    (empty / "kept.onnx").chmod(0o444)
    for name, message in (("notes.txt", "expected a file ending in .onnx"), ("kept.onnx", "'.*' is read-only")):
        assert main(["update", "--out", str(empty / name)]) == 1
        assert re.match(f"python -m graphs: --out: {message}", capsys.readouterr().err)
    assert main(["update", "--out", str(empty / "old.onnx")]) == 0
    assert (empty / "old.onnx").read_bytes() == PLACE.read_bytes()
    assert (empty / "old.onnx").stat().st_mode & 0o777 == 0o600
    assert ((empty / "notes.txt").read_text(), (empty / "kept.onnx").read_text()) == ("mine", "kept")


def test_help_and_documentation_name_every_pass(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["optimise", "--help"])
    output = capsys.readouterr().out
    page = (Path(driver.__file__).parents[1] / "docs" / "passes.md").read_text(encoding="utf-8")
    for name in {*(row.name for row in PASSES), SPLIT, PAD_TEXT}:
        assert f"'{name}'" in output, name
        assert f"| `{name}` |" in page, name


def test_every_provider_runs_bundles_that_can_be_written() -> None:
    assert {target for row in ROWS.values() for target in row.runs} <= set(PROVIDERS)


def test_update_writes_the_graph_of_the_runtime(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = empty / "update.onnx"
    assert main(["update", "--out", str(path)]) == 0
    assert path.read_bytes() == PLACE.read_bytes()
    assert f"{path}: {path.stat().st_size} bytes" in capsys.readouterr().out
