"""T5-type text encoder with the projection of the release: Linear + LayerNorm, and the null embedding.

The T5 half follows Raffel et al. 2020, RMS norm before each half, relative position buckets, no biases, scores not
scaled: with one feed-forward layer (T5), a gated one (v1.1, which Flan-UL2 uses), or positions in every layer (UMT5).

The networks are ours because optimum-onnx 0.1 exports text encoders without an attention mask, takes all weights
through memory and needs transformers < 4.58.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.models.configs import CLIPTextConfig, T5Config


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "swish": F.silu,
}
"""Hugging Face's names of the feed-forward activations that are supported."""


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
        self.half = config.relative_attention_num_buckets // 2
        self.starts = bucket_starts(self.half, config.relative_attention_max_distance)
        self.bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def forward(self, length: int, device: torch.device) -> Tensor:
        position = torch.arange(length, device=device)
        biases: Tensor = self.bias(self.bucket(position[None, :] - position[:, None]))  # [L, L, heads]
        return biases.permute(2, 0, 1)[None]

    def bucket(self, distance: Tensor) -> Tensor:
        """Key position minus query position -> number of the learned bias, both int64 ``[L, L]``."""
        away = distance.abs()
        bucket = away.clamp_max(self.half // 2)
        for start in self.starts:
            bucket = bucket + (away >= start)
        return bucket + self.half * (distance > 0)


def bucket_starts(half: int, max_distance: int) -> list[int]:
    """The distance at which each growing bucket but the first begins, out of ``half`` buckets for one direction.

    T5 takes ``floor(log(distance / exact) / log(max_distance / exact) * (half - exact))``. Whole numbers say the same
    exactly; in float32 the logarithm of a power of two falls on either side of the floor, by machine.
    """
    exact = half // 2
    growing = half - exact
    starts, distance = [], exact
    for step in range(1, growing):
        while distance**growing * exact**step < max_distance**step * exact**growing:
            distance += 1
        starts.append(distance)
    return starts


class T5Layer(nn.Module):
    """``x`` ``[B, L, d_model]``, ``bias`` ``[B, heads, L, L]`` -> ``[B, L, d_model]``."""

    def __init__(self, config: T5Config, own_position: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.d_kv = config.d_kv
        self.activation = ACTIVATIONS[config.dense_act_fn]
        self.gated = config.is_gated_act
        self.position = RelativePosition(config) if own_position else None
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.query = nn.Linear(config.d_model, inner, bias=False)
        self.key = nn.Linear(config.d_model, inner, bias=False)
        self.value = nn.Linear(config.d_model, inner, bias=False)
        self.output = nn.Linear(inner, config.d_model, bias=False)
        self.feed_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        if self.gated:
            self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.linear = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.feed_input = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.feed_output = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        query, key, value = (
            layer(normed).unflatten(-1, (-1, self.d_kv)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # [B, heads, L, d_kv]
        scores = query @ key.transpose(-1, -2) + bias
        x = x + self.output((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))
        normed = self.feed_norm(x)
        if self.gated:
            return x + self.feed_output(self.activation(self.gate(normed)) * self.linear(normed))
        return x + self.feed_output(self.activation(self.feed_input(normed)))


class T5Encoder(nn.Module):
    """``input_ids``, ``attention_mask`` ``[B, L]`` -> ``[B, L, d_model]``."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position = RelativePosition(config)
        self.layers = nn.ModuleList(
            T5Layer(config, own_position=config.positions_in_every_layer and number > 0)
            for number in range(config.num_layers)
        )
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x: Tensor = self.embedding(input_ids)
        length, device = input_ids.shape[1], input_ids.device
        hidden = (1 - attention_mask.to(x.dtype))[:, None, None, :] * torch.finfo(x.dtype).min
        first = self.position(length, device).to(x.dtype) + hidden
        for layer in self.layers:
            own = layer.position
            x = layer(x, first if own is None else own(length, device).to(x.dtype) + hidden)
        normed: Tensor = self.norm(x)
        return normed


class ContextHead(nn.Module):
    """What stands behind a text encoder: its projection, zeros in the padding, and the null embeddings.

    ``hidden`` ``[B, L, width]``, ``attention_mask`` ``[B, L]`` -> ``context`` ``[B, L, D]``, ``null_embedding`` ``[D]``
    and, with ``interpolation_null``, ``interpolation_null_embedding`` ``[D]`` (``IMAGE_CONTRACT`` of ``ffrt.bundle``).
    """

    def __init__(self, config: T5Config | CLIPTextConfig, width: int, interpolation_null: bool) -> None:
        super().__init__()
        self.projected = config.projection
        if config.projection:
            self.projection = nn.Linear(width, config.context_dim, bias=False)
            self.projection_norm = nn.LayerNorm(config.context_dim)
        self.null_embedding = nn.Parameter(torch.zeros(config.context_dim))
        self.interpolation_null_embedding = (
            nn.Parameter(torch.zeros(config.context_dim)) if interpolation_null else None
        )

    def contexts(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        context = self.projection_norm(self.projection(hidden)) if self.projected else hidden
        context = context * attention_mask[:, :, None].to(context.dtype)
        if self.interpolation_null_embedding is None:
            return context, self.null_embedding * 1.0
        return context, self.null_embedding * 1.0, self.interpolation_null_embedding * 1.0


class TextEncoder(ContextHead):
    """``input_ids``, ``attention_mask`` int64 ``[B, L]`` -> what :class:`ContextHead` says, behind T5."""

    def __init__(self, config: T5Config, interpolation_null: bool = False) -> None:
        super().__init__(config, config.d_model, interpolation_null)
        self.t5 = T5Encoder(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return self.contexts(self.t5(input_ids, attention_mask), attention_mask)
