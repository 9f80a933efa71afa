"""Sessions: arrays that stay on the device, runs that are stopped, providers and the engines they keep."""

from __future__ import annotations

import json
import os
import signal
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from ffrt import Bundle, Cancelled, EngineRebuilt, GraphInputError, OutOfMemoryError, Pipeline, ProviderError
from ffrt.backend import session
from ffrt.backend.graph import Graph
from ffrt.backend.providers import engines_folder, options_of
from ffrt.backend.session import DeviceArray, Session, check_provider
from ffrt.bundle import find_bundle, open_bundle
from ffrt.cli.main import _cancelled_by_signals

PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def decoder(tiny: Bundle) -> Session:
    return Session(tiny.path("movq_decoder.onnx"), "movq_decoder", provider="cpu", threads=1)


@pytest.fixture
def latent() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 4, 3, 5), dtype=np.float32)


def test_a_session_says_what_it_takes_and_gives(decoder: Session) -> None:
    assert [(t.name, t.dtype, t.shape) for t in decoder.inputs] == [("latent", "float32", ("N", 4, "h", "w"))]
    assert [t.name for t in decoder.outputs] == ["image"]
    assert (decoder.provider, decoder.device) == ("cpu", "cpu")


def test_device_arrays_go_in_and_come_out(decoder: Session, latent: np.ndarray) -> None:
    want = decoder.run({"latent": latent})["image"]
    there = decoder.device_array(latent)
    assert (there.dtype, there.shape, there.ndim, there.device) == (np.float32, (2, 4, 3, 5), 4, "cpu")
    np.testing.assert_array_equal(decoder.run({"latent": there})["image"], want)
    for feed in ({"latent": there}, {"latent": latent}):
        found = decoder.run_on_device(feed, ["image"])["image"]
        assert isinstance(found, DeviceArray) and found.shape == (2, 3, 24, 40)
        np.testing.assert_array_equal(found.numpy(), want)


def test_outputs_are_written_where_they_are_wanted(decoder: Session, latent: np.ndarray) -> None:
    there, into = decoder.device_array(latent.copy()), decoder.device_array(np.zeros((2, 3, 24, 40), np.float32))
    for scale in (1, 2):
        there.update(latent * scale)
        decoder.run_on_device({"latent": there}, {"image": into})
        np.testing.assert_array_equal(into.numpy(), decoder.run({"latent": latent * scale})["image"])
    with pytest.raises(GraphInputError, match=r"expected float32 \[2, 4, 3, 5\], got float32 \[1, 4, 3, 5\]"):
        there.update(latent[:1])


def test_a_graph_holds_device_arrays_to_its_contract(tiny: Bundle, latent: np.ndarray) -> None:
    graph = Graph(tiny, "movq_decoder", provider="cpu", threads=1)
    there = graph.session.device_array(latent)
    np.testing.assert_array_equal(
        graph.on_device({"latent": there})["image"].numpy(), graph({"latent": latent})["image"]
    )
    with pytest.raises(GraphInputError, match="input latent: expected axis 4 to be 4, got 3"):
        graph.on_device({"latent": graph.session.device_array(latent[:, :3])})


@pytest.fixture(scope="module")
def demo() -> Pipeline:
    return Pipeline(open_bundle(find_bundle()), provider="cpu", threads=1)


def test_a_run_stopped_in_the_middle_of_a_step_leaves_a_pipeline_that_works(
    demo: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"seed": 7, "fps": 2, "num_inference_steps": 1, "sampler": "ddim", "height": 64, "width": 64}
    want = demo(PROMPT, **request).frames
    demo.cancel()  # nothing is under way
    run, timer = Graph.on_device, threading.Timer(0.1, demo.cancel)

    def timed(self: Graph, feed: dict) -> dict:
        if self.name == "keyframe_unet":
            timer.start()
        return run(self, feed)

    with monkeypatch.context() as patched, pytest.raises(Cancelled, match="graph keyframe_unet was stopped before its"):
        patched.setattr(Graph, "on_device", timed)
        demo("a blue square", seed=1, fps=2, num_inference_steps=1, height=256, width=256)
    np.testing.assert_array_equal(demo(PROMPT, **request).frames, want)


def test_ctrl_c_does_not_wait_for_the_end_of_a_step(demo: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    run, ended = Graph.on_device, []
    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))

    def timed(self: Graph, feed: dict) -> dict:
        if self.name == "keyframe_unet":
            timer.start()
        found = run(self, feed)
        ended.append(self.name)
        return found

    monkeypatch.setattr(Graph, "on_device", timed)
    with pytest.raises(KeyboardInterrupt), _cancelled_by_signals(demo.cancel):
        demo("a blue square", seed=1, fps=2, num_inference_steps=1, height=256, width=256)
    assert ended == []
    assert signal.set_wakeup_fd(-1) == -1


def test_cancel_between_two_steps_ends_the_request_before_the_next(pipe: Pipeline) -> None:
    steps = pipe.generate(PROMPT, seed=3)
    next(steps)
    pipe.cancel()
    with pytest.raises(Cancelled, match="graph keyframe_unet was not started"):
        next(steps)
    assert pipe(PROMPT, seed=3).frames.shape == (9, 32, 32, 3)
    abandoned = pipe.generate(PROMPT)
    next(abandoned)
    pipe.cancel()
    abandoned.close()
    assert pipe(PROMPT, seed=3).num_frames == 9


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_low_memory_has_one_session_at_a_time(tiny: Bundle, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Session] = weakref.WeakSet()
    most = []
    init = Session.__init__

    def counted(self: Session, *arguments: object, **named: object) -> None:
        init(self, *arguments, **named)
        if self.name != "update":  # a graph without weights, which stays
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(Session, "__init__", counted)
    own = Pipeline(tiny, provider="cpu", threads=1, memory=memory)
    frames = own(PROMPT, fps=30, seed=5).frames
    assert most == ([1, 1, 1, 1] if memory == "low" else [1, 2, 3, 4])
    usual = Pipeline(tiny, provider="cpu", threads=1)(PROMPT, fps=30, seed=5).frames
    assert np.abs(frames.astype(int) - usual).max() <= 1
    if memory == "low":
        steps = own.generate(PROMPT)
        next(steps)
        own.cancel()
        with pytest.raises(Cancelled):
            next(steps)
        assert own.open_graphs == ()


class FakeSession:
    """Stands in for ort.InferenceSession: keeps its options, and fails where an engine is damaged."""

    opened: list[dict[str, dict[str, str]]] = []
    settings: list[ort.SessionOptions] = []
    run_fails = False

    def __init__(self, path: str, options: ort.SessionOptions, providers: list, disabled_optimizers: list) -> None:
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
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: [*names, "CPUExecutionProvider"])
    monkeypatch.setattr(session.ort, "InferenceSession", FakeSession)
    monkeypatch.setattr(session.ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(session, "_shared_arena", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    FakeSession.opened, FakeSession.run_fails = [], False
    return tmp_path / "ffrt" / "engines"


@pytest.mark.parametrize("word", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("late", [False, True], ids=["opening", "first run"])
def test_a_damaged_engine_is_removed_and_built_again(tiny: Bundle, engines: Path, word: str, late: bool) -> None:
    own = engines / tiny.digest / word / "movq_decoder"
    Graph(tiny, "movq_decoder", provider=word)
    assert [file.name for file in own.iterdir()] == ["graph.engine"]
    (own / "graph.engine").write_text("damaged")
    (own / "timing.cache").write_text("old")
    (own.parent / "keyframe_unet").mkdir()
    FakeSession.opened, FakeSession.run_fails = [], late
    with pytest.warns(EngineRebuilt, match=r"movq_decoder was removed.*deserialisation failed.*built again"):
        graph = Graph(tiny, "movq_decoder", provider=word)
        assert graph({"latent": np.zeros((1, 4, 2, 2), np.float32)})["image"].shape == (1, 3, 16, 16)
    assert len(FakeSession.opened) == 3, "one of them for the sizes of the run"
    assert sorted(path.name for path in own.parent.iterdir()) == ["keyframe_unet", "movq_decoder"]
    assert [(own / "graph.engine").read_text(), (own / "timing.cache").exists()] == ["engine", False]


def test_a_failure_without_an_engine_is_an_error_at_once(
    tiny: Bundle, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        FakeSession.opened.append({})
        raise RuntimeError("no device")

    monkeypatch.setattr(session.ort, "InferenceSession", fails)
    with pytest.raises(ProviderError, match="'tensorrt' could not open graph movq_decoder: no device; pip install"):
        Graph(tiny, "movq_decoder", provider="tensorrt")
    assert len(FakeSession.opened) == 1


def test_provider_options(engines: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    Session(path, "g", provider="tensorrt", optimised_for="cuda", engines=tmp_path / "e", cuda_graph=True)
    (found,) = FakeSession.opened
    assert list(found) == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    cuda = found["CUDAExecutionProvider"]
    assert cuda.items() >= {"prefer_nhwc": "1", "cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": "0"}.items()
    sized = session.Wanted(cuda_graph=True, sizes={"B": 2})
    assert options_of("cuda", sized)["enable_cuda_graph"] == "1", "not before the sizes are known"
    assert found["TensorrtExecutionProvider"]["trt_engine_cache_path"] == str(tmp_path / "e")
    plain = options_of("cuda", session.Wanted())
    assert (plain["prefer_nhwc"], plain["enable_cuda_graph"]) == ("0", "0")
    asked = json.loads(options_of("openvino", session.Wanted(threads=2))["load_config"])
    assert asked["CPU"].items() >= {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "2"}.items()


@pytest.mark.parametrize(
    ("memory", "cuda_graph", "shared"), [("fast", False, True), ("fast", True, False), ("low", False, False)]
)
def test_a_recording_shares_no_memory(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str, cuda_graph: bool, shared: bool
) -> None:
    """It writes where its values lay, into what another session would have been given since."""
    monkeypatch.setattr(session, "_shared_arena", lambda: True)
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


def test_a_cache_folder_that_cannot_be_made_is_told(tiny: Bundle, engines: Path, tmp_path: Path) -> None:
    (tmp_path / "ffrt").write_text("in the way")
    with pytest.warns(UserWarning, match="engines are not kept"), pytest.raises(ProviderError):
        Graph(tiny, "movq_decoder", provider="tensorrt")  # the stand-in finds no folder among its options


def test_a_bundle_runs_on_the_provider_it_was_optimised_for(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: names)
    assert [check_provider("auto", made) for made in (None, "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    assert check_provider("cuda", "cuda") == "cuda"
    with pytest.raises(ProviderError, match=r"'cpu'.*optimised for 'cuda'.*python -m graphs optimise .*--provider cpu"):
        check_provider("cpu", "cuda")
    with pytest.raises(ProviderError, match="optimised for 'cpu'.*--provider cuda --out FOLDER"):
        check_provider("cuda", "cpu")
    names.remove("CUDAExecutionProvider")
    with pytest.raises(ProviderError, match=r"'auto'.*optimised for 'cuda'.*--provider cpu"):
        check_provider("auto", "cuda")
    with pytest.raises(ProviderError, match="'cuda' is not in this build"):
        check_provider("cuda", "cuda")


def test_running_out_of_memory_says_what_helps(decoder: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 99")

    monkeypatch.setattr(decoder, "_session", SimpleNamespace(run=fails))
    with pytest.raises(OutOfMemoryError, match=r"movq_decoder ran out of memory.*\[1, 4, 2, 2\].*memory=\"low\""):
        decoder.run({"latent": np.zeros((1, 4, 2, 2), np.float32)})
