"""Sessions: arrays that stay on the device, errors that say what helps, and nothing of the process that is touched."""

from __future__ import annotations

import dataclasses
import io
import logging
import sys
import threading
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from ffrt import Bundle, GraphInputError, OutOfMemoryError, ProviderError
from ffrt.backend.arrays import DeviceArray
from ffrt.backend.graph import Graph
from ffrt.backend.onnxruntime_session import OnnxRuntimeSession
from ffrt.backend.processors import processors
from ffrt.backend.providers import CPU, CUDA, PROVIDERS
from ffrt.backend.session import Session


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


def test_running_out_of_memory_says_what_helps(
    tiny: Bundle, latent: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 99")

    decoder = Session(tiny.path("movq_decoder.onnx"), "movq_decoder", provider="cpu", threads=1)
    with monkeypatch.context() as patched:
        patched.setattr(OnnxRuntimeSession, "run", fails)
        with pytest.raises(OutOfMemoryError, match=r"movq_decoder ran out of memory.*\[2, 4, 3, 5\].*memory=\"low\""):
            decoder.run({"latent": latent})
    assert decoder.run({"latent": latent})["image"].shape == (2, 3, 24, 40)
    monkeypatch.setitem(PROVIDERS, "cpu", dataclasses.replace(CPU, open=fails))
    with pytest.raises(OutOfMemoryError, match='movq_decoder ran out of memory when it was opened.*memory="low" holds'):
        Session(tiny.path("movq_decoder.onnx"), "movq_decoder", provider="cpu")


def test_opening_graphs_leaves_stdout_to_the_program(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a session that cannot be had, ONNX Runtime would print why, and what it takes instead."""
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)
    seen = []
    opening = threading.Event()

    def look() -> None:
        while not opening.is_set():
            seen.append(sys.stdout is own)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(5):
            Session(tiny.path("movq_decoder.onnx"), "movq_decoder", provider="cpu", threads=1)
            with pytest.raises(ProviderError):
                Session(tiny.path("movq_decoder.onnx"), "g", provider="cpu", provider_options={"no_such_option": 1})
    finally:
        opening.set()
        watcher.join()
    assert all(seen) and len(seen) > 0 and own.getvalue() == ""


@pytest.mark.parametrize(("threads", "spins"), [(None, True), (1, True), (1 + processors().count, False)])
def test_threads_spin_while_they_are_alone_and_never_after_a_run(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, threads: int | None, spins: bool
) -> None:
    """A neighbour pays for a spinning thread with a processor."""
    seen: list[ort.SessionOptions] = []
    real = ort.InferenceSession

    def opened(path: str, options: ort.SessionOptions, **others: Any) -> ort.InferenceSession:
        seen.append(options)
        return real(path, options, **others)

    monkeypatch.setattr(ort, "InferenceSession", opened)
    Graph(tiny, "movq_decoder", provider="cpu", threads=threads)
    assert seen[0].get_session_config_entry("session.force_spinning_stop") == "1"
    if spins:
        with pytest.raises(RuntimeError, match="does not have configuration"):
            seen[0].get_session_config_entry("session.intra_op.allow_spinning")
    else:
        assert seen[0].get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_auto_says_in_the_log_why_it_took_the_cpu(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no device")

    monkeypatch.setitem(PROVIDERS, "cuda", dataclasses.replace(CUDA, open=fails, package="numpy"))
    with caplog.at_level(logging.WARNING, "ffrt"):
        session = Session(tiny.path("movq_decoder.onnx"), "movq_decoder")
    assert session.provider == "cpu"
    assert "graph movq_decoder runs on the CPU: provider 'cuda' could not open graph movq_decoder" in caplog.text
    with pytest.raises(ProviderError, match="no device"):
        Session(tiny.path("movq_decoder.onnx"), "movq_decoder", provider="cuda")
