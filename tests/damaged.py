"""Bundles with one damaged graph and true digests, made from a seed."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

from ffrt import Bundle


def damage_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Bytes changed, left out or repeated."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = rng.randrange(len(data)), rng.randrange(3)
        if kind == 0:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1 << rng.randrange(8)))
        elif kind == 1 and len(data) > 16:
            del data[at : at + rng.randrange(1, 9)]
        else:
            data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 9)]
    return bytes(data)


def damage_graph(raw: bytes, rng: random.Random) -> bytes:
    """A graph that is whole as protobuf: nodes, attributes, inputs, constants or types are others, or gone."""
    model = onnx.load_from_string(raw)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not model.graph.node:
            break
        rng.choice(_DAMAGES)(model, rng.choice(model.graph.node), rng)
    return model.SerializeToString()


def with_graph(bundle: Bundle, file: str, raw: bytes) -> Path:
    """Write a graph file and its digest into the folder of a bundle."""
    path = bundle.folder / "manifest.json"
    value = json.loads(path.read_text())
    (bundle.folder / file).write_bytes(raw)
    value["files"][file] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    path.write_text(json.dumps(value))
    return bundle.folder


def _drop_attributes(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    node.ClearField("attribute")


def _other_attribute(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    for attribute in node.attribute:
        attribute.type, attribute.i, attribute.f = rng.choice((0, 1, 2, 3, 6, 7, 8)), 1 << rng.randrange(63), 1.5


def _drop_node(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    model.graph.node.remove(node)


def _repeat_node(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    model.graph.node.append(node)


def _other_operator(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    node.op_type = rng.choice(("", "Add", "Constant", "If", "Loop", "Reshape", "Concat", "ConstantOfShape", "NoSuchOp"))


def _other_input(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    names = ["", "nowhere", *node.output, *(name for other in model.graph.node for name in other.output)]
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _drop_input(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    del node.input[rng.randrange(len(node.input) + 1) :]


def _drop_output(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    del node.output[:]


def _drop_constant(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    if model.graph.initializer:
        del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def _other_constant(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    if model.graph.initializer:
        constant = rng.choice(model.graph.initializer)
        constant.raw_data = bytes(rng.randrange(256) for _ in constant.raw_data)


def _other_dtype(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    value.type.tensor_type.elem_type = rng.choice((0, 1, 6, 7, 9, 10, 99))


def _other_shape(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    if rng.random() < 0.3:
        value.type.ClearField("tensor_type")
    for axis in value.type.tensor_type.shape.dim:
        axis.dim_value = rng.choice((-1, 0, 1, 3, 1 << 62))


def _other_versions(model: ModelProto, node: NodeProto, rng: random.Random) -> None:
    model.ir_version = rng.choice((0, 3, 10, 1 << 40))
    model.opset_import[0].version = rng.choice((0, 1, 9, 18, 1 << 40))


_DAMAGES = (
    *(_drop_attributes, _other_attribute, _drop_node, _repeat_node, _other_operator, _other_input, _drop_input),
    *(_drop_output, _drop_constant, _other_constant, _other_dtype, _other_shape, _other_versions),
)
