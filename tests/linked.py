"""A tiny bundle whose decoder takes its weights from a file, so that a test can exchange them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import onnx

from ffrt import Bundle, bundle
from tests.bundles import write_bundle

GRAPH, WEIGHTS = "movq_decoder.onnx", "movq_decoder.safetensors"
LATENT = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 4, 4, 4)


def write_weights(path: Path, scale: float) -> None:
    """The decoder's weight, float32 [4, 3, 8, 8], times a number, as a safetensors file of always the same size."""
    weight = scale * np.tile(np.eye(4, 3, dtype=np.float32)[:, :, None, None], (1, 1, 8, 8))
    layout = {"weight": {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [0, weight.nbytes]}}
    header = json.dumps(layout).encode().ljust(104)
    path.write_bytes(struct.pack("<Q", len(header)) + header + weight.tobytes())


def write_linked(folder: Path) -> Bundle:
    """The tiny bundle with `WEIGHTS`."""
    tiny = write_bundle(folder)
    write_weights(folder / WEIGHTS, 1.0)
    model = onnx.load(folder / GRAPH)
    (weight,) = model.graph.initializer
    length = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", str(8 + 104)), ("length", str(length))):
        weight.external_data.add(key=key, value=value)
    onnx.save(model, folder / GRAPH)
    return bundle.write_manifest(folder, bundle.Manifest(**{**vars(tiny.manifest), "files": bundle.list_files(folder)}))
