"""What goes into each graph of a bundle and what comes out: format version 1, shared by all who write or read one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ffrt.errors import BundleError

DType = Literal["float32", "float16", "int64", "int32", "bool"]

_AXIS = re.compile(r"[A-Za-z]\w*(\*[A-Za-z]\w*)*")


def require(ok: bool, field: str, want: str, got: object) -> None:
    """Raises BundleError, which names the field, what was wanted and what came, unless `ok`."""
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


def _tensors(*rows: tuple[str, DType, str]) -> tuple[TensorSpec, ...]:
    axes = ((name, dtype, shape.split()) for name, dtype, shape in rows)
    return tuple(TensorSpec(n, d, tuple(int(a) if a.isdigit() else a for a in s)) for n, d, s in axes)


def _interpolation(axis: str, seen: str, made: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Both interpolation networks: a sequence along `axis`, channels seen and made at each place of it."""
    inputs = _tensors(
        ("x", "float32", f"B*{axis} {seen} h w"),
        ("time", "float32", "B"),
        ("skip_frames", "int64", axis),
        ("perturbation", "float32", axis),
    )
    return inputs, _tensors(("prediction", "float32", f"B*{axis} {made} h w"))


CONTRACT: Mapping[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
    "text_encoder": (
        _tensors(("input_ids", "int64", "B L"), ("attention_mask", "int64", "B L")),
        _tensors(("context", "float32", "B L D"), ("null_embedding", "float32", "D")),
    ),
    "keyframe_unet": (
        _tensors(
            ("x", "float32", "B*T 4 h w"),
            ("time", "float32", "B"),
            ("context", "float32", "B L D"),
            ("context_mask", "bool", "B L"),
            ("temporal_positions", "int64", "T"),
        ),
        _tensors(("prediction", "float32", "B*T 4 h w")),
    ),
    "interpolation_unet": _interpolation("G", "20", "12"),
    "masked_interpolation_unet": _interpolation("F", "9", "4"),
    "movq_encoder": (_tensors(("image", "float32", "N 3 H W")), _tensors(("latent", "float32", "N 4 h w"))),
    "movq_decoder": (_tensors(("latent", "float32", "N 4 h w")), _tensors(("image", "float32", "N 3 H W"))),
}
"""Graph name -> (inputs, outputs) of format version 1: a bundle holds these, with these names, types and ranks."""

OPTIONAL_GRAPHS = frozenset({"masked_interpolation_unet"})
"""Graphs that a bundle may leave out."""
