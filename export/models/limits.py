"""What the inputs of a model may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What the inputs of a model may be.

    Latent sides are multiples of `cell`, pixels of `downscale` times that. `context_dim` is D; token ids lie below
    `vocab_size`, temporal positions below `position_range`.
    """

    cell: int
    downscale: int
    context_dim: int
    vocab_size: int
    position_range: int
