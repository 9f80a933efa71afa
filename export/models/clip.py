"""CLIP's text transformer (Radford et al. 2021) as a text encoder of a bundle.

Each token sees those before it; the context is the last hidden state after the final norm, as in latent diffusion.
The pooled vector and CLIP's own projection into the space of images are not used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.models.configs import CLIPTextConfig
from export.models.t5 import ACTIVATIONS, ContextHead


class ClipLayer(nn.Module):
    """``x`` ``[B, L, hidden_size]``, ``bias`` ``[B, 1, L, L]`` -> ``[B, L, hidden_size]``."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_dim = width // config.num_attention_heads
        self.activation = ACTIVATIONS[config.hidden_act]
        self.attention_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.feed_input = nn.Linear(width, config.intermediate_size)
        self.feed_output = nn.Linear(config.intermediate_size, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        query, key, value = (
            layer(normed).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # [B, heads, L, head_dim]
        scores = query @ key.transpose(-1, -2) * self.head_dim**-0.5 + bias
        x = x + self.output((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))
        fed: Tensor = self.feed_output(self.activation(self.feed_input(self.feed_norm(x))))
        return x + fed


class ClipText(nn.Module):
    """``input_ids``, ``attention_mask`` ``[B, L]`` -> ``[B, L, hidden_size]``; L is at most the learned positions."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        x: Tensor = self.embedding(input_ids) + self.position(place)
        seen = (place[None, :] <= place[:, None])[None, None] & (attention_mask != 0)[:, None, None, :]
        bias = (~seen).to(x.dtype) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, bias)
        normed: Tensor = self.norm(x)
        return normed


class ClipTextEncoder(ContextHead):
    """``input_ids``, ``attention_mask`` int64 ``[B, L]`` -> what :class:`ContextHead` says, behind CLIP."""

    def __init__(self, config: CLIPTextConfig, interpolation_null: bool = False) -> None:
        super().__init__(config, config.hidden_size, interpolation_null)
        self.clip = ClipText(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return self.contexts(self.clip(input_ids, attention_mask), attention_mask)
