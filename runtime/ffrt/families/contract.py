"""The grammar of contracts: the inputs and outputs of each graph of a bundle."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from ffrt.errors import BundleError

DType = Literal["float32", "float16", "int64", "int32", "bool"]

_AXIS = re.compile(r"[A-Za-z]\w*(\*[A-Za-z]\w*)*")


def require(ok: bool, field: str, want: str, got: object) -> None:
    """Raise BundleError, which names the field, what was expected and what came, unless `ok`."""
    if not ok:
        raise BundleError(f"{field}: expected {want}, got {got!r:.400}")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: an int is a fixed size, a name is a symbolic axis, `B*T` a product of two."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        for axis in self.shape:
            ok = axis > 0 if isinstance(axis, int) else _AXIS.fullmatch(axis) is not None
            require(ok, f"shape of {self.name!r}", "positive sizes or names such as 'B*T'", axis)


Signature = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""Inputs and outputs of a graph."""

Contract = Mapping[str, Signature]
"""Graph name -> its signature."""


def signature(inputs: str, outputs: str) -> Signature:
    """A signature in words: tensors separated by commas, each its name, dtype and axes.

    `signature("x float32 B*T 4 h w, time float32 B", "prediction float32 B*T 4 h w")`
    """
    return _tensors(inputs), _tensors(outputs)


def _tensors(words: str) -> tuple[TensorSpec, ...]:
    rows = [tensor.split() for tensor in words.split(",")]
    return tuple(
        TensorSpec(name, cast(DType, dtype), tuple(int(axis) if axis.isdigit() else axis for axis in axes))
        for name, dtype, *axes in rows
    )


DEEP = "deep"
SHALLOW: Mapping[str, str] = {
    "keyframe_unet": "keyframe_unet_shallow",
    "interpolation_unet": "interpolation_unet_shallow",
}
"""For step caching: a U-Net -> the graph of its outermost level alone, which takes `deep` from the whole one."""

OVER_PIXELS = frozenset({"movq_encoder", "movq_decoder", "image_decoder"})
"""The networks that see pixels and not latents: their weights are small beside their values."""
OPTIONAL_GRAPHS = frozenset({"masked_interpolation_unet", *SHALLOW.values()})
"""Graphs that a bundle may leave out."""


def deep_of(signature: Signature) -> TensorSpec:
    """The input `deep` of a U-Net's outermost level: its deep features, one item for each of `x`."""
    return TensorSpec(DEEP, "float32", (signature[0][0].shape[0], "C", "h_deep", "w_deep"))


def with_shallow(contract: Contract, graphs: Collection[str]) -> Contract:
    """`contract` as step caching changes it, for every U-Net whose shallow graph is one of `graphs`."""
    changed = dict(contract)
    for name, shallow in SHALLOW.items():
        if shallow in graphs:
            inputs, outputs = contract[name]
            deep = deep_of(contract[name])
            changed |= {name: (inputs, (*outputs, deep)), shallow: ((*inputs, deep), outputs)}
    return changed
