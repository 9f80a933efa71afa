"""The passes in the order in which they run, and the providers each is meant for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from ffrt.backend.providers import PROVIDERS as ROWS
from graphs.passes.attention import fuse_attention
from graphs.passes.channels_last import channels_last_views
from graphs.passes.constant_attention import constant_attention
from graphs.passes.group_norm import fuse_group_norm
from graphs.passes.guidance_rows import masked_temporal, single_token_attention
from graphs.passes.int8 import to_int8
from graphs.passes.modulation import join_modulation
from graphs.passes.norm import drop_neutral, layer_norm
from graphs.passes.scale import scale_streams
from graphs.passes.temporal_conv import fold_merge, merge_pointwise

SPLIT = "split"
"""Splits a graph into several (`graphs.passes.split`), after all passes of the table."""
PAD_TEXT = "pad_text"
"""Pads the text that those hand on (`graphs.passes.text_length`): some providers compile a network for one shape."""
INT8_TEXT = "int8_text"
PROVIDERS = tuple(name for name, row in ROWS.items() if row.dtypes)
"""Providers that a bundle can be rewritten for."""


@dataclass(frozen=True)
class Pass:
    """One rewrite: its name, a pure function Model -> Model, and the providers it is meant for (None: all).

    `portable` says that the CPU can run the result, so that it can be compared with the plain graph anywhere; `only`
    names the one graph that the pass is for; `on_request` passes run only where they are asked for.
    """

    name: str
    apply: Callable[[ir.Model], ir.Model]
    providers: tuple[str, ...] | None = None
    portable: bool = True
    only: str | None = None
    on_request: bool = False

    def is_for(self, provider: str) -> bool:
        """Whether the pass is meant for `provider`."""
        return self.providers is None or provider in self.providers


PASSES = (
    Pass("fold_merge", fold_merge),
    Pass("merge_pointwise", merge_pointwise),
    Pass("constant_attention", constant_attention),
    Pass("join_modulation", join_modulation),
    Pass("drop_neutral", drop_neutral),
    Pass("layer_norm", layer_norm, ("cpu",)),
    Pass("fuse_attention", partial(fuse_attention, over_time=False, key_lengths=False), ("cpu",)),
    Pass("single_token_attention", single_token_attention, ("cpu",)),
    Pass("masked_temporal", masked_temporal, ("cpu",)),
    Pass("fuse_attention", partial(fuse_attention, over_time=True, key_lengths=True), ("cuda",)),
    Pass("fuse_group_norm", fuse_group_norm, ("cuda",), portable=False),
    Pass("channels_last_views", channels_last_views, ("cuda",)),
    Pass("channels_last_views", partial(channels_last_views, resize=False), ("openvino",)),
    Pass("scale_streams", scale_streams, on_request=True),
    Pass(INT8_TEXT, to_int8, only="text_encoder", on_request=True),
)

ON_REQUEST = tuple(row.name for row in PASSES if row.on_request)
"""Passes that run where they are asked for: more range for float16, and an int8 text encoder."""


def names_of(provider: str) -> list[str]:
    """The passes that run for `provider` unless they are left out, in order."""
    last = [SPLIT, PAD_TEXT] if ROWS[provider].one_shape else [SPLIT]
    return [*(row.name for row in PASSES if row.is_for(provider) and not row.on_request), *last]


def apply(model: ir.Model, graph: str, provider: str, names: Sequence[str]) -> ir.Model:
    """Run the passes of `names` that are meant for `provider` and for the graph named `graph`, in order."""
    for row in PASSES:
        if row.is_for(provider) and row.name in names and row.only in (None, graph):
            model = row.apply(model)
    return model
