"""What goes into each graph of a bundle and what comes out, shared by all who write or read one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
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


Row = tuple[str, DType, str]


def _tensors(*rows: Row) -> tuple[TensorSpec, ...]:
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


Signature = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""Inputs and outputs of a graph."""

_PROMPT: tuple[Row, ...] = (("context", "float32", "B L D"), ("context_mask", "bool", "B L"))
_TEXT = _tensors(("input_ids", "int64", "B L"), ("attention_mask", "int64", "B L"))
_NULLS: tuple[Row, ...] = (("context", "float32", "B L D"), ("null_embedding", "float32", "D"))
_TO_IMAGE = (_tensors(("latent", "float32", "N 4 h w")), _tensors(("image", "float32", "N 3 H W")))

CONTRACT: Mapping[str, Signature] = {
    "text_encoder": (_TEXT, _tensors(*_NULLS)),
    "keyframe_unet": (
        _tensors(
            ("x", "float32", "B*T 4 h w"),
            ("time", "float32", "B"),
            *_PROMPT,
            ("temporal_positions", "int64", "T"),
        ),
        _tensors(("prediction", "float32", "B*T 4 h w")),
    ),
    "interpolation_unet": _interpolation("G", "20", "12"),
    "masked_interpolation_unet": _interpolation("F", "9", "4"),
    "movq_encoder": (_tensors(("image", "float32", "N 3 H W")), _tensors(("latent", "float32", "N 4 h w"))),
    "movq_decoder": _TO_IMAGE,
}
"""Graph name -> inputs and outputs in a bundle that makes keyframes of text alone, as Kandinsky Video 1.0 does."""

IMAGE_CONTRACT: Mapping[str, Signature] = {
    **CONTRACT,
    "text_encoder": (_TEXT, _tensors(*_NULLS, ("interpolation_null_embedding", "float32", "D"))),
    "image_unet": (
        _tensors(("x", "float32", "B 9 h w"), ("time", "float32", "B"), *_PROMPT),
        _tensors(("prediction", "float32", "B 4 h w")),
    ),
    "image_decoder": _TO_IMAGE,
    "keyframe_unet": (
        _tensors(
            ("x", "float32", "B*T 9 h w"),
            ("time", "float32", "B"),
            *_PROMPT,
            ("temporal_positions", "int64", "T"),
            ("noise_augmentation", "int64", "B"),
            ("motion_score", "int64", "B"),
        ),
        _tensors(("prediction", "float32", "B*T 4 h w")),
    ),
    "interpolation_unet": (
        _tensors(
            ("x", "float32", "B*G 20 h w"),
            ("time", "float32", "B"),
            *_PROMPT,
            ("skip_frames", "int64", "G"),
            ("perturbation", "float32", "G"),
            ("temporal_mask", "float32", "B"),
        ),
        _tensors(("prediction", "float32", "B*G 12 h w")),
    ),
}
"""The same for a bundle that makes a first frame of text, or is given one, and keyframes of both (1.1)."""

DEEP = "deep"
SHALLOW: Mapping[str, str] = {
    "keyframe_unet": "keyframe_unet_shallow",
    "interpolation_unet": "interpolation_unet_shallow",
}
"""For step caching: a U-Net -> the graph of its outermost level alone, which takes `deep` from the whole one."""

OPTIONAL_GRAPHS = frozenset({"masked_interpolation_unet", *SHALLOW.values()})
"""Graphs that a bundle may leave out."""


def deep_of(signature: Signature) -> TensorSpec:
    """What the outermost level of the U-Net with this signature gets from below, `deep`: an item for each of `x`."""
    return TensorSpec(DEEP, "float32", (signature[0][0].shape[0], "C", "h_deep", "w_deep"))


def with_shallow(contract: Mapping[str, Signature], graphs: Collection[str]) -> Mapping[str, Signature]:
    """`contract` with what step caching changes in it where the shallow graph of a U-Net is one of `graphs`."""
    changed = dict(contract)
    for name, shallow in SHALLOW.items():
        if shallow in graphs:
            inputs, outputs = contract[name]
            deep = deep_of(contract[name])
            changed |= {name: (inputs, (*outputs, deep)), shallow: ((*inputs, deep), outputs)}
    return changed
