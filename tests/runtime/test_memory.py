"""Too little memory is said before the run, with what would fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ffrt import Bundle, OutOfMemoryError, Pipeline
from ffrt.backend import free_memory as free_module
from ffrt.backend.free_memory import FreeMemory, free_memory
from ffrt.bundle import FileSpec, GraphSpec, PartSpec, find_bundle, open_bundle
from ffrt.memory import Need, check_memory, wanted_bytes

NEED = Need(128, 128, 30, (2, 2), "fast", on_gpu=False)


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return open_bundle(find_bundle())


def test_more_of_anything_needs_more(demo: Bundle) -> None:
    wanted = wanted_bytes(demo, NEED)
    assert 20e6 < wanted < 200e6  # the process takes 215 MB and more
    assert wanted_bytes(demo, replace(NEED, height=256)) > wanted
    assert wanted_bytes(demo, replace(NEED, memory="low")) < wanted
    assert wanted_bytes(demo, replace(NEED, fps=2)) < wanted
    low = replace(NEED, memory="low", on_gpu=True)
    assert wanted_bytes(demo, low) > wanted_bytes(demo, replace(low, height=96)), "weights and values of one stage"
    assert wanted_bytes(demo, replace(NEED, fps=8)) == wanted  # windows: no more groups at once


@pytest.mark.parametrize(
    ("free", "words"),
    [
        (34_000_000, [r'memory="low" or fps=2 or height=96, width=96$', "this machine leaves 34.0 MB"]),
        (10_000_000, [r"what would fit: height=|no smaller"]),
        (1000, ["no smaller request of this bundle would fit"]),
    ],
)
def test_what_would_fit_is_said_and_does_fit(demo: Bundle, free: int, words: list[str]) -> None:
    with pytest.raises(OutOfMemoryError, match="128x128 at 30 fps with memory='fast' needs at least") as caught:
        check_memory(demo, NEED, FreeMemory(free, "this machine"))
    for word in words:
        caught.match(word)


MEASURED = {
    "text_encoder": (10.47e9, {"": 9.95e9}),
    "keyframe_unet": (8.43e9, {"_request": 0.65e9, "_schedule": 2.80e9, "": 4.84e9}),
    "interpolation_unet": (8.26e9, {"_request": 0.01e9, "_schedule": 1.41e9, "": 4.58e9}),
    "movq_decoder": (7.34e9, {"": 0.32e9}),
}
"""Of the full-size 1.0 networks on a GPU at 512 px (`bench.device_memory`): the most that a stage took, and the weights
of its parts."""


def in_parts(spec: GraphSpec, parts: Iterable[str]) -> GraphSpec:
    """The same graph, each part handing on one value."""
    stem, inputs = spec.file.removesuffix(".onnx"), [tensor.name for tensor in spec.inputs]
    *slow, _ = parts
    told = [PartSpec(f"{stem}{part}.onnx", tuple(inputs), (part,)) for part in slow]
    last = PartSpec(spec.file, (*inputs, *slow), tuple(tensor.name for tensor in spec.outputs))
    return replace(spec, parts=(*told, last)) if told else spec


@pytest.mark.parametrize("name", MEASURED)
def test_what_was_measured_is_not_refused(demo: Bundle, name: str) -> None:
    most, weights = MEASURED[name]
    sizes = {f"{graph}{part}": 1e3 for graph, (_, parts) in MEASURED.items() for part in parts}
    sizes |= {f"{name}{part}": size for part, size in weights.items()}
    stored = {f"{stem}.safetensors": FileSpec(int(size), "0" * 64) for stem, size in sizes.items()}
    files = {**demo.files, **stored, **{f"{stem}.onnx": FileSpec(1000, "0" * 64) for stem in sizes}}
    graphs = {**demo.graphs, **{graph: in_parts(demo.graphs[graph], MEASURED[graph][1]) for graph in MEASURED}}
    full = replace(demo, files=files, graphs=graphs, keyframes=replace(demo.keyframes, num_frames=15))
    wanted = wanted_bytes(full, Need(512, 512, 30, (2, 2), "low", on_gpu=True))
    assert max(sum(weights.values()), 0.3 * most) <= wanted <= most


def test_what_fits_or_is_not_known_is_let_through(demo: Bundle) -> None:
    check_memory(demo, NEED, FreeMemory(wanted_bytes(demo, NEED), "this machine"))
    check_memory(demo, NEED, None)


def test_a_request_is_refused_by_the_call_before_a_graph_is_open(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Pipeline(tiny, provider="cpu", threads=1)
    monkeypatch.setattr("ffrt.memory.free_memory", lambda on_gpu: FreeMemory(10_000, "here"))
    with pytest.raises(OutOfMemoryError, match="32x32 at 8 fps"):
        own.generate("a red circle")
    assert own.open_graphs == ()
    monkeypatch.setattr("ffrt.memory.free_memory", lambda on_gpu: FreeMemory(10**9, "here"))
    assert own("a red circle", fps=2).num_frames == 3
    monkeypatch.setattr(
        "ffrt.memory.free_memory", lambda on_gpu: FreeMemory(0, "here")
    )  # the pipeline itself may have taken it
    assert own("a red circle", fps=2).num_frames == 3


def test_free_memory_is_asked_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_memory()
    assert free is None or 1 << 20 < free.bytes < 1 << 50

    def no_driver(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(free_module.ctypes, "CDLL", no_driver)
    assert free_memory(on_gpu=True) is None


class Driver:
    """A CUDA driver whose GPU has 5 of 8 GB free."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.calls: list[str] = []

    def __getattr__(self, name: str):
        def call(*arguments: object) -> int:
            self.calls.append(name)
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value, arguments[1]._obj.value = 5 * 10**9, 8 * 10**9
            return int(name == self.failing)

        return call


@pytest.mark.parametrize(
    "failing", ["", "cuInit", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemGetInfo_v2"]
)
def test_the_driver_is_asked_for_the_gpu(monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    driver = Driver(failing)
    monkeypatch.setattr(free_module.ctypes, "CDLL", lambda name: driver)
    assert free_memory(on_gpu=True) == (None if failing else FreeMemory(5 * 10**9, "the GPU"))
    took, gave = driver.calls.count("cuDevicePrimaryCtxRetain"), driver.calls.count("cuDevicePrimaryCtxRelease_v2")
    assert gave == (took if failing != "cuDevicePrimaryCtxRetain" else 0)
