"""Classifier-free guidance and the dynamic threshold."""

from __future__ import annotations

import numpy as np

from ffrt.sampling.noise import Array


def guide(conditional: Array, unconditional: Array, guidance_scale: float) -> Array:
    """Classifier-free guidance in the release's convention: `(w + 1) c - w u`, so 0 is no guidance."""
    return (guidance_scale + 1) * conditional - guidance_scale * unconditional


def guidance_weights(guidance_scale: float) -> Array:
    """The weights that `guide` gives the conditional and the unconditional row; at scale 0 there is one row."""
    return np.array([guidance_scale + 1, -guidance_scale] if guidance_scale else [1], np.float32)


def plain_weights(rows: int) -> Array:
    """The weights of a step without guidance: the conditional row counts, and those after it do not."""
    return np.array([1] + [0] * (rows - 1), np.float32)


def guide_rows(prediction: Array, weights: Array) -> Array:
    """A batch [B*n, ...] of B guidance rows -> their weighted sum [n, ...]."""
    guided: Array = np.tensordot(weights, prediction.reshape(len(weights), -1, *prediction.shape[1:]), axes=1)
    return guided


def dynamic_threshold(x0: Array, quantile: float | None, most: float | None = None) -> Array:
    """Clip every row of `x0` to its own quantile of |x0|, and divide by it (Saharia et al. 2022, section 2.3).

    The quantile is held between 1 and `most`. With `most` 1, as in the 1.1 release, this is a clip to -1..1. Without a
    quantile `x0` stays as it is.
    """
    if quantile is None:
        return x0
    if most == 1:
        return np.clip(x0, -1, 1)
    limit = np.quantile(np.abs(x0).reshape(len(x0), -1), quantile, axis=1).astype(np.float32)
    limit = np.clip(limit, 1, most).reshape(-1, *[1] * (x0.ndim - 1))
    return np.clip(x0, -limit, limit) / limit
