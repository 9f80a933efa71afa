"""Noise, drawn on the CPU by PCG64, so that a seed means the same video on every provider."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import RequestError

Array = NDArray[np.float32]
"""Latents, noise, predictions: everything that a sampler computes with."""


def normal_noise(seed: int, stream: int, shape: tuple[int, ...]) -> Iterator[Array]:
    """Endless standard normal draws, float32 of `shape`; each pair of seed and stream draws its own."""
    generator = _generator(seed, stream)
    while True:
        yield generator.standard_normal(shape, dtype=np.float32)


def group_noise(seed: int, stream: int, first: int, shape: tuple[int, ...]) -> Iterator[Array]:
    """Endless draws float32 of `shape` [G, ...], whose item i is drawn for the number `first` + i alone.

    An item is the same whatever else is drawn with it: what is made in windows does not depend on where they lie.
    """
    generators = [_generator(seed, stream, first + i) for i in range(shape[0])]
    while True:
        yield np.stack([one.standard_normal(shape[1:], dtype=np.float32) for one in generators])


def uniform_noise(seed: int, stream: int, shape: tuple[int, ...]) -> Array:
    """One draw float32 of `shape` between 0 and 1: what the 1.1 release adds to the latent of a first frame."""
    return _generator(seed, stream).random(shape, dtype=np.float32)


def take(noise: Iterator[Array]) -> Array:
    """The next draw. Raises RequestError if there is none."""
    try:
        return next(noise)
    except StopIteration:
        raise RequestError(
            "noise: expected a start and, with 'ddpm', one draw for every step but the last; got fewer"
        ) from None


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
