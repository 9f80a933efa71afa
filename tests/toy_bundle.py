"""A bundle of a few kilobytes whose graphs obey the contract and do no more: for what lies around the networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from ffrt.bundle import (
    CONTRACT,
    Bundle,
    GraphSpec,
    InterpolationConfig,
    InterpolationPass,
    KeyframeConfig,
    Parity,
    TextConfig,
    VideoConfig,
    write_manifest,
)

WIDTH = 8
TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "bool": TensorProto.BOOL}


def _array(name: str, value: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(value), name)


BODIES: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]] = {
    "text_encoder": (
        [
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
            helper.make_node("Cast", ["kept"], ["ids"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["ids", "last"], ["column"]),
            helper.make_node("Mul", ["column", "direction"], ["context"]),
            helper.make_node("Identity", ["direction"], ["null_embedding"]),
        ],
        [_array("last", np.array([2])), _array("direction", np.linspace(-1, 1, WIDTH, dtype=np.float32))],
    ),
    "keyframe_unet": (
        [helper.make_node("Mul", ["x", "part"], ["prediction"])],
        [_array("part", np.float32(0.5))],
    ),
    "interpolation_unet": (
        [helper.make_node("Slice", ["x", "start", "stop", "axis"], ["prediction"])],
        [_array("start", np.array([4])), _array("stop", np.array([16])), _array("axis", np.array([1]))],
    ),
    "movq_encoder": (
        [
            helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Slice", ["small", "start", "stop", "axis"], ["first"]),
            helper.make_node("Concat", ["small", "first"], ["latent"], axis=1),
        ],
        [_array("start", np.array([0])), _array("stop", np.array([1])), _array("axis", np.array([1]))],
    ),
    "movq_decoder": (
        [
            helper.make_node("Slice", ["latent", "start", "stop", "axis"], ["colours"]),
            helper.make_node("Resize", ["colours", "", "scales"], ["large"], mode="nearest"),
            helper.make_node("Tanh", ["large"], ["image"]),
        ],
        [
            _array("start", np.array([0])),
            _array("stop", np.array([3])),
            _array("axis", np.array([1])),
            _array("scales", np.array([1, 1, 8, 8], np.float32)),
        ],
    ),
}


def write_toy_bundle(folder: Path) -> Bundle:
    """Write a bundle for 64x64 pixels, 4 keyframes at 2 fps, passes to 8 and 30 fps, 3 steps per stage."""
    folder.mkdir(parents=True)
    graphs = {}
    for name, (inputs, outputs) in CONTRACT.items():
        nodes, constants = BODIES[name]
        values = [
            [helper.make_tensor_value_info(t.name, TYPES[t.dtype], list(t.shape)) for t in side]
            for side in (inputs, outputs)
        ]
        model = helper.make_model(
            helper.make_graph(nodes, name, *values, constants),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=9,
        )
        onnx.checker.check_model(model)
        onnx.save(model, folder / f"{name}.onnx")
        graphs[name] = GraphSpec(f"{name}.onnx", inputs, outputs, Parity(0.0, 0.0, 1e-3))
    words = "a red blue circle square moving right left on black background".split()
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **{w: i for i, w in enumerate(words, 1)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
    return write_manifest(
        folder,
        name="toy",
        license="Apache-2.0",
        created_with={"onnx": onnx.__version__},
        graphs=graphs,
        text=TextConfig("tokenizer.json", 16),
        video=VideoConfig(64, 64, 4, 8, 32),
        keyframes=KeyframeConfig(4, 2, 180, "epsilon", "ddpm", 3, 2.0, 0.98),
        interpolation=InterpolationConfig(
            "v", "ddpm", 3, 0.25, 0.98, (InterpolationPass(8, 3), InterpolationPass(30, 1))
        ),
    )
