"""A damaged graph never ends `python -m graphs` in another error than its own, and never leaves anything behind."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from ffrt import Bundle, BundleError, FfrtError, open_bundle
from graphs.__main__ import main
from graphs.deep_cache import write_cached
from graphs.optimise import optimise
from graphs.store import graph_of
from tests.damaged import damage_bytes, damage_graph, with_graph
from tests.linked import write_linked


def refusals(bundle: Bundle, out: Path, rng: random.Random, count: int) -> tuple[int, int]:
    """Optimise `count` damaged graphs; how many were refused, and how many with a foreign cause."""
    whole = {file: bundle.path(file).read_bytes() for file in bundle.files if file.endswith(".onnx")}
    refused = foreign = 0
    for _ in range(count):
        file = rng.choice(list(whole))
        damage = rng.choice((damage_bytes, damage_graph, damage_graph))
        folder = with_graph(bundle, file, damage(whole[file], rng))
        try:
            optimise(open_bundle(folder), out, provider=rng.choice(("cpu", "cuda", "openvino")), verify=False)
        except FfrtError as error:
            refused += 1
            foreign += not isinstance(error.__cause__, (FfrtError, type(None)))
        assert [path.name for path in out.parent.iterdir()] == ([out.name] if out.exists() else [])
        shutil.rmtree(out, ignore_errors=True)
        with_graph(bundle, file, whole[file])
    return refused, foreign


def test_damaged_graphs_are_refused_by_an_error_of_ours(own_bundle: Bundle, empty: Path) -> None:
    refused, foreign = refusals(own_bundle, empty / "new", random.Random(1), 16)
    assert refused > 6 and foreign > 0


@pytest.mark.attack
def test_hundreds_of_damaged_graphs(own_bundle: Bundle, empty: Path) -> None:
    refused, foreign = refusals(own_bundle, empty / "new", random.Random(2), 900)
    print(f"{refused} of 900 refused, {foreign} by what a pass or an engine raised")
    assert refused > 450


def test_the_command_names_graph_and_file(own_bundle: Bundle, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(own_bundle.path("keyframe_unet.onnx"))
    model.graph.node[0].ClearField("attribute")
    folder = with_graph(own_bundle, file := "keyframe_unet.onnx", model.SerializeToString())
    assert main(["optimise", str(folder), "--out", str(empty / "new"), "--no-verify"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("python -m graphs: graph keyframe_unet: expected ") and file in said
    assert said.endswith("; get the bundle again") and list(empty.iterdir()) == []


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_bundles_of_links_are_rewritten(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    """uv and conda make hard links, the cache of Hugging Face makes links; onnx_ir reads weights of neither."""
    bundle = write_linked(tmp_path / "bundle")
    (tmp_path / "links").mkdir()
    for path in bundle.folder.iterdir():
        link(path, tmp_path / "links" / path.name)
    (tmp_path / "links" / "README.md").write_text("not of the bundle")
    want, got = (
        optimise(open_bundle(folder), tmp_path / f"new {folder.name}", verify=False)
        for folder in (bundle.folder, tmp_path / "links")
    )
    assert got.files == want.files


def test_a_file_that_changed_is_not_rewritten(own_bundle: Bundle, empty: Path) -> None:
    own_bundle.path("LICENSE").write_text("MIT\n")
    with pytest.raises(BundleError, match="LICENSE has changed since it was opened"):
        optimise(own_bundle, empty / "new")
    shutil.copyfile(own_bundle.path("movq_encoder.onnx"), own_bundle.path("movq_decoder.onnx"))
    with (
        pytest.raises(BundleError, match=r"movq_decoder\.onnx has changed since it was opened"),
        graph_of(own_bundle, "movq_decoder"),
    ):
        pass
    assert list(empty.iterdir()) == []


def test_step_caching_of_a_graph_without_its_attributes_is_refused(own_bundle: Bundle, empty: Path) -> None:
    model = onnx.load(own_bundle.path("keyframe_unet.onnx"))
    model.graph.node.append(helper.make_node("Concat", ["prediction", "prediction"], ["end"]))
    folder = with_graph(own_bundle, "keyframe_unet.onnx", model.SerializeToString())
    with pytest.raises(
        BundleError, match=r"graph keyframe_unet: expected .* got one that cannot be rewritten \(KeyError"
    ):
        write_cached(open_bundle(folder), empty / "new")
    assert list(empty.iterdir()) == []
