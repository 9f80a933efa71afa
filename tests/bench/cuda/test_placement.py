"""The CUDA variant of the demo bundle on the real CUDA provider, without a GPU; and how that is asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx_ir as ir
import pytest

from bench.cuda import placement
from bench.cuda.placement import Placement, graphs_of, letters_of, place, sizes_of, table
from bench.cuda.stand_ins import body, build_stand_ins
from bench.cuda.wheel import cache_folder, fetch_wheel
from ffrt.bundle import Bundle, open_bundle
from ffrt.errors import GraphInputError, ProviderError
from ffrt.stages.device_loop import UPDATE
from graphs.deep_cache import write_cached
from graphs.store import open_graph

DEMO = Path(__file__).resolve().parents[3] / "graphs" / "demo"
EXPECTED = {
    "text_encoder": (2, 2, 0, 0, 0, 2),
    "keyframe_unet_request": (1, 1, 0, 0, 0, 4),
    "keyframe_unet_schedule": (0, 0, 0, 0, 0, 1),
    "keyframe_unet": (16, 16, 219, 225, 22, 4),
    "interpolation_unet_request": (0, 0, 0, 0, 0, 2),
    "interpolation_unet_schedule": (0, 0, 0, 0, 0, 3),
    "interpolation_unet": (2, 2, 31, 73, 104, 6),
    "movq_encoder": (2, 2, 10, 15, 12, 2),
    "movq_decoder": (3, 3, 16, 24, 18, 2),
}
"""Attentions that are one kernel, and all; GroupNorms that are one kernel, and all: the demo is so narrow that many
norms have an odd number of channels in a group, which the kernel does not take. Then the Transposes left at most, most
of them around those, and the Casts."""


@pytest.fixture(scope="session")
def placed(wheel: Path, variant: Bundle) -> dict[str, Placement]:
    return {one.graph: one for one in place(graphs_of(variant), letters_of(variant), wheel)}


@pytest.mark.slow
def test_parts_hand_on_what_they_have_without_a_cast(variant: Bundle) -> None:
    for spec in variant.graphs.values():
        known: dict[str | None, ir.DataType | None] = {}
        for part in spec.parts:
            graph = open_graph(variant.path(part.file)).graph
            assert all(value.dtype == known.get(value.name, value.dtype) for value in graph.inputs)
            known |= {value.name: value.dtype for value in graph.outputs}
    step = {value.name: value for value in open_graph(variant.path("keyframe_unet.onnx")).graph.inputs}
    tokens = [value for value in step.values() if value.shape is not None and len(value.shape) == 3]
    assert [value.dtype for value in tokens] == [ir.DataType.FLOAT16] * 16, "keys and values of eight attentions"
    assert step["modulation.0"].dtype == ir.DataType.FLOAT, "an island"


@pytest.mark.slow
def test_every_part_is_placed_with_every_axis_fixed(placed: dict[str, Placement], variant: Bundle) -> None:
    files = [file.removesuffix(".onnx") for file in variant.files if file.endswith(".onnx")]
    assert sorted(placed) == sorted(files) and len(files) > len(variant.graphs)
    assert [one.unknown for one in placed.values()] == [[]] * len(placed)
    rows, frames, length = 2, variant.keyframes.num_frames, variant.text.max_tokens
    sizes = placed["keyframe_unet_request"].sizes
    assert (sizes["B"], sizes["T"], sizes["L"]) == (rows, frames, length)
    sizes = placed["keyframe_unet"].sizes
    assert (sizes["T"], sizes["B*T"]) == (frames, rows * frames) and "L" not in sizes
    handed = {axis: size for axis, size in sizes.items() if "_" in axis}  # VALUE_0, VALUE_1: from earlier parts
    assert handed["modulation.0_0"] == rows and handed["modulation.1_0"] == rows * frames
    assert {size for axis, size in handed.items() if axis.endswith("_1")} == {length}, "text keys and values"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_the_demo_runs_on_the_gpu_alone(placed: dict[str, Placement], name: str) -> None:
    one = placed[name]
    assert one.taken.keys() == {placement.CUDA}
    assert not one.on_cpu
    assert one.copies == 0
    *fused, transposes, casts = EXPECTED[name]
    assert [*one.attentions, *one.group_norms] == fused
    assert one.transposes <= transposes
    assert one.casts <= casts
    assert one.count("Conv") == one.after.get("com.ms.internal.nhwc::Conv", 0), "every convolution has channels last"


@pytest.mark.slow
def test_the_rest_of_a_step_runs_on_the_gpu(wheel: Path) -> None:
    sizes = {"B": 2, "n": 16, "c": 4, "h": 16, "w": 16, "p": 32, "q": 4, "N": 32, "k": 1, "l": 1}
    (one,) = place({"update": [UPDATE]}, sizes, wheel)
    assert one.unknown == [] and not one.on_cpu
    assert one.copies == 0, "the rank is read on the host alone, by TopK"


@pytest.mark.slow
def test_a_plain_graph_with_open_sizes_shows_what_the_passes_are_for(wheel: Path) -> None:
    (one,) = place({"movq_encoder": [DEMO / "movq_encoder.onnx"]}, {}, wheel)
    assert one.unknown == ["N", "H", "W"]
    assert one.attentions == (0, 2)
    assert one.group_norms == (0, 15)
    assert one.copies > 0, "sizes are worked out on the host and copied"
    (head, row) = table([one]).splitlines()
    assert head.split() == ["graph", "GPU", "CPU", "attentions", "GroupNorms", "Transposes", "Casts", "copies"]
    assert row.startswith("movq_encoder") and "0 of 2" in row and "0 of 15" in row


@pytest.mark.slow
def test_a_graph_that_is_refused_is_named(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.onnx").write_bytes((DEMO / "movq_encoder.onnx").read_bytes())  # without its weights beside it
    with pytest.raises(GraphInputError, match="odd: the CUDA provider would not take .*odd.onnx"):
        place({"whole": [DEMO / "movq_encoder.onnx"], "cut": [tmp_path / "odd.onnx"]}, {}, wheel)


@pytest.mark.slow
def test_the_command_shows_a_table_and_writes_json(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = {"movq_encoder": [DEMO / "movq_encoder.onnx"]}
    monkeypatch.setattr(placement, "graphs_of", lambda bundle: graphs)
    assert placement.main([str(DEMO), "--ort", str(wheel), "--ops", "--json", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "movq_encoder (N 16, H 128, W 128)" in shown and "27 com.ms.internal.nhwc::Conv" in shown
    assert "of unknown size" not in shown
    found = json.loads((tmp_path / "found.json").read_text())["graphs"]["movq_encoder"]
    assert found["group_norms"] == [0, 15] and found["copies"] == 0


def test_sizes_are_those_of_the_bundle() -> None:
    letters = letters_of(open_bundle(DEMO, verify=False))
    sizes = sizes_of(DEMO / "keyframe_unet.onnx", letters)
    assert sizes["B*T"] == sizes["B"] * sizes["T"] and sizes["h"] == letters["h"]
    alone = sizes_of(DEMO / "keyframe_unet.onnx", {"h": 8, "B": 2})
    assert alone["h"] == 8 and alone["B"] == 2 and alone["B*T"] is None and alone["w"] is None


@pytest.mark.slow
def test_the_shallow_network_of_step_caching_follows_its_whole_one(tmp_path: Path, wheel: Path) -> None:
    cached = write_cached(open_bundle(DEMO, verify=False), tmp_path / "cached")
    files = graphs_of(cached)["interpolation_unet"]
    assert [path.stem for path in files] == ["interpolation_unet", "interpolation_unet_shallow"]
    _, shallow = place({"interpolation_unet": files}, letters_of(cached), wheel)
    assert shallow.unknown == [] and shallow.sizes["h_deep"] == shallow.sizes["h"] // 2


def test_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert placement.main([str(DEMO), "--ort", str(tmp_path)]) == 1
    assert "expected an unpacked onnxruntime-gpu==1.31.1 wheel" in capsys.readouterr().err
    monkeypatch.setattr(placement, "has_gpu", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert placement.main([str(DEMO)]) == 1
    assert "python -m bench.cuda.placement BUNDLE --ort FOLDER" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("cp*")), "nothing is left behind"
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ProviderError, match="expected Linux"):
        fetch_wheel(cache_folder())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProviderError, match="sudo apt install gcc"):
        build_stand_ins(tmp_path / "provider.so", tmp_path)


def test_every_stand_in_is_a_function() -> None:
    assert body("cublasSetStream_v2") == "int cublasSetStream_v2() { return 0; }"
    assert "cudaMalloc(void **p, size_t n)" in body("cudaMalloc")
