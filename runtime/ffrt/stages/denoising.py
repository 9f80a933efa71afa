"""A network and what it sees beside the latent, denoised on the host or on the device."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray
from ffrt.backend.graph import Graph
from ffrt.backend.session import Session
from ffrt.sampling import Array, Denoised, Parametrisation, denoise, guide_rows, updates
from ffrt.stages.device_loop import denoise_on_device
from ffrt.stages.step_cache import Network

Told = Callable[[float], dict[str, NDArray[Any]]]
"""The time -> every input of the network but `x`."""


@dataclass(frozen=True)
class Seen:
    """What a network sees of items [n, c, h, w] for B rows of guidance.

    Its input is `before`, the latent once for each row, `after` [B*n, .., h, w], joined along the channels (items may
    be cut finer: as many as `before` has). `weights` [B] sums its predictions; `items` are those of the latent that it
    sees, None for all, `core` those of `items` that it predicts for.
    """

    weights: NDArray[np.float32]
    before: Array
    after: Array
    told: Told
    items: slice | None = None
    core: slice | None = None


def no_channels(items: int, latent: tuple[int, ...]) -> Array:
    """Nothing to see for `items` of a latent [.., c, h, w]."""
    return np.zeros((items, 0, *latent[-2:]), np.float32)


def denoise_network(
    network: Network,
    update: Session | None,
    views: Sequence[Seen],
    noise: Iterator[Array],
    config: Parametrisation,
    *,
    steps: int,
    sampler: str,
) -> Generator[Denoised, None, Array]:
    """:func:`ffrt.sampling.denoise` of `network`, which sees the latent in one view or several, one after the
    other.

    With `update`, a session over `ffrt.stages.device_loop.UPDATE` on the same device, and a graph that sees all in
    one view, nothing leaves the device between steps.
    """
    if isinstance(network, Graph):
        network.precompute(view.told(step.time) for step in updates(config, steps, sampler) for view in views)
    whole = views[0]
    if update is not None and isinstance(network, Graph) and len(views) == 1 and whole.items is None:
        graph = network

        def on_device(x_in: DeviceArray, time: float) -> DeviceArray:
            return graph.on_device({"x": x_in, **whole.told(time)})["prediction"]

        return (
            yield from denoise_on_device(
                on_device,
                update,
                noise,
                config,
                steps=steps,
                sampler=sampler,
                weights=whole.weights,
                before=whole.before,
                after=whole.after,
            )
        )

    def predict(x: Array, time: float) -> Array:
        parts = []
        for view in views:
            guided = _guided(network, view, x if view.items is None else x[view.items], time)
            parts.append(guided if view.core is None else guided[view.core])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return (yield from denoise(predict, noise, config, steps=steps, sampler=sampler))


def _guided(network: Network, view: Seen, x: Array, time: float) -> Array:
    rows = np.concatenate([x] * len(view.weights)).reshape(len(view.before), -1, *x.shape[-2:])
    feed = {"x": np.concatenate([view.before, rows, view.after], axis=1), **view.told(time)}
    return guide_rows(network(feed)["prediction"], view.weights).reshape(x.shape)
