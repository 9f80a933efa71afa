"""A graph takes what its contract says, and a provider is what was asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffrt import Bundle, BundleError, GraphInputError, open_bundle
from ffrt.backend import graph
from ffrt.backend.axes import bind_axes
from ffrt.backend.graph import Graph


@pytest.fixture(scope="module")
def unet(tiny: Bundle) -> Graph:
    return Graph(tiny, "keyframe_unet", provider="cpu", threads=1)


def feed(rows: int = 2, frames: int = 3, tokens: int = 5) -> dict[str, np.ndarray]:
    return {
        "x": np.zeros((rows * frames, 4, 4, 4), np.float32),
        "time": np.zeros(rows, np.float32),
        "context": np.zeros((rows, tokens, 4), np.float32),
        "context_mask": np.ones((rows, tokens), bool),
        "temporal_positions": np.arange(frames),
    }


def test_a_graph_runs_and_reports_its_provider(unet: Graph) -> None:
    assert unet(feed())["prediction"].shape == (6, 4, 4, 4)
    assert unet(feed(1, 7, 2))["prediction"].shape == (7, 4, 4, 4)
    assert unet.provider == "cpu"


BAD_FEEDS = {
    "missing": (lambda f: f.pop("time"), ["expected the inputs", "'time'"]),
    "unknown": (lambda f: f.update(tiem=f["time"]), ["expected the inputs", "'tiem'"]),
    "list": (lambda f: f.update(time=[0.0, 0.0]), ["input time", "array", "list"]),
    "dtype": (lambda f: f.update(x=f["x"].astype(np.float64)), ["input x", "float32", "float64"]),
    "rank": (lambda f: f.update(x=f["x"][0]), ["input x", "B*T", "[4, 4, 4]"]),
    "empty": (lambda f: f.update(time=f["time"][:0]), ["input time", "[0]"]),
    "fixed": (lambda f: f.update(x=f["x"][:, :3]), ["input x", "axis 4", "4", "3"]),
    "letter": (lambda f: f.update(context_mask=f["context_mask"][:, :4]), ["context_mask", "axis L", "5", "4"]),
    "product": (lambda f: f.update(x=f["x"][:5]), ["input x", "axis B*T", "6", "'B': 2", "'T': 3", "5"]),
}


@pytest.mark.parametrize("case", BAD_FEEDS)
def test_a_feed_that_breaks_the_contract_is_refused(unet: Graph, case: str) -> None:
    spoil, words = BAD_FEEDS[case]
    spoilt = feed()
    spoil(spoilt)
    with pytest.raises(GraphInputError) as caught:
        unet(spoilt)
    for word in ["graph keyframe_unet", *words]:
        assert word in str(caught.value)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 40))
def test_a_product_agrees_with_its_letters_or_is_refused(rows: int, frames: int, both: int) -> None:
    axes = [("x", "B*T", both), ("time", "B", rows), ("positions", "T", frames)]
    if both == rows * frames:
        assert bind_axes(axes) == {"B": rows, "T": frames}
    else:
        with pytest.raises(ValueError, match=rf"input x.*{rows * frames}.*got {both}"):
            bind_axes(axes)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 40))
def test_a_product_tells_the_letter_that_is_missing(rows: int, frames: int, both: int) -> None:
    if both % rows == 0:
        assert bind_axes([("x", "B*G", both), ("time", "B", rows)])["G"] == both // rows
    else:
        with pytest.raises(ValueError, match=rf"multiple of {rows}, got {both}"):
            bind_axes([("x", "B*G", both), ("time", "B", rows)])


def change_manifest(bundle: Bundle, change) -> Bundle:
    path = bundle.folder / "manifest.json"
    value = json.loads(path.read_text())
    for name, entry in value["files"].items():
        raw = (bundle.folder / name).read_bytes()
        entry["bytes"], entry["sha256"] = len(raw), hashlib.sha256(raw).hexdigest()
    change(value)
    path.write_text(json.dumps(value))
    return open_bundle(bundle.folder)


def test_a_graph_that_differs_from_the_manifest_is_refused(own_bundle: Bundle) -> None:
    shutil.copy(own_bundle.path("movq_encoder.onnx"), own_bundle.path("movq_decoder.onnx"))
    changed = change_manifest(own_bundle, lambda value: None)
    with pytest.raises(BundleError, match=r"graph movq_decoder: the manifest has the inputs \['latent'\].*\['image'\]"):
        Graph(changed, "movq_decoder", provider="cpu")


def test_a_size_that_differs_from_the_manifest_is_refused(own_bundle: Bundle) -> None:
    def change(value: dict) -> None:
        value["graphs"]["movq_decoder"]["inputs"][0]["shape"][1] = 16

    with pytest.raises(BundleError, match="graph movq_decoder, input latent: .*16.*4"):
        Graph(change_manifest(own_bundle, change), "movq_decoder", provider="cpu")


def test_a_file_that_is_no_graph_is_refused(own_bundle: Bundle) -> None:
    own_bundle.path("movq_decoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(
        BundleError, match=r"movq_decoder\.onnx, byte 0: expected a field of ModelProto that bundles use"
    ):
        change_manifest(own_bundle, lambda value: None)


def save_weights(folder: Path, location: str) -> None:
    """Write the weights of the MoVQ decoder to an external file and point at `location`."""
    model = onnx.load(folder / "movq_decoder.onnx")
    onnx.save(
        model, folder / "movq_decoder.onnx", save_as_external_data=True, location="w.safetensors", size_threshold=0
    )
    model = onnx.load(folder / "movq_decoder.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    onnx.save(model, folder / "movq_decoder.onnx")


def test_numbers_that_are_not_finite_are_told(tiny: Bundle) -> None:
    latent = np.full((1, 4, 2, 2), np.nan, np.float32)
    with pytest.raises(GraphInputError, match="graph movq_decoder, output image: expected finite numbers"):
        Graph(tiny, "movq_decoder", provider="cpu", threads=1)({"latent": latent})


def test_external_weights_lie_beside_their_graph(own_bundle: Bundle) -> None:
    latent = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 4, 4, 4)
    want = Graph(own_bundle, "movq_decoder", provider="cpu")({"latent": latent})["image"]
    save_weights(own_bundle.folder, "w.safetensors")
    raw = (own_bundle.folder / "w.safetensors").read_bytes()
    listed = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    changed = change_manifest(own_bundle, lambda value: value["files"].update({"w.safetensors": listed}))
    np.testing.assert_array_equal(Graph(changed, "movq_decoder", provider="cpu")({"latent": latent})["image"], want)


def test_external_weights_may_not_leave_the_bundle(own_bundle: Bundle) -> None:
    save_weights(own_bundle.folder, "../w.safetensors")
    shutil.move(own_bundle.folder / "w.safetensors", own_bundle.folder.parent / "w.safetensors")
    with pytest.raises(
        BundleError, match=r"tensor 'weight' .*: expected its data in one of \[\], got '../w.safetensors'"
    ):
        change_manifest(own_bundle, lambda value: None)


LOW = """
import sys
import numpy as np
from ffrt import open_bundle
from ffrt.bundle import find_bundle
from ffrt.backend.graph import Graph

graph = Graph(open_bundle(find_bundle()), "keyframe_unet", provider="cpu", threads=1, memory=sys.argv[1])
rng = np.random.default_rng(0)
feed = {
    "x": rng.standard_normal((4, 4, 8, 8), dtype=np.float32),
    "time": np.array([500, 500], np.float32),
    "context": rng.standard_normal((2, 5, 96), dtype=np.float32),
    "context_mask": np.ones((2, 5), bool),
    "temporal_positions": np.array([0, 90]),
}
prediction = graph(feed)["prediction"]
anonymous = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
print(anonymous.split()[1], np.abs(prediction).mean(), prediction[0, 0, 0, 0])
"""


def test_low_memory_computes_the_same_and_holds_no_copy_of_the_weights() -> None:
    kilobytes, values = [], []
    for memory in ("fast", "low"):
        done = subprocess.run(
            [sys.executable, "-c", LOW, memory], check=False, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        anonymous, *rest = done.stdout.split()
        kilobytes.append(int(anonymous))
        values.append([float(value) for value in rest])
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4, atol=1e-5)
    assert kilobytes[0] - kilobytes[1] > 9_800  # the float16 weights alone are 9.8 MB


def test_an_output_that_breaks_the_contract_is_told(tiny: Bundle) -> None:
    spec = tiny.graphs["movq_decoder"]
    (image,) = spec.outputs
    wrong = dataclasses.replace(spec, outputs=(dataclasses.replace(image, shape=("N", 3, "h", "w")),))
    changed = dataclasses.replace(tiny, graphs={**tiny.graphs, "movq_decoder": wrong})
    decoder = Graph(changed, "movq_decoder", provider="cpu", threads=1)
    with pytest.raises(BundleError, match=r"graph movq_decoder, output image: .*'h', 'w'\], the graph gave .*16, 16"):
        decoder({"latent": np.zeros((1, 4, 2, 2), np.float32)})


def test_without_onnxruntime_the_import_of_a_pipeline_says_what_to_install() -> None:
    code = "import sys; sys.modules['onnxruntime'] = None\nfrom ffrt import Pipeline"
    path = str(Path(graph.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert 'PackageError: ffrt needs ONNX Runtime: type pip install "ffrt[cpu]"' in done.stderr
    assert 'pip install "ffrt[cuda]"' in done.stderr
