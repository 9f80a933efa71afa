"""The CUDA variant of the demo bundle on the real CUDA provider, without a GPU; and how that is asked for.

The wheel of onnxruntime-gpu (256 MB) is fetched once into the user's cache folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ffrt.bundle import open_bundle
from ffrt.errors import GraphInputError, ProviderError
from graphs import placement
from graphs.channels_last import channels_last_views
from graphs.cuda_stand_ins import body, build_stand_ins
from graphs.model import open_graph, write_graph
from graphs.passes import apply, names_of
from graphs.placement import Placement, cache_folder, fetch_wheel, letters_of, place, sizes_of, table

DEMO = Path(__file__).resolve().parents[1] / "graphs" / "demo"
EXPECTED = {
    "text_encoder": (2, 2, 0, 0, 0), "keyframe_unet": (17, 17, 219, 225, 22),
    "interpolation_unet": (2, 2, 31, 73, 102), "movq_encoder": (2, 2, 10, 15, 12), "movq_decoder": (3, 3, 16, 24, 34),
}  # fmt: skip
"""Attentions that are one kernel, and all; GroupNorms that are one kernel, and all: the demo is so narrow that many
norms have an odd number of channels in a group, which the kernel does not take. Last, the Transposes left, most
of them around those."""


@pytest.fixture(scope="module")
def wheel() -> Path:
    try:
        return fetch_wheel(cache_folder())
    except ProviderError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def placed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Placement]:
    folder = tmp_path_factory.mktemp("cuda")
    graphs = {name: folder / f"{name}.onnx" for name in EXPECTED}
    for path in graphs.values():
        model = apply(open_graph(DEMO / path.name), "cuda", names_of("cuda"))
        write_graph(channels_last_views(model), path, half=True)
    return {one.graph: one for one in place(graphs, letters_of(open_bundle(DEMO, verify=False)), wheel)}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_demo_runs_on_the_gpu_alone(placed: dict[str, Placement], name: str) -> None:
    one = placed[name]
    assert one.taken.keys() == {placement.CUDA}
    assert not one.on_cpu
    assert one.copies == 0
    *fused, transposes = EXPECTED[name]
    assert [*one.attentions, *one.group_norms] == fused
    assert one.transposes <= transposes
    assert one.count("Conv") == one.after.get("com.ms.internal.nhwc::Conv", 0), "every convolution has channels last"


def test_a_plain_graph_with_open_sizes_shows_what_the_passes_are_for(wheel: Path) -> None:
    (one,) = place({"movq_encoder": DEMO / "movq_encoder.onnx"}, {}, wheel)
    assert one.attentions == (0, 2)
    assert one.group_norms == (0, 15)
    assert one.copies > 0, "sizes are worked out on the host and copied"
    (head, row) = table([one]).splitlines()
    assert head.split() == ["graph", "GPU", "CPU", "attentions", "GroupNorms", "Transposes", "copies"]
    assert row.startswith("movq_encoder") and "0 of 2" in row and "0 of 15" in row


def test_a_graph_that_is_refused_is_named(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.onnx").write_bytes((DEMO / "movq_encoder.onnx").read_bytes())  # without its weights beside it
    with pytest.raises(GraphInputError, match="odd: the CUDA provider would not take .*odd.onnx"):
        place({"odd": tmp_path / "odd.onnx"}, {}, wheel)


def test_the_command_shows_a_table_and_writes_json(wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    graphs = {"movq_encoder": DEMO / "movq_encoder.onnx"}
    monkeypatch.setattr(placement, "graphs_of", lambda bundle: graphs)
    assert placement.main([str(DEMO), "--ort", str(wheel), "--ops", "--json", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "movq_encoder (N 16, H 128, W 128)" in shown and "27 com.ms.internal.nhwc::Conv" in shown
    found = json.loads((tmp_path / "found.json").read_text())["graphs"]["movq_encoder"]
    assert found["group_norms"] == [0, 15] and found["copies"] == 0


def test_sizes_are_those_of_the_bundle() -> None:
    letters = letters_of(open_bundle(DEMO, verify=False))
    sizes = sizes_of(DEMO / "keyframe_unet.onnx", letters)
    assert sizes["B*T"] == sizes["B"] * sizes["T"] and sizes["h"] == letters["h"]
    assert sizes_of(DEMO / "keyframe_unet.onnx", {"h": 8}) == {"h": 8}


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    assert placement.main([str(DEMO), "--ort", str(tmp_path)]) == 1
    assert "wanted an unpacked onnxruntime-gpu==1.31.1 wheel" in capsys.readouterr().err
    monkeypatch.setattr(placement, "has_gpu", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert placement.main([str(DEMO)]) == 1
    assert "python -m graphs.placement BUNDLE --ort FOLDER" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("cp*")), "nothing is left behind"
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ProviderError, match="wanted Linux"):
        fetch_wheel(cache_folder())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProviderError, match="sudo apt install gcc"):
        build_stand_ins(tmp_path / "provider.so", tmp_path)


def test_every_stand_in_is_a_function() -> None:
    assert body("cublasSetStream_v2") == "int cublasSetStream_v2() { return 0; }"
    assert "cudaMalloc(void **p, size_t n)" in body("cudaMalloc")
