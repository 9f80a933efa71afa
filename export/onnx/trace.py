"""PyTorch module -> ONNX graph whose weights stay where they are: in the safetensors file they were loaded from.

A graph file holds nodes and small constants. Its weights are ONNX external data that point into `NAME.safetensors`
beside it (whose tensors lie raw after a header), as float16 behind a Cast to float32 that ONNX Runtime folds when it
loads. So a bundle keeps every weight once, readable for PyTorch and for ONNX Runtime alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir, optimizer
from torch import Tensor, nn

from export.checkpoints.safetensors import places_in
from export.errors import MissingKeyError
from export.models.quiet import quiet
from ffrt.backend.axes import bind_axes
from ffrt.families import KANDINSKY_1_0, Signature, TensorSpec

OPSET = 18
LARGEST_CONSTANT = 1 << 17
"""Bytes of a constant that a graph file may carry itself: a norm without weights has a one for each channel."""
JOINED = "module."
"""What names of weights begin with inside `Joined`."""
TYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT, "I64": TensorProto.INT64}


@dataclass(frozen=True)
class Traced:
    """A graph of the contract: the module, example inputs in the contract's order, and the multiples of its axes.

    `multiples` says what a symbolic axis must be a multiple of, `{"h": 4, "w": 4}`; the example sizes must be
    at least twice that, since a size of one would be traced as a constant. `at_most` bounds an axis whose size a module
    compares with a bound of its own, as an encoder does that has learned positions.
    """

    name: str
    module: nn.Module
    example: tuple[Tensor, ...]
    multiples: dict[str, int]
    contract: Mapping[str, Signature] = field(default_factory=lambda: KANDINSKY_1_0.contract)
    at_most: Mapping[str, int] = field(default_factory=dict)


class Joined(nn.Module):
    """A module whose inputs come with their product axes apart, `B*T` as two.

    So the exporter knows the size of a batch as a product of two unknowns; of one unknown it would have to prove at
    every layer that it can be divided.
    """

    def __init__(self, module: nn.Module, apart: Sequence[bool]) -> None:
        super().__init__()
        self.module = module
        self.apart = tuple(apart)

    def forward(self, *inputs: Tensor) -> Any:
        """Join the axes, then run the module."""
        joined = (x.flatten(0, 1) if apart else x for x, apart in zip(inputs, self.apart, strict=True))
        return self.module(*joined)


def trace(traced: Traced) -> onnx.ModelProto:
    """Export with every axis of the contract left symbolic; weights are initialisers named as in the state dict."""
    inputs, outputs = traced.contract[traced.name]
    module = traced.module.eval()
    apart = ["*" in str(spec.shape[0]) for spec in inputs]
    sizes = bind_axes(
        [
            (spec.name, axis, size)
            for spec, value in zip(inputs, traced.example, strict=True)
            for axis, size in zip(spec.shape, value.shape, strict=True)
        ]
    )
    example = tuple(
        value.unflatten(0, [sizes[letter] for letter in str(spec.shape[0]).split("*")]) if split else value
        for spec, value, split in zip(inputs, traced.example, apart, strict=True)
    )
    dims: dict[str, Any] = {}
    shapes = tuple(
        {
            at: dims.setdefault(axis, dim_of(axis, traced.multiples, traced.at_most.get(axis)))
            for at, axis in enumerate(axes_of(spec))
            if isinstance(axis, str) and axis != "D"
        }
        for spec in inputs
    )
    joined = Joined(module, apart).eval()
    with quiet():
        exported = torch.export.export(
            joined, example, dynamic_shapes=(shapes,), strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
        program = torch.onnx.export(
            exported,
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            verbose=False,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
        )
    assert program is not None
    tidy(program.model, set(joined.state_dict()))
    leave_out(program.model)
    model = ir.to_proto(program.model)
    rename_initializers(model)
    for spec, split in zip(inputs, apart, strict=True):
        if split:
            take_apart(model, spec, inputs)
    name_axes(model, (inputs, outputs))
    return model


def axes_of(spec: TensorSpec) -> list[int | str]:
    """The axes with products apart."""
    return [letter for axis in spec.shape for letter in (axis.split("*") if isinstance(axis, str) else [axis])]


def dim_of(axis: str, multiples: Mapping[str, int], at_most: int | None) -> Any:
    """A symbolic size for the exporter."""
    if axis in multiples:
        return multiples[axis] * torch.export.Dim(f"{axis}_over_{multiples[axis]}")
    return torch.export.Dim(axis, max=at_most)


def rename_initializers(model: onnx.ModelProto) -> None:
    """Names as in the state dict of the module, without what `Joined` put in front unless an output has that."""
    taken = {one.name for one in model.graph.output}
    names = {one.name: one.name.removeprefix(JOINED) for one in model.graph.initializer}
    names = {name: name if ours in taken else ours for name, ours in names.items()}
    for one in model.graph.initializer:
        one.name = names[one.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def take_apart(model: onnx.ModelProto, spec: TensorSpec, inputs: Sequence[TensorSpec]) -> None:
    """Let input `spec` come with its first axis joined: a Reshape in front, its sizes read from the other inputs."""
    letters = str(spec.shape[0]).split("*")
    alone = {axis: (one.name, at) for one in inputs for at, axis in enumerate(one.shape) if axis in letters}
    guessed = next((letter for letter in letters if letter not in alone), letters[0])
    parts, nodes = [], []
    for letter in letters:
        part = f"{spec.name}.{letter}"
        if letter == guessed:
            model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), part))
        else:
            source, at = alone[letter]
            nodes.append(helper.make_node("Shape", [source], [part], start=at, end=at + 1))
        parts.append(part)
    rest, shape, whole = (f"{spec.name}.{word}" for word in ("rest", "apart.shape", "apart"))
    nodes += [
        helper.make_node("Shape", [spec.name], [rest], start=1),
        helper.make_node("Concat", [*parts, rest], [shape], axis=0),
        helper.make_node("Reshape", [spec.name, shape], [whole]),
    ]
    for node in model.graph.node:
        node.input[:] = [whole if name == spec.name else name for name in node.input]
    value = next(one for one in model.graph.input if one.name == spec.name)
    dims = value.type.tensor_type.shape.dim
    del dims[: len(letters) - 1]
    dims[0].Clear()
    others = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *others])


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
    """Weights on the meta device have no values: a reference takes their place, which `point_to` fills in."""
    for name, value in model.graph.initializers.items():
        constant = value.const_value
        raw = None if constant is None else constant.raw
        if constant is not None and isinstance(raw, Tensor) and raw.is_meta:
            shape = ir.Shape(list(raw.shape))
            value.const_value = ir.ExternalTensor("unwritten", 0, 0, constant.dtype, shape=shape, name=name)


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
    """Let every initialiser that `weights` (safetensors) has by name be read from there; returns the same model.

    Raises MissingKeyError where the file lacks a large initialiser, or one without values: a graph file carries no
    weights.
    """
    stored_at = places_in(weights)
    casts = []
    for initializer in model.graph.initializer:
        place = stored_at.get(initializer.name.removeprefix(JOINED))
        if place is None:
            if len(initializer.raw_data) > LARGEST_CONSTANT or initializer.external_data:
                raise MissingKeyError(
                    f"{weights.name}: no {initializer.name!r} {list(initializer.dims)}, which the graph reads; "
                    "a graph file carries no weights of its own"
                )
            continue
        dtype = initializer.data_type
        initializer.ClearField("raw_data")
        initializer.ClearField("external_data")
        initializer.data_type = TYPES[place.code]
        initializer.data_location = TensorProto.EXTERNAL
        places = {"location": weights.name, "offset": place.offset, "length": place.length}
        initializer.external_data.extend(
            onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in places.items()
        )
        if initializer.data_type != dtype:
            stored = f"{initializer.name}.stored"
            casts.append(
                helper.make_node("Cast", [stored], [initializer.name], to=dtype, name=f"{initializer.name}.cast")
            )
            initializer.name = stored
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
