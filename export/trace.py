"""PyTorch module -> ONNX graph whose weights stay where they are: in the safetensors file they were loaded from.

A graph file holds nodes and small constants. Its weights are ONNX external data that point into ``NAME.safetensors``
beside it (whose tensors lie raw after a header), as float16 behind a Cast to float32 that ONNX Runtime folds when it
loads. So a bundle keeps every weight once, readable for PyTorch and for ONNX Runtime alike.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from onnxscript import ir, optimizer
from torch import Tensor, nn

from ffrt.bundle import CONTRACT, Signature

OPSET = 18
LARGEST_CONSTANT = 1 << 15
"""Bytes of a constant that a graph file may carry itself: a norm without weights has a one for each channel."""
TYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT, "I64": TensorProto.INT64}


@dataclass(frozen=True)
class Traced:
    """A graph of the contract: the module, example inputs in the contract's order, and the multiples of its axes.

    ``multiples`` says what a symbolic axis must be a multiple of, ``{"h": 4, "w": 4}``; the example sizes must be
    at least twice that, since a size of one would be traced as a constant.
    """

    name: str
    module: nn.Module
    example: tuple[Tensor, ...]
    multiples: dict[str, int]
    contract: Mapping[str, Signature] = field(default_factory=lambda: CONTRACT)


def trace(traced: Traced) -> onnx.ModelProto:
    """Export with every axis of the contract left symbolic; weights are initialisers named as in the state dict."""
    inputs, outputs = traced.contract[traced.name]
    shapes = tuple(
        {
            at: axis_of(str(axis), traced.multiples)
            for at, axis in enumerate(spec.shape)
            if not isinstance(axis, int) and axis != "D"
        }
        for spec in inputs
    )
    exported = torch.export.export(
        traced.module.eval(), traced.example, dynamic_shapes=shapes,
        strict=False, prefer_deferred_runtime_asserts_over_guards=True,
    )  # fmt: skip
    program = torch.onnx.export(
        exported, dynamo=True, optimize=False, opset_version=OPSET, verbose=False,
        input_names=[spec.name for spec in inputs], output_names=[spec.name for spec in outputs],
    )  # fmt: skip
    assert program is not None
    tidy(program.model, set(traced.module.state_dict()))
    leave_out(program.model)
    model = ir.to_proto(program.model)
    name_axes(model, (inputs, outputs))
    return model


def axis_of(axis: str, multiples: dict[str, int]) -> Any:
    if axis in multiples:
        return multiples[axis] * torch.export.Dim(f"{axis}_over_{multiples[axis]}")
    return torch.export.Dim.DYNAMIC


def tidy(model: ir.Model, weights: set[str]) -> None:
    """Fold what needs no weight, drop what nothing uses or is there twice, forget inner names and source lines."""

    def small(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    optimizer.fold_constants(model, should_fold=small)
    optimizer.remove_unused_nodes(model)
    ir.passes.common.CommonSubexpressionEliminationPass()(model)  # half of the nodes work out the same sizes
    outputs = set(model.graph.outputs)
    for number, node in enumerate(model.graph.all_nodes()):
        for place, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = f"_{number}" if place == 0 else f"_{number}_{place}"
        node.metadata_props.clear()
        node.doc_string = None
        node.name = None
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def leave_out(model: ir.Model) -> None:
    """Weights on the meta device have no values: a reference takes their place, which :func:`point_to` fills in."""
    for name, value in model.graph.initializers.items():
        raw = None if value.const_value is None else value.const_value.raw
        if isinstance(raw, Tensor) and raw.is_meta:
            value.const_value = ir.ExternalTensor(
                "unwritten", 0, 0, value.const_value.dtype, shape=value.const_value.shape, name=name
            )


def name_axes(model: onnx.ModelProto, signature: Signature) -> None:
    """Give the axes of inputs and outputs the contract's letters, and leave inner shapes to ONNX Runtime."""
    del model.graph.value_info[:]
    for specs, values in zip(signature, (model.graph.input, model.graph.output), strict=True):
        for spec, value in zip(specs, values, strict=True):
            for want, dim in zip(spec.shape, value.type.tensor_type.shape.dim, strict=True):
                if isinstance(want, int):
                    dim.dim_value = want
                elif not dim.HasField("dim_value"):
                    dim.dim_param = want


def point_to(model: onnx.ModelProto, weights: Path) -> onnx.ModelProto:
    """Let every initialiser that ``weights`` (safetensors) has by name be read from there; returns the same model.

    Raises KeyError where the file lacks a large initialiser: a graph file must not carry weights itself.
    """
    with weights.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    casts = []
    for initializer in model.graph.initializer:
        entry = header.get(initializer.name)
        if entry is None:
            if len(initializer.raw_data) > LARGEST_CONSTANT:
                raise KeyError(f"{initializer.name} {list(initializer.dims)} is not in {weights.name}")
            continue
        begin, end = entry["data_offsets"]
        wanted = initializer.data_type
        initializer.ClearField("raw_data")
        initializer.ClearField("external_data")
        initializer.data_type = TYPES[entry["dtype"]]
        initializer.data_location = TensorProto.EXTERNAL
        places = {"location": weights.name, "offset": 8 + header_bytes + begin, "length": end - begin}
        initializer.external_data.extend(
            onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in places.items()
        )
        if initializer.data_type != wanted:
            stored = f"{initializer.name}.stored"
            casts.append(
                helper.make_node("Cast", [stored], [initializer.name], to=wanted, name=f"{initializer.name}.cast")
            )
            initializer.name = stored
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
