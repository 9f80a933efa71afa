"""A bundle of five tiny graphs with the right signatures, so that the runtime is tested without trained weights."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bench.cuda.wheel import cache_folder, fetch_wheel
from ffrt import Pipeline, ProviderError, bundle
from ffrt.families import KANDINSKY_1_0
from graphs.optimise import optimise

# A busy machine is no fault: hypothesis would fail an example that takes 200 ms.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell's background job starts with Ctrl-C ignored, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

Builder = Callable[[], tuple[list[onnx.NodeProto], dict[str, np.ndarray]]]
ROOT = Path(__file__).parent.parent
RELEASES = {"kv10": "1.0", "kv11": "1.1"}
"""Fixtures that are small releases as bundles, and the version of each."""
WIDTH = 4  # D
KEYFRAMES = 3  # T
MAX_TOKENS = 8
WORDS = ["a", "red", "blue", "circle", "square", "moving", "right", "left", "on", "black", "background"]
_DTYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


def save_graph(path: Path, name: str, nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    """Write nodes as the graph `name` of the format's contract, its constants as initializers."""
    inputs, outputs = KANDINSKY_1_0.contract[name]
    infos = [
        [helper.make_tensor_value_info(t.name, _DTYPES[t.dtype], list(t.shape)) for t in tensors]
        for tensors in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(list(nodes), name, *infos, initializer=tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def _text_encoder() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    nodes = [
        _node("Mul", "input_ids attention_mask", "kept"),
        _node("Cast", "kept", "kept_f", to=TensorProto.FLOAT),
        _node("Unsqueeze", "kept_f last", "column"),
        _node("Mul", "column direction", "context"),
        _node("Identity", "null", "null_embedding"),
    ]
    direction = np.linspace(0.05, 0.2, WIDTH, dtype=np.float32)
    return nodes, {"last": np.array([2]), "direction": direction, "null": np.full(WIDTH, -0.3, np.float32)}


def _keyframe_unet() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """tanh(0.6 x + 0.0007 time + mean of the unmasked context + 0.001 mean position), row by row of the guidance."""
    nodes = [
        _node("Cast", "context_mask", "mask_f", to=TensorProto.FLOAT),
        _node("Unsqueeze", "mask_f last", "mask_column"),
        _node("Mul", "context mask_column", "seen"),
        _node("ReduceMean", "seen axes12", "told", keepdims=0),
        _node("Cast", "temporal_positions", "positions_f", to=TensorProto.FLOAT),
        _node("ReduceMean", "positions_f", "position", keepdims=0),
        _node("Mul", "position milli", "position_m"),
        _node("Mul", "time rate", "time_m"),
        _node("Add", "told time_m", "told_timed"),
        _node("Add", "told_timed position_m", "offset"),
        _node("Unsqueeze", "offset one", "offset_column"),
        _node("Shape", "time", "rows"),
        _node("Concat", "rows minus_one", "flat_shape", axis=0),
        _node("Reshape", "x flat_shape", "flat"),
        _node("Mul", "flat scale", "flat_scaled"),
        _node("Add", "flat_scaled offset_column", "moved"),
        _node("Tanh", "moved", "bent"),
        _node("Shape", "x", "x_shape"),
        _node("Reshape", "bent x_shape", "prediction"),
    ]
    constants = {
        "last": np.array([2]),
        "one": np.array([1]),
        "axes12": np.array([1, 2]),
        "minus_one": np.array([-1]),
        "milli": np.float32(0.001),
        "rate": np.float32(0.0007),
        "scale": np.float32(0.6),
    }
    return nodes, {key: np.asarray(value) for key, value in constants.items()}


def _interpolation_unet() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """tanh(0.5 noised + mean left - mean right + 0.0007 mean time + 0.1 mean (skip_frames + perturbation))."""
    nodes = [
        _node("Split", "x parts", "left", axis=1),
        _node("ReduceMean", "left axis1", "left_mean", keepdims=1),
        _node("ReduceMean", "right axis1", "right_mean", keepdims=1),
        _node("Sub", "left_mean right_mean", "slope"),
        _node("Cast", "skip_frames", "skip_f", to=TensorProto.FLOAT),
        _node("Add", "skip_f perturbation", "condition"),
        _node("ReduceMean", "condition", "condition_mean", keepdims=0),
        _node("Mul", "condition_mean tenth", "condition_m"),
        _node("ReduceMean", "time", "time_mean", keepdims=0),
        _node("Mul", "time_mean rate", "time_m"),
        _node("Add", "condition_m time_m", "offset"),
        _node("Mul", "noised half", "noised_half"),
        _node("Add", "noised_half slope", "sloped"),
        _node("Add", "sloped offset", "moved"),
        _node("Tanh", "moved", "prediction"),
    ]
    del nodes[0].output[:]
    nodes[0].output.extend(["left", "noised", "right"])
    constants = {
        "parts": np.array([4, 12, 4]),
        "axis1": np.array([1]),
        "tenth": np.float32(0.1),
        "rate": np.float32(0.0007),
        "half": np.float32(0.5),
    }
    return nodes, {key: np.asarray(value) for key, value in constants.items()}


def _masked_interpolation_unet() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Half the noised frame, and a tenth of the mean skip value."""
    nodes = [
        _node("Slice", "x zero four one", "noised"),
        _node("Mul", "noised half", "kept"),
        _node("Cast", "skip_frames", "skip", to=TensorProto.FLOAT),
        _node("ReduceMean", "skip", "mean", keepdims=0),
        _node("Mul", "mean tenth", "offset"),
        _node("Add", "kept offset", "prediction"),
    ]
    constants = {word: np.array([value]) for word, value in (("zero", 0), ("one", 1), ("four", 4))}
    return nodes, {**constants, "half": np.asarray(np.float32(0.5)), "tenth": np.asarray(np.float32(0.1))}


def _movq_encoder() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    nodes = [
        _node("AveragePool", "image", "small", kernel_shape=[8, 8], strides=[8, 8]),
        _node("Conv", "small weight", "latent"),
    ]
    weight = np.vstack([np.eye(3), np.full((1, 3), 1 / 3)]).astype(np.float32)  # [4, 3]
    return nodes, {"weight": weight[:, :, None, None]}


def _movq_decoder() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    nodes = [_node("ConvTranspose", "latent weight", "image", strides=[8, 8])]
    weight = np.eye(4, 3, dtype=np.float32)[:, :, None, None]  # the first three channels are the colours
    return nodes, {"weight": np.tile(weight, (1, 1, 8, 8))}


GRAPHS = {
    "text_encoder": _text_encoder,
    "keyframe_unet": _keyframe_unet,
    "interpolation_unet": _interpolation_unet,
    "movq_encoder": _movq_encoder,
    "movq_decoder": _movq_decoder,
}


MASKED_GRAPHS = {**GRAPHS, "masked_interpolation_unet": _masked_interpolation_unet}


def make_tokenizer() -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def write_bundle(folder: Path, builders: Mapping[str, Builder] = GRAPHS) -> bundle.Bundle:
    """A whole tiny bundle in `folder`: 3 keyframes of 32x32 pixels, 4 steps, passes to 8 and 30 fps."""
    folder.mkdir()
    for name, build in builders.items():
        save_graph(folder / f"{name}.onnx", name, *build())
    (folder / "tokenizer.json").write_text(make_tokenizer().to_str(), encoding="utf-8")
    (folder / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
    sampling = {"sampler": "ddpm", "num_inference_steps": 4, "threshold": 0.98}
    parity = bundle.Parity(max_abs=0.0, relative_rms=0.0, floor=1e-3)
    manifest = bundle.Manifest(
        name="tiny",
        family=KANDINSKY_1_0,
        files=bundle.list_files(folder),
        license="Apache-2.0",
        created_with={"onnx": onnx.__version__},
        graphs={name: bundle.GraphSpec(f"{name}.onnx", *KANDINSKY_1_0.contract[name], parity) for name in builders},
        text=bundle.TextConfig("tokenizer.json", MAX_TOKENS),
        video=bundle.VideoConfig(height=32, width=32, latent_channels=4, downscale=8, size_multiple=16),
        keyframes=bundle.KeyframeConfig(
            num_frames=KEYFRAMES, fps=2, position_range=180, prediction="epsilon", guidance_scale=2.0, **sampling
        ),
        interpolation=bundle.InterpolationConfig(
            prediction="v",
            guidance_scale=0.25,
            passes=(bundle.InterpolationPass(8, 3), bundle.InterpolationPass(30, 1)),
            **sampling,
        ),
    )
    return bundle.write_manifest(folder, manifest)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    """The tiny bundle, shared: never write into its folder."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    """The tiny bundle with a masked network as well, shared."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "masked", MASKED_GRAPHS)


@pytest.fixture(scope="session")
def pipe(tiny: bundle.Bundle) -> Pipeline:
    """A pipeline over the tiny bundle, on one thread of the CPU."""
    return Pipeline(tiny, provider="cpu", threads=1)


@pytest.fixture
def own_bundle(tmp_path: Path) -> bundle.Bundle:
    """A tiny bundle of the test's own, to be damaged."""
    return write_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The onnxruntime-gpu wheel (256 MB), fetched once into the user's cache folder."""
    try:
        return fetch_wheel(cache_folder())
    except ProviderError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    """What ``python -m graphs optimise demo --provider cuda`` writes, in float16 and in parts."""
    out = tmp_path_factory.mktemp("variant") / "cuda"
    demo = bundle.open_bundle(ROOT / "graphs" / "demo", verify=False)
    return optimise(demo, out, provider="cuda", dtype="float16", verify=False)


@pytest.fixture(scope="session")
def releases() -> ModuleType:
    """tests/releases.py, which writes small release folders."""
    spec = importlib.util.spec_from_file_location("releases", Path(__file__).parent / "releases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def exports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[subprocess.Popen[bytes], Path]]]:
    """The exports of those small releases that a test of this run asks for, and the folder of each.

    They take minutes of one core each, so both start now, beside all other tests.
    """
    asked = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    started: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    try:
        for name in sorted(asked & RELEASES.keys(), reverse=True):  # 1.1 takes longer
            folder = tmp_path_factory.mktemp(name)
            started[name] = (_export(request.getfixturevalue("releases"), RELEASES[name], folder), folder)
        yield started
    finally:
        for process, _ in started.values():
            process.kill()
            process.wait()


def _export(releases: ModuleType, version: str, folder: Path) -> subprocess.Popen[bytes]:
    """What a person types for a release: a small one becomes ``bundle`` in ``folder``, what is said goes to ``log``."""
    files = {"1.0": releases.write_1_0, "1.1": releases.write_1_1}[version](folder / "files")
    command = ["export", f"kandinsky-video-{version}", "--weights", files, "--out", folder / "bundle"]
    paths = os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _exported(export: tuple[subprocess.Popen[bytes], Path]) -> bundle.Bundle:
    process, folder = export
    assert process.wait(timeout=1200) == 0, (folder / "log").read_text(encoding="utf-8")[-3000:]
    return bundle.open_bundle(folder / "bundle")


@pytest.fixture(scope="session")
def kv10(exports: dict[str, tuple[subprocess.Popen[bytes], Path]]) -> bundle.Bundle:
    """Kandinsky Video 1.0, small, exported; shared."""
    return _exported(exports["kv10"])


@pytest.fixture(scope="session")
def kv11(exports: dict[str, tuple[subprocess.Popen[bytes], Path]]) -> bundle.Bundle:
    """Kandinsky Video 1.1 of golden parameters, exported; shared."""
    return _exported(exports["kv11"])
