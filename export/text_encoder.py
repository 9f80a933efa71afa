"""T5-type text encoder with the projection of the release: Linear + LayerNorm, and the null embedding.

The T5 half follows Raffel et al. 2020 in the v1.1 form that Flan-UL2 uses: RMS norm before each half, relative position
buckets shared by all layers, gated GELU, no biases, scores not scaled.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.configs import T5Config


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class RelativePosition(nn.Module):
    """A learned bias per head for the distance between two tokens: exact when near, in growing buckets when far."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.buckets = config.relative_attention_num_buckets
        self.max_distance = config.relative_attention_max_distance
        self.bias = nn.Embedding(self.buckets, config.num_heads)

    def forward(self, length: int, device: torch.device) -> Tensor:
        position = torch.arange(length, device=device)
        distance = position[None, :] - position[:, None]  # key minus query
        half = self.buckets // 2
        exact = half // 2
        far = distance.abs().clamp_min(1).float()
        growing = exact + (torch.log(far / exact) / math.log(self.max_distance / exact) * (half - exact)).long()
        near = torch.where(distance.abs() < exact, distance.abs(), growing.clamp_max(half - 1))
        bucket = near + torch.where(distance > 0, half, 0)
        biases: Tensor = self.bias(bucket)  # [L, L, heads]
        return biases.permute(2, 0, 1)[None]


class T5Layer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.d_kv = config.d_kv
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.query = nn.Linear(config.d_model, inner, bias=False)
        self.key = nn.Linear(config.d_model, inner, bias=False)
        self.value = nn.Linear(config.d_model, inner, bias=False)
        self.output = nn.Linear(inner, config.d_model, bias=False)
        self.feed_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.linear = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.feed_output = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        query, key, value = (
            layer(normed).unflatten(-1, (-1, self.d_kv)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # [B, heads, L, d_kv]
        scores = query @ key.transpose(-1, -2) + bias
        x = x + self.output((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))
        normed = self.feed_norm(x)
        return x + self.feed_output(F.gelu(self.gate(normed), approximate="tanh") * self.linear(normed))


class T5Encoder(nn.Module):
    """``input_ids``, ``attention_mask`` ``[B, L]`` -> ``[B, L, d_model]``."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position = RelativePosition(config)
        self.layers = nn.ModuleList(T5Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x: Tensor = self.embedding(input_ids)
        hidden = (1 - attention_mask.to(x.dtype))[:, None, None, :] * torch.finfo(x.dtype).min
        bias = self.position(input_ids.shape[1], input_ids.device).to(x.dtype) + hidden
        for layer in self.layers:
            x = layer(x, bias)
        normed: Tensor = self.norm(x)
        return normed


class TextEncoder(nn.Module):
    """Text -> (``context`` ``[B, L, D]`` with zeros in the padding, ``null_embedding`` ``[D]``)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.t5 = T5Encoder(config)
        self.projection = nn.Linear(config.d_model, config.context_dim, bias=False)
        self.projection_norm = nn.LayerNorm(config.context_dim)
        self.null_embedding = nn.Parameter(torch.zeros(config.context_dim))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        context = self.projection_norm(self.projection(self.t5(input_ids, attention_mask)))
        return context * attention_mask[:, :, None].to(context.dtype), self.null_embedding * 1.0
