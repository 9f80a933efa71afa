"""The passes in the order in which they run, and for which provider each is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphs.passes.attention import fuse_attention
from graphs.passes.channels_last import channels_last_views
from graphs.passes.constant_attention import constant_attention
from graphs.passes.group_norm import fuse_group_norm
from graphs.passes.guidance_rows import masked_temporal, sole_token
from graphs.passes.int8 import to_int8
from graphs.passes.modulation import join_modulation
from graphs.passes.norm import drop_neutral, layer_norm
from graphs.passes.scale import scale_streams
from graphs.passes.temporal_conv import fold_merge, merge_pointwise

SPLIT = "split"
"""The step that makes several graphs of one (:mod:`graphs.passes.split`)."""
FIXED_TEXT = "fixed_text"
"""What is done to those for providers that open a network for one shape (:mod:`graphs.passes.text_length`)."""
INT8_TEXT = "int8_text"
PROVIDERS = ("cpu", "cuda", "openvino")


@dataclass(frozen=True)
class Pass:
    """One rewrite: what it is called, a pure function Model -> Model, and the providers it is meant for.

    ``portable`` says that the CPU can run what it makes, so that it can be compared with the plain graph anywhere;
    ``only`` names the one graph that it is for; ``asked`` that it runs where it is asked for and not otherwise.
    """

    name: str
    apply: Callable[[ir.Model], ir.Model]
    providers: tuple[str, ...] = PROVIDERS
    portable: bool = True
    only: str | None = None
    asked: bool = False


def _for_cpu(model: ir.Model) -> ir.Model:
    return fuse_attention(model, "cpu")


def _for_cuda(model: ir.Model) -> ir.Model:
    return fuse_attention(model, "cuda")


def _views_for_openvino(model: ir.Model) -> ir.Model:
    return channels_last_views(model, enlarged=False)


PASSES = (
    Pass("fold_merge", fold_merge),
    Pass("merge_pointwise", merge_pointwise),
    Pass("constant_attention", constant_attention),
    Pass("join_modulation", join_modulation),
    Pass("drop_neutral", drop_neutral),
    Pass("layer_norm", layer_norm, ("cpu",)),
    Pass("fuse_attention", _for_cpu, ("cpu",)),
    Pass("sole_token", sole_token, ("cpu",)),
    Pass("masked_temporal", masked_temporal, ("cpu",)),
    Pass("fuse_attention", _for_cuda, ("cuda",)),
    Pass("fuse_group_norm", fuse_group_norm, ("cuda",), portable=False),
    Pass("channels_last_views", channels_last_views, ("cuda",)),
    Pass("channels_last_views", _views_for_openvino, ("openvino",)),
    Pass("scale_streams", scale_streams, asked=True),
    Pass(INT8_TEXT, to_int8, only="text_encoder", asked=True),
)

ON_REQUEST = tuple(one.name for one in PASSES if one.asked)
"""Passes that run where they are asked for: more range for float16, and 8-bit matrices of the text encoder."""


def names_of(provider: str) -> list[str]:
    """The passes of a provider that run unless they are left out, in order."""
    last = [SPLIT] if provider == "cpu" else [SPLIT, FIXED_TEXT]
    return [*(one.name for one in PASSES if provider in one.providers and not one.asked), *last]


def apply(model: ir.Model, graph: str, provider: str, names: Sequence[str]) -> ir.Model:
    """The graph called ``graph`` after the passes of ``names`` that are meant for it and ``provider``, in order."""
    for one in PASSES:
        if provider in one.providers and one.name in names and one.only in (None, graph):
            model = one.apply(model)
    return model
