"""Engines that TensorRT builds: where they are kept, and that a damaged one is built again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import onnxruntime as ort
import pytest

from ffrt import Bundle, ProviderError
from ffrt.backend import onnxruntime
from ffrt.backend.engines import engines_folder
from ffrt.backend.graph import Graph
from ffrt.backend.providers import CUDA, OPENVINO
from ffrt.backend.runner import SessionOptions
from ffrt.backend.session import Session


class FakeSession:
    """Stands in for ort.InferenceSession: keeps its options, and fails where an engine is damaged."""

    opened: ClassVar[list[dict[str, dict[str, str]]]] = []
    settings: ClassVar[list[ort.SessionOptions]] = []
    run_fails = False

    def __init__(self, path: str, options: ort.SessionOptions, *, providers: list, **_: object) -> None:
        self.options = dict(providers)
        FakeSession.opened.append(self.options)
        FakeSession.settings.append(options)
        self.engines = Path(next(v for o in self.options.values() for k, v in o.items() if k.endswith("cache_path")))
        if not FakeSession.run_fails:
            self.check()
        if not (self.engines / "graph.engine").exists():
            (self.engines / "graph.engine").write_text("engine")

    def check(self) -> None:
        if any(file.read_text() == "damaged" for file in self.engines.iterdir()):
            raise RuntimeError("engine deserialisation failed")

    def get_providers(self) -> list[str]:
        return list(self.options)

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return self.options

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="latent", type="tensor(float)", shape=["N", 4, "h", "w"])]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image", type="tensor(float)", shape=["N", 3, "H", "W"])]

    def run(self, names: list[str], feed: dict[str, np.ndarray], options: object) -> list[np.ndarray]:
        if FakeSession.run_fails:
            FakeSession.run_fails = False
            self.check()
        return [np.zeros((1, 3, 16, 16), np.float32)]


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = ["TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*names, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", FakeSession)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "shared_arena", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    FakeSession.opened, FakeSession.run_fails = [], False
    return tmp_path / "ffrt" / "engines"


@pytest.mark.parametrize("provider", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("late", [False, True], ids=["opening", "first run"])
def test_a_damaged_engine_is_removed_and_built_again(
    tiny: Bundle, engines: Path, caplog: pytest.LogCaptureFixture, provider: str, late: bool
) -> None:
    own = engines / tiny.digest / provider / "movq_decoder"
    Graph(tiny, "movq_decoder", provider=provider)
    assert [file.name for file in own.iterdir()] == ["graph.engine"]
    (own / "graph.engine").write_text("damaged")
    (own / "timing.cache").write_text("old")
    (own.parent / "keyframe_unet").mkdir()
    FakeSession.opened, FakeSession.run_fails = [], late
    graph = Graph(tiny, "movq_decoder", provider=provider)
    assert graph({"latent": np.zeros((1, 4, 2, 2), np.float32)})["image"].shape == (1, 3, 16, 16)
    (record,) = [record for record in caplog.records if record.name == "ffrt"]
    assert re.search(r"movq_decoder was removed.*deserialisation failed.*built again", record.getMessage())
    assert len(FakeSession.opened) == 3, "one of them for the sizes of the run"
    assert sorted(path.name for path in own.parent.iterdir()) == ["keyframe_unet", "movq_decoder"]
    assert [(own / "graph.engine").read_text(), (own / "timing.cache").exists()] == ["engine", False]


def test_a_failure_without_an_engine_is_an_error_at_once(
    tiny: Bundle, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        FakeSession.opened.append({})
        raise RuntimeError("no device")

    monkeypatch.setattr(ort, "InferenceSession", fails)
    with pytest.raises(ProviderError, match="'tensorrt' could not open graph movq_decoder: no device; .*pip install"):
        Graph(tiny, "movq_decoder", provider="tensorrt")
    assert len(FakeSession.opened) == 1


def test_provider_options(engines: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    Session(path, "g", provider="tensorrt", optimised_for="cuda", engines=tmp_path / "e", cuda_graph=True)
    (found,) = FakeSession.opened
    assert list(found) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    cuda = found["CUDAExecutionProvider"]
    assert cuda.items() >= {"prefer_nhwc": "1", "cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": "0"}.items()
    sized = SessionOptions(cuda_graph=True, sizes={"B": 2})
    assert CUDA.options(sized)["enable_cuda_graph"] == "1", "not before the sizes are known"
    assert found["TensorrtExecutionProvider"]["trt_engine_cache_path"] == str(tmp_path / "e")
    plain = CUDA.options(SessionOptions())
    assert (plain["prefer_nhwc"], plain["enable_cuda_graph"]) == ("0", "0")
    asked = json.loads(OPENVINO.options(SessionOptions(threads=2))["load_config"])
    assert asked["CPU"].items() >= {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "2"}.items()


def test_the_options_of_the_caller_win(engines: Path, tmp_path: Path) -> None:
    options = {"trt_fp16_enable": True, "trt_engine_cache_enable": 0}
    Session(tmp_path / "g", "g", provider="tensorrt", engines=tmp_path / "e", provider_options=options)
    (found,) = FakeSession.opened
    own = {"trt_fp16_enable": "1", "trt_engine_cache_enable": "0", "trt_engine_cache_path": str(tmp_path / "e")}
    assert found["TensorrtExecutionProvider"].items() >= own.items()
    assert "trt_fp16_enable" not in found["CUDAExecutionProvider"]


@pytest.mark.parametrize(
    ("memory", "cuda_graph", "shared"), [("fast", False, True), ("fast", True, False), ("low", False, False)]
)
def test_a_recording_shares_no_memory(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str, cuda_graph: bool, shared: bool
) -> None:
    """It writes where its values lay, into what another session would have been given since."""
    monkeypatch.setattr(onnxruntime, "shared_arena", lambda: True)
    folder = tmp_path / "e"
    Session(tmp_path / "g", "g", provider="tensorrt", engines=folder, memory=memory, cuda_graph=cuda_graph)
    try:
        found = FakeSession.settings[-1].get_session_config_entry("session.use_env_allocators")
    except RuntimeError:  # was not set
        found = "0"
    assert found == str(int(shared))


def test_engines_lie_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for asked in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", asked)
        assert engines_folder() == tmp_path / ".cache" / "ffrt" / "engines"


def test_engines_are_not_kept_where_the_cache_folder_cannot_be_made(
    tiny: Bundle, engines: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ffrt").write_text("in the way")
    with pytest.raises(ProviderError):
        Graph(tiny, "movq_decoder", provider="tensorrt")  # the stand-in finds no folder among its options
    assert "engines are not kept" in caplog.text
