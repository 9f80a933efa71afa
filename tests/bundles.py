"""A bundle of five tiny graphs with the right signatures, so that the runtime is tested without trained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ffrt import bundle
from ffrt.families import KANDINSKY_1_0

Builder = Callable[[], tuple[list[onnx.NodeProto], dict[str, np.ndarray]]]
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
        _node("Mul", "context mask_column", "kept"),
        _node("ReduceMean", "kept axes12", "mean", keepdims=0),
        _node("Cast", "temporal_positions", "positions_f", to=TensorProto.FLOAT),
        _node("ReduceMean", "positions_f", "position", keepdims=0),
        _node("Mul", "position milli", "position_m"),
        _node("Mul", "time rate", "time_m"),
        _node("Add", "mean time_m", "mean_timed"),
        _node("Add", "mean_timed position_m", "offset"),
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
