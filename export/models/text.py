"""A text encoder of transformers, with what the release has behind it: a projection and the null embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.errors import ConfigError
from export.models.configs import TextConfig
from export.models.quiet import quiet


class TextEncoder(nn.Module):
    """`input_ids`, `attention_mask` int64 `[B, L]` -> `context` `[B, L, D]` and `null_embedding` `[D]`.

    `context` is zero in the padding. With `interpolation_null` there is `interpolation_null_embedding` `[D]` as well,
    as in Kandinsky Video 1.1. Raises ConfigError for sizes that do not fit and for an encoder that is not known.
    """

    def __init__(self, config: TextConfig, interpolation_null: bool = False) -> None:
        super().__init__()
        with quiet():
            from export.models.encoders import build, describe, sizes_of

            sizes = sizes_of(config.model_type, config.sizes)
            self.inputs = tuple(describe(sizes).inputs)
            self.encoder = build(sizes)
        width = sizes.hidden_size
        if not config.projection and config.context_dim != width:
            raise ConfigError(f"context_dim: expected the encoder's width {width}, got {config.context_dim}")
        self.projected = config.projection
        if config.projection:
            self.projection = nn.Linear(width, config.context_dim, bias=False)
            self.projection_norm = nn.LayerNorm(config.context_dim)
        self.null_embedding = nn.Parameter(torch.zeros(config.context_dim))
        self.interpolation_null_embedding = (
            nn.Parameter(torch.zeros(config.context_dim)) if interpolation_null else None
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """The context and the null embeddings."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        given |= {name: torch.zeros_like(input_ids) for name in self.inputs if name == "token_type_ids"}
        hidden: Tensor = self.encoder(**given, return_dict=True).last_hidden_state
        context = self.projection_norm(self.projection(hidden)) if self.projected else hidden
        context = context * attention_mask[:, :, None].to(context.dtype)
        if self.interpolation_null_embedding is None:
            return context, self.null_embedding * 1.0
        return context, self.null_embedding * 1.0, self.interpolation_null_embedding * 1.0


def empty_text_encoder(config: TextConfig, interpolation_null: bool = False) -> tuple[TextEncoder, dict[str, Tensor]]:
    """The encoder on the meta device, without weights, and the values of its buffers, which no weight file holds."""
    from transformers.integrations.accelerate import init_empty_weights

    with init_empty_weights():
        module = TextEncoder(config, interpolation_null)
    buffers = dict(module.named_buffers())
    return module.to("meta"), buffers
