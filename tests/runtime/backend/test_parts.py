"""A graph in parts: what is worked out how often, that it is never another prompt's, and what a bundle may not say."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from ffrt import Bundle, Pipeline
from ffrt.backend import parts
from ffrt.backend.arrays import DeviceArray, Tensor, on_host
from ffrt.backend.graph import Graph
from ffrt.backend.onnxruntime_session import OnnxRuntimeSession, device_array
from ffrt.backend.parts import Parts
from ffrt.bundle import GraphSpec, Optimised, Parity, PartSpec, open_bundle
from ffrt.errors import BundleError, GraphInputError, ProviderError
from ffrt.families import KANDINSKY_1_0
from graphs.optimise import optimise

TEXT, TABLES, STEP = "keyframe_unet_request.onnx", "keyframe_unet_schedule.onnx", "keyframe_unet.onnx"
Feed = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def apart(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with its U-Nets in three parts each, shared."""
    return optimise(tiny, tmp_path_factory.mktemp("apart") / "tiny", verify=False)


@pytest.fixture
def own(apart: Bundle, tmp_path: Path) -> Bundle:
    """One of the test's own, to be damaged."""
    shutil.copytree(apart.folder, tmp_path / "own")
    return open_bundle(tmp_path / "own")


@pytest.fixture
def runs(apart: Bundle, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file ran: what one part gives is the next one's, so all run on the device."""
    names = {part.outputs: part.file for graph in apart.graphs.values() for part in graph.parts}
    names[("prediction",)] = "step"
    counted: Counter[str] = Counter()
    run = OnnxRuntimeSession.run_on_device

    def count(self, feed, outputs, cancellation=None):
        counted[names.get(tuple(outputs), "other")] += 1
        return run(self, feed, outputs, cancellation)

    monkeypatch.setattr(OnnxRuntimeSession, "run_on_device", count)
    return counted


def feed(prompt: int, time: float, frames: int = 3, rows: int = 2, side: int = 2) -> Feed:
    rng = np.random.default_rng(prompt)
    return {
        "x": np.random.default_rng(int(time)).standard_normal((rows * frames, 4, side, side)).astype(np.float32),
        "time": np.full(rows, time, np.float32),
        "context": rng.standard_normal((rows, 5, 4)).astype(np.float32),
        "context_mask": np.arange(5) < rng.integers(1, 6, (rows, 1)),
        "temporal_positions": np.arange(frames),
    }


def same(got: Feed, want: Feed) -> None:
    np.testing.assert_allclose(got["prediction"], want["prediction"], rtol=1e-6, atol=1e-6)


def test_a_step_runs_only_what_has_changed(apart: Bundle, tiny: Bundle, runs: Counter[str]) -> None:
    split, plain = (Graph(one, "keyframe_unet", provider="cpu", threads=1) for one in (apart, tiny))
    for time in (999.0, 500.0, 1.0):
        same(split(feed(1, time)), plain(feed(1, time)))
    assert (runs[TEXT], runs[TABLES], runs["step"]) == (1, 3, 3)
    for time in (999.0, 500.0, 1.0):  # the same schedule again
        split(feed(1, time))
    assert (runs[TEXT], runs[TABLES], runs["step"]) == (1, 3, 6)


def test_prompts_that_take_turns_get_their_own(apart: Bundle, tiny: Bundle, runs: Counter[str]) -> None:
    """The text, or only its mask, differs; all else is the same."""
    split, plain = (Graph(one, "keyframe_unet", provider="cpu", threads=1) for one in (apart, tiny))
    told = []
    for prompt in (1, 2, 1, 2):
        given = feed(prompt, 7.0)
        same(split(given), plain(given))
        told.append(split(given)["prediction"])
    assert np.abs(told[0] - told[1]).max() > 1e-3
    assert (runs[TEXT], runs[TABLES]) == (2, 2)
    masked = {**feed(1, 7.0), "context_mask": np.eye(2, 5, dtype=bool)}
    same(split(masked), plain(masked))
    assert runs[TEXT] == 3


def test_other_sizes_are_other_requests(apart: Bundle, tiny: Bundle) -> None:
    split, plain = (Graph(one, "keyframe_unet", provider="cpu", threads=1) for one in (apart, tiny))
    for rows, frames, side in ((2, 3, 2), (1, 3, 2), (1, 1, 4), (2, 3, 2)):
        given = feed(1, 7.0, frames, rows, side)
        same(split(given), plain(given))


class Recorder:
    """A part that gives back nothing but zeros, and remembers what it was run on."""

    provider, device = "cpu", "cpu"

    def __init__(self, before: str, behind: str) -> None:
        self.inputs, self.outputs = [Tensor(before, "float32", None)], [Tensor(behind, "float32", None)]
        self.ran: list[tuple[np.dtype, tuple[int, ...]]] = []

    def device_array(self, array: np.ndarray) -> DeviceArray:
        return device_array(array, "cpu")

    def run_on_device(self, feed: Feed, outputs: list[str], cancellation: object = None) -> dict[str, DeviceArray]:
        value = on_host(feed[self.inputs[0].name])
        self.ran.append((value.dtype, value.shape))
        return {name: self.device_array(np.zeros(1, np.float32)) for name in outputs}


@pytest.mark.parametrize("other", [np.arange(8, dtype=np.float32).reshape(2, 4), np.arange(8.0).reshape(2, 2, 2)])
def test_what_differs_in_shape_or_dtype_alone_is_another_input(other: np.ndarray) -> None:
    """Equal bytes in another shape, equal numbers of another dtype: neither gets what was kept for the first."""
    one = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    text, step = Recorder("context", "text"), Recorder("text", "prediction")
    specs = (PartSpec(TEXT, ("context",), ("text",)), PartSpec(STEP, ("text",), ("prediction",)))
    contract = [spec for spec in KANDINSKY_1_0.contract["keyframe_unet"][0] if spec.name == "context"]
    whole = Parts("keyframe_unet", contract, list(zip(specs, (text, step), strict=True)), lambda *_: text)
    for context in (one, one, other, one, other):
        whole.run_on_device({"context": context}, ["prediction"])
    assert text.ran == [(one.dtype, one.shape), (other.dtype, other.shape)]


def test_a_device_array_that_was_written_over_is_seen(apart: Bundle, tiny: Bundle) -> None:
    split, plain = (Graph(one, "keyframe_unet", provider="cpu", threads=1) for one in (apart, tiny))
    given = feed(1, 7.0)
    context = split.session.device_array(given["context"].copy())  # on the CPU the same memory
    same({"prediction": split.on_device({**given, "context": context})["prediction"].numpy()}, plain(given))
    context.update(given["context"] + 1)
    other = {**given, "context": given["context"] + 1}
    same({"prediction": split.on_device({**given, "context": context})["prediction"].numpy()}, plain(other))


@pytest.mark.parametrize("limit", [0, 200])
def test_what_is_kept_has_a_limit(
    apart: Bundle, tiny: Bundle, runs: Counter[str], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """The newest of each part stays: a step needs it. The text of a request is used in every step and stays as well."""
    split, plain = (Graph(one, "keyframe_unet", provider="cpu", threads=1) for one in (apart, tiny))
    for time in range(30):
        split(feed(1, time))
    assert len(split.session.kept) == 31, "all tables of a schedule fit"
    monkeypatch.setattr(parts, "KEPT_BYTES", limit)
    runs.clear()
    for time in range(100, 130):
        same(split(feed(1, time)), plain(feed(1, time)))
        kept = split.session.kept
        held = sum(value.numpy().nbytes for outputs in kept for value in outputs.values())
        assert len(kept) == 2 or held <= limit
    assert (runs[TEXT], runs[TABLES]) == (0, 30)


def test_a_video_works_the_text_out_once_a_request(apart: Bundle, tiny: Bundle, runs: Counter[str]) -> None:
    split, plain = (Pipeline(one, provider="cpu", threads=1) for one in (apart, tiny))
    videos = [split(prompt, fps=2, num_inference_steps=3).frames for prompt in ("a red circle", "a blue square")]
    assert (runs[TEXT], runs[TABLES]) == (2, 6), "the tiny network adds time and text in one table"
    again = split("a red circle", fps=2, num_inference_steps=3).frames
    assert (runs[TEXT], runs[TABLES]) == (2, 6)
    np.testing.assert_array_equal(again, videos[0])
    assert (videos[0] != videos[1]).any()
    for prompt, video in zip(("a red circle", "a blue square"), videos, strict=True):
        want = plain(prompt, fps=2, num_inference_steps=3).frames
        assert np.abs(video.astype(int) - want).max() <= 1


def test_all_passes_of_interpolation(apart: Bundle, tiny: Bundle, runs: Counter[str]) -> None:
    split, plain = (Pipeline(one, provider="cpu", threads=1) for one in (apart, tiny))
    video, want = (one("a red circle", fps=30, num_inference_steps=2).frames for one in (split, plain))
    assert np.abs(video.astype(int) - want).max() <= 1
    assert runs["interpolation_unet_request.onnx"] == 2, "once a frame rate"
    assert runs["interpolation_unet_schedule.onnx"] == 4


def groups(skip: list[int], perturbation: list[float]) -> Feed:
    return {
        "x": np.ones((2 * len(skip), 20, 2, 2), np.float32),
        "time": np.full(2, 9, np.float32),
        "skip_frames": np.array(skip),
        "perturbation": np.array(perturbation, np.float32),
    }


@pytest.mark.parametrize("count", [1, 3])
def test_one_number_stands_for_all_groups(apart: Bundle, tiny: Bundle, count: int) -> None:
    split, plain = (Graph(one, "interpolation_unet", provider="cpu", threads=1) for one in (apart, tiny))
    given = groups([4] * count, [0.5] * count)
    same(split(given), plain(given))


def test_groups_that_differ_are_refused(apart: Bundle) -> None:
    graph = Graph(apart, "interpolation_unet", provider="cpu", threads=1)
    want = r"graph interpolation_unet, input skip_frames: .*same number 3 times.*\[3, 3, 1\].*bundle that it was made"
    with pytest.raises(GraphInputError, match=want):
        graph(groups([3, 3, 1], [0.0] * 3))
    on_device = graph.session.device_array(np.array([0, 0.1], np.float32))
    with pytest.raises(GraphInputError, match="input perturbation: expected the same number 2 times"):
        graph({**groups([3, 3], [0.0] * 2), "perturbation": on_device})


def test_a_feed_is_held_to_the_contract_of_the_whole(apart: Bundle) -> None:
    graph = Graph(apart, "keyframe_unet", provider="cpu", threads=1)
    good = feed(1, 7.0)
    for bad, want in (
        ({**good, "context": good["context"][:1]}, "expected axis B to be"),
        ({**good, "time": good["time"].astype(np.float64)}, "input time: expected float32, got float64"),
        ({key: value for key, value in good.items() if key != "context_mask"}, "expected the inputs"),
    ):
        with pytest.raises(GraphInputError, match=want):
            graph(bad)


# --- what a manifest may not say

TOLD = PartSpec("early.onnx", ("context",), ("told",))
LAST = PartSpec("keyframe_unet.onnx", ("x", "told"), ("prediction",))


@pytest.mark.parametrize(
    ("told", "want"),
    [
        (
            (PartSpec("early.onnx", ("secret",), ("told",)), LAST),
            r"parts.early.onnx.inputs.*some of .*'context'.*secret",
        ),
        ((LAST, TOLD), "parts.keyframe_unet.onnx.inputs.*told"),
        ((TOLD,), "parts: expected 'keyframe_unet.onnx' last"),
        ((TOLD, PartSpec("keyframe_unet.onnx", ("x",), ("told",))), "parts.keyframe_unet.onnx.outputs.*prediction"),
    ],
)
def test_parts_that_do_not_fit_are_refused(told: tuple[PartSpec, ...], want: str) -> None:
    with pytest.raises(BundleError, match=want):
        GraphSpec("keyframe_unet.onnx", *KANDINSKY_1_0.contract["keyframe_unet"], Parity(0.0, 0.0, 1e-3), told)


def change(folder: Path, edit: Callable[[dict], None]) -> Bundle:
    """The manifest of a bundle edited, its digests taken again."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    for name, entry in value["files"].items():
        raw = (folder / name).read_bytes()
        entry["bytes"], entry["sha256"] = len(raw), hashlib.sha256(raw).hexdigest()
    edit(value)
    path.write_text(json.dumps(value))
    return open_bundle(folder)


def _unknown_input(value: dict) -> None:
    value["graphs"]["keyframe_unet"]["parts"][0]["inputs"] = ["context", "password"]


def _no_file(value: dict) -> None:
    del value["files"][TEXT]


def _folder(value: dict) -> None:
    value["graphs"]["keyframe_unet"]["parts"][0]["file"] = "../request.onnx"


def _old(value: dict) -> None:
    value["graphs"]["keyframe_unet"]["parts"][0]["weight"] = 1


@pytest.mark.parametrize(
    ("edit", "want"),
    [
        (_unknown_input, "graphs.keyframe_unet.parts.*password"),
        (_no_file, f"files: expected an entry for '{TEXT}'"),
        (_folder, "files: expected an entry for '../request.onnx'"),
        (_old, r"parts\[0\].*no other keys.*weight"),
    ],
)
def test_a_manifest_that_was_tampered_with(own: Bundle, edit: Callable[[dict], None], want: str) -> None:
    with pytest.raises(BundleError, match=want):
        change(own.folder, edit)


def test_a_part_that_is_missing_or_changed(own: Bundle) -> None:
    path = own.path(TEXT)
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + b"?")
    with pytest.raises(BundleError, match=f"{TEXT}: sha256 .* expected"):
        open_bundle(own.folder)
    path.unlink()
    with pytest.raises(BundleError, match=f"{TEXT} is missing"):
        open_bundle(own.folder)


def test_a_part_with_other_inputs(own: Bundle) -> None:
    shutil.copyfile(own.path("interpolation_unet_request.onnx"), own.path(TEXT))
    changed = change(own.folder, lambda value: None)
    with pytest.raises(BundleError, match=f"graph keyframe_unet, {TEXT}: the manifest has the inputs .*'skip_frames'"):
        Graph(changed, "keyframe_unet", provider="cpu")


def test_a_part_with_other_numbers(own: Bundle) -> None:
    model = onnx.load(own.path(TEXT))
    positions = next(value for value in model.graph.input if value.name == "temporal_positions")
    positions.type.tensor_type.elem_type = onnx.TensorProto.INT32
    onnx.save(model, own.path(TEXT))
    changed = change(own.folder, lambda value: None)
    with pytest.raises(BundleError, match="input temporal_positions: the manifest says int64, the graph int32"):
        Graph(changed, "keyframe_unet", provider="cpu")


def test_a_provider_that_it_was_not_made_for(own: Bundle) -> None:
    assert own.optimised is not None and own.optimised.provider == "cpu"

    def edit(value: dict) -> None:
        value["optimised"]["provider"] = "cuda"

    with pytest.raises(ProviderError, match=r"python -m graphs optimise BUNDLE --provider cpu --out FOLDER"):
        Graph(change(own.folder, edit), "keyframe_unet", provider="cpu")


def test_what_a_manifest_says_of_the_rewrite_survives(apart: Bundle) -> None:
    value = json.loads((apart.folder / "manifest.json").read_text())
    assert [part["file"] for part in value["graphs"]["keyframe_unet"]["parts"]] == [TEXT, TABLES, STEP]
    assert "parts" not in value["graphs"]["movq_decoder"]
    told = open_bundle(apart.folder).optimised
    assert told == apart.optimised == Optimised("cpu", tuple(value["optimised"]["passes"]), "float32")
