"""Graphs and bundles on disk: open a graph, write one with its weights, publish a folder in one rename."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ffrt.bundle import Bundle, FileSpec, GraphSpec, Optimised, list_files, write_manifest
from ffrt.bundle import check_place as check_bundle_place
from ffrt.errors import BundleError, FfrtError
from ffrt.output.whole_folder import whole_folder
from graphs.passes import ir as m

_CODES = {
    ir.DataType.FLOAT16: "F16",
    ir.DataType.FLOAT: "F32",
    ir.DataType.INT64: "I64",
    ir.DataType.INT32: "I32",
    ir.DataType.INT8: "I8",
    ir.DataType.UINT8: "U8",
    ir.DataType.BOOL: "BOOL",
}
"""Names of dtypes in a safetensors header."""


class LinkedTensor(ir.ExternalTensor):
    """A tensor in a file that may be a link: onnx_ir itself reads none, of which caches and environments are made.

    Only for graphs of bundles, whose weights were checked to lie in files of the bundle.
    """

    def __init__(self, tensor: ir.ExternalTensor) -> None:
        super().__init__(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name,
        )
        self._place = Path(tensor.base_dir, tensor.location)

    @property
    def path(self) -> str:
        """Where the file is."""
        return str(self._place)


def open_graph(path: Path) -> ir.Model:
    """Read an ONNX file; its weights stay on disk. Raises OSError, and BundleError if it is not a graph."""
    try:
        model = ir.load(path)
    except OSError:
        raise
    except Exception as error:  # protobuf's own, or onnx_ir's
        raise BundleError(f"{path} is no ONNX graph ({error}); get the bundle again") from error
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = LinkedTensor(value.const_value)
    return model


@contextmanager
def graph_of(bundle: Bundle, name: str) -> Iterator[ir.Model]:
    """The graph `name` of a bundle, whose files may not change in the block.

    Whatever a damaged graph makes onnx_ir, ONNX Runtime or a pass raise is a BundleError with that as its cause.
    """
    file = bundle.graphs[name].file
    try:
        with bundle.graph_file(file).held() as path:
            yield open_graph(path)
    except (FfrtError, OSError):
        raise
    except Exception as error:
        raise BundleError(
            f"graph {name}: expected {bundle.path(file)} as python -m export writes it, got one that cannot be "
            f"rewritten ({type(error).__name__}: {error}); get the bundle again"
        ) from error


def write_graph(model: ir.Model, path: Path, half: bool) -> None:
    """Write `path` (NAME.onnx) and NAME.safetensors with every weight, one tensor in memory at a time.

    With `half`, float32 weights that a pass created are stored as float16 behind a Cast, as exported ones are.
    """
    model = model.clone()
    graph = model.graph
    if half:
        for value in list(graph.initializers.values()):
            if isinstance(value.const_value, ir.LazyTensor) and value.const_value.dtype == ir.DataType.FLOAT:
                _store_half(graph, value)
    large = [v for v in graph.initializers.values() if v.const_value is not None and m.is_large(v.const_value)]
    large.sort(key=lambda v: -_tensor(v).dtype.itemsize)  # widest dtype first, so that every tensor is aligned
    layout: dict[str, object] = {}
    end = 0
    for value in large:
        tensor = _tensor(value)
        start, end = end, end + tensor.nbytes
        layout[_name(value)] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape.numpy()),
            "data_offsets": [start, end],
        }
    header = json.dumps(layout, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    weights = path.with_suffix(".safetensors")
    with weights.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for value in large:
            tensor = _tensor(value)
            offset = file.tell()
            file.write(tensor.tobytes())
            if isinstance(tensor, ir.ExternalTensor):
                with suppress(BufferError):  # another model that shares the tensor is looking at its numbers
                    tensor.release()  # unmap the file it was read from
            value.const_value = ir.ExternalTensor(
                weights.name,
                offset,
                tensor.nbytes,
                tensor.dtype,
                shape=_shape(tensor),
                name=_name(value),
                base_dir=path.parent,
            )
    ir.save(model, path)


def check_place(out: Path) -> None:
    """Raise BundleError if `out` exists: nothing is overwritten. Raises as `ffrt.bundle.check_place` too."""
    if os.path.lexists(out):
        raise BundleError(f"out: expected a new folder, but {out} exists; remove it, or give another folder")
    check_bundle_place(out)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that becomes `out` when the block succeeds and is removed when it fails.

    Raises as `check_place`.
    """
    check_place(out)
    with whole_folder(out, _taken) as folder:
        yield folder


def _taken(folder: Path) -> str:
    return "has come to be in the meantime; remove it, or give another folder"


def write_like(
    bundle: Bundle,
    folder: Path,
    graphs: Mapping[str, GraphSpec],
    known: Mapping[str, FileSpec] | None,
    optimised: Optimised | None = None,
) -> Bundle:
    """Write the manifest of `folder`, which holds `bundle` with other graphs; `known` as for `list_files`."""
    files = list_files(folder, {} if known is None else known)
    manifest = replace(bundle.manifest, graphs=graphs, files=files, optimised=optimised)
    return write_manifest(folder, manifest, verify=known is None)


def _store_half(graph: ir.Graph, value: ir.Value) -> None:
    """Store the numbers of float32 `value` as float16, with a Cast back behind them."""
    tensor = _tensor(value)
    stored = ir.val(f"{value.name}.stored", dtype=ir.DataType.FLOAT16, shape=_shape(tensor))
    stored.const_value = ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(np.float16)), ir.DataType.FLOAT16, _shape(tensor), name=stored.name
    )
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
    value.replace_all_uses_with(cast.outputs[0])
    first = next(iter(graph))
    graph.insert_before(first, cast)
    graph.initializers.pop(_name(value))
    graph.register_initializer(stored)


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
