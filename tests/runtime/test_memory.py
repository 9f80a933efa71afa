"""Too little memory is said before the run, with what would fit."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.checkpoints.defaults import INTERPOLATION_1_1, KEYFRAMES_1_1
from ffrt import Bundle, Context, OutOfMemoryError, Pipeline
from ffrt.backend import free_memory as free_module
from ffrt.backend.free_memory import FreeMemory, free_memory
from ffrt.bundle import FileSpec, GraphSpec, PartSpec, find_bundle, open_bundle
from ffrt.families import KANDINSKY_1_1, OPTIONAL_GRAPHS
from ffrt.generation.needs import TEXT, keyframe_runs, need_of_request
from ffrt.memory.estimate import Run, estimate
from ffrt.memory.room import UNFITTED, Need, Room, check_memory, wanted
from ffrt.sampling import Sampling
from ffrt.stages.keyframes import ImageConditioning

SAMPLING = Sampling(1, 2.0, "ddim")


@functools.cache
def opened() -> Bundle:
    return open_bundle(find_bundle())


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return opened()


def need_of(bundle: Bundle, height: int = 128, width: int = 128, fps: int = 30, scale: float = 2.0) -> Need:
    sampling = replace(SAMPLING, guidance_scale=scale)
    return need_of_request(bundle, height, width, fps, sampling, sampling, None, None)


def room(free: int, memory: str = "fast") -> Room:
    return Room(memory, False, FreeMemory(free, "this machine"))


@settings(max_examples=60, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 127), st.integers(1, 127)),
    more=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    rates=st.tuples(st.sampled_from([2, 8, 30]), st.sampled_from([2, 8, 30])),
    scales=st.tuples(st.sampled_from([0.0, 2.0]), st.sampled_from([0.0, 2.0])),
    memory=st.sampled_from(["fast", "low"]),
    on_gpu=st.booleans(),
)
def test_more_of_anything_never_needs_less(
    sides: tuple[int, int],
    more: tuple[int, int],
    rates: tuple[int, int],
    scales: tuple[float, float],
    memory: str,
    on_gpu: bool,
) -> None:
    bundle = opened()
    less = need_of(bundle, 32 * sides[0], 32 * sides[1], min(rates), min(scales))
    larger = need_of(bundle, 32 * (sides[0] + more[0]), 32 * (sides[1] + more[1]), max(rates), max(scales))
    small, large = (wanted(bundle, need, memory, on_gpu) for need in (less, larger))
    assert small.taken <= large.taken
    assert small.least <= large.least <= large.taken
    assert wanted(bundle, less, "low", on_gpu).taken <= wanted(bundle, less, "fast", on_gpu).taken


def test_every_row_of_guidance_counts(demo: Bundle) -> None:
    picture = ImageConditioning(10, 3.0, 20)
    three = keyframe_runs(demo, SAMPLING, picture)
    two = keyframe_runs(demo, SAMPLING, replace(picture, guidance_scale=1.0))  # the row without the frame weighs 0
    assert [run.items for run in three] == [1, 3 * 16]
    assert [run.items for run in two] == [1, 2 * 16]
    assert [run.items for run in keyframe_runs(demo, SAMPLING, None)] == [2 * 16]


def test_one_graph_at_a_time_takes_less_than_all_and_more_than_the_largest(demo: Bundle) -> None:
    runs = need_of(demo).runs

    def taken(some: tuple[Run, ...]) -> int:
        return estimate(demo, some, 256, "low", False).taken

    assert max(taken((run,)) for run in runs) < taken(runs) < sum(taken((run,)) for run in runs)


@pytest.mark.parametrize(("free", "side"), [(150_000_000, 64), (140_000_000, 32)])
def test_what_would_fit_is_said_and_does_fit(demo: Bundle, free: int, side: int) -> None:
    words = f'what would fit: memory="low" or (fps=2 or )?height={side}, width={side}$'
    with pytest.raises(OutOfMemoryError, match="128x128 at 30 fps with memory='fast' needs at least") as caught:
        check_memory(demo, need_of(demo), room(free))
    caught.match(words)
    assert wanted(demo, need_of(demo), "low").taken <= free
    fits, next_larger = (wanted(demo, need_of(demo, one, one), "fast").taken for one in (side, side + 32))
    assert fits <= free < next_larger


def test_a_network_whose_width_no_convolution_says_is_taken_for_as_wide_as_its_weights(demo: Bundle) -> None:
    """The 64th part of the root of its parameters; the U-Net of the demo, 32 wide, has 4.9 million."""
    run = Run("keyframe_unet", 16)
    told, walked = estimate(demo, (run,), 2304, "fast", False), dict(demo.walked)
    file = demo.graphs["keyframe_unet"].file
    walked[file] = replace(walked[file], width=None)
    guessed = estimate(replace(demo, walked=walked), (run,), 2304, "fast", False)
    assert math.sqrt(walked[file].unpacked / 4) / 64 == pytest.approx(34.6, abs=0.2)
    assert 1 < guessed.taken / told.taken < 1.2


def test_nothing_is_promised_where_nothing_fits(demo: Bundle) -> None:
    with pytest.raises(OutOfMemoryError, match="no smaller request of this bundle would fit"):
        check_memory(demo, need_of(demo), room(1000))


def test_a_lower_rate_is_offered_where_it_helps(demo: Bundle) -> None:
    still = replace(need_of(demo), simpler=(("fps=2", (Run("movq_encoder", 1),)),))
    with pytest.raises(OutOfMemoryError, match=r"what would fit: fps=2 or height="):
        check_memory(demo, still, room(50_000_000, "low"))
    assert [told for told, _ in need_of(demo).simpler] == ["fps=8", "fps=2"]


def test_what_may_fit_is_let_through_with_a_warning(demo: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    asked = wanted(demo, need_of(demo), "fast")
    with caplog.at_level(logging.WARNING, "ffrt"):
        check_memory(demo, need_of(demo), room(asked.taken))
        check_memory(demo, need_of(demo), replace(room(0), free=None))
        assert caplog.records == []
        check_memory(demo, need_of(demo), room(asked.least))
    assert len(caplog.records) == 1
    assert "may not fit" in caplog.text
    with pytest.raises(OutOfMemoryError):
        check_memory(demo, need_of(demo), room(asked.least - 1))


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
    found = wanted(full, need_of(full, 512, 512), "low", on_gpu=True)
    assert found.least == found.taken
    assert max(sum(weights.values()), 0.3 * most) <= found.taken <= most


def texts() -> Context:
    rows = np.zeros((1, 4, 96), np.float32)
    return Context(rows, np.ones((1, 4), np.bool_), rows[0, 0])


def latents(side: int) -> np.ndarray:
    return np.zeros((16, 4, side, side), np.float32)


CALLS: dict[str, Callable[[Pipeline, int], object]] = {
    "a call": lambda pipe, side: pipe("a red circle", height=8 * side, width=8 * side),
    "generate": lambda pipe, side: pipe.generate("a red circle", height=8 * side, width=8 * side, fps=2),
    "keyframes": lambda pipe, side: pipe.keyframes(texts(), height=8 * side, width=8 * side),
    "interpolate": lambda pipe, side: pipe.interpolate(latents(side), fps=8),
    "masked": lambda pipe, side: pipe.interpolate(latents(side), fps=8, method="masked"),
    "decode": lambda pipe, side: pipe.decode(latents(side), 2),
    "encode_frames": lambda pipe, side: pipe.encode_frames(np.zeros((1, 8 * side, 8 * side, 3), np.uint8)),
}


@pytest.mark.parametrize("memory", ["fast", "low"])
def test_a_picture_of_4096_pixels_is_refused_by_every_stage(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Pipeline.from_pretrained("demo", provider="cpu", memory=memory)
    monkeypatch.setattr("ffrt.memory.room.free_memory", lambda on_gpu: FreeMemory(24 * 10**9, "here"))
    for name, call in CALLS.items():
        with pytest.raises(OutOfMemoryError, match=r"4096x4096 .*here leaves 24.0 GB; what would fit: .*height="):
            call(own, 512)
            pytest.fail(name)
    assert own.open_graphs == ()
    monkeypatch.setattr("ffrt.memory.room.free_memory", lambda on_gpu: FreeMemory(10_000, "here"))
    with pytest.raises(OutOfMemoryError, match="a prompt with memory="):
        own.encode("a red circle")
    assert own.open_graphs == ()


def of_1_1(demo: Bundle) -> Bundle:
    """The demo's files under the names and inputs of 1.1: enough to be refused."""
    specs = {
        name: replace(demo.graphs[name if name in demo.graphs else "movq_decoder"], inputs=inputs, outputs=outputs)
        for name, (inputs, outputs) in KANDINSKY_1_1.contract.items()
    }
    specs = {name: spec for name, spec in specs.items() if name not in OPTIONAL_GRAPHS}
    specs["image_unet"] = replace(specs["image_unet"], file="keyframe_unet.onnx")
    return replace(demo, family=KANDINSKY_1_1, graphs=specs, keyframes=KEYFRAMES_1_1, interpolation=INTERPOLATION_1_1)


def test_a_first_frame_counts_with_its_four_times_larger_area(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Pipeline(of_1_1(demo), provider="cpu")
    picture = np.zeros((64, 64, 3), np.uint8)
    monkeypatch.setattr("ffrt.memory.room.free_memory", lambda on_gpu: FreeMemory(5 * 10**8, "here"))
    with pytest.raises(OutOfMemoryError, match="the first frame of 512x512 with memory='fast'"):
        own.first_frame(texts(), height=512, width=512)
    with pytest.raises(OutOfMemoryError, match="keyframes of 512x512 with memory='fast'"):
        own.keyframes(texts(), height=512, width=512)
    with pytest.raises(OutOfMemoryError, match="256x256 at 2 fps"):
        own.generate("a red circle", height=256, width=256, fps=2)
    own.generate("a red circle", image=picture, height=256, width=256, fps=2)  # whose first frame is there
    assert own.open_graphs == ()


def test_an_engine_that_was_not_fitted_is_given_the_benefit_of_the_doubt(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenVINO decodes in half of what ONNX Runtime takes: a request of it is refused only far below the estimate."""
    need = need_of(tiny)
    least = wanted(tiny, need, "fast").least
    for fitted, free in ((True, least - 1), (False, int(UNFITTED * least) - 1)):
        with pytest.raises(OutOfMemoryError):
            check_memory(tiny, need, replace(room(free), fitted=fitted))
    with caplog.at_level(logging.WARNING, "ffrt"):
        check_memory(tiny, need, replace(room(least - 1), fitted=False))
    assert "may not fit" in caplog.text
    pytest.importorskip("openvino")
    need = Need("a prompt", 0, 0, (TEXT,))
    monkeypatch.setattr(
        "ffrt.memory.room.free_memory", lambda on_gpu: FreeMemory(wanted(tiny, need, "fast").least - 1, "here")
    )
    with Pipeline(tiny, provider="openvino") as pipe:
        pipe.encode("a red circle")
    with Pipeline(tiny, provider="cpu") as pipe, pytest.raises(OutOfMemoryError):
        pipe.encode("a red circle")


def test_a_request_is_refused_by_the_call_before_a_graph_is_open(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Pipeline(tiny, provider="cpu", threads=1)
    monkeypatch.setattr("ffrt.memory.room.free_memory", lambda on_gpu: FreeMemory(10_000, "here"))
    with pytest.raises(OutOfMemoryError, match="32x32 at 8 fps"):
        own.generate("a red circle")
    assert own.open_graphs == ()
    monkeypatch.setattr("ffrt.memory.room.free_memory", lambda on_gpu: FreeMemory(10**9, "here"))
    assert own("a red circle", fps=2).num_frames == 3
    monkeypatch.setattr(
        "ffrt.memory.room.free_memory", lambda on_gpu: FreeMemory(0, "here")
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
