"""The denoising loop around a conditioned network, on the host or on the device."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray, Feed
from ffrt.backend.session import Session
from ffrt.sampling import Array, Denoised, Parametrisation, Sampling, denoise, guide_rows, updates
from ffrt.stages.device_loop import denoise_on_device
from ffrt.stages.model_input import ModelInput, ModelInputs

Network = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]
"""A U-Net as the stages run it: named inputs -> named outputs, "prediction" among them."""
Prompt = tuple[Array, NDArray[np.bool_]]
"""Text context [B, L, D] and its mask [B, L], the conditional row first."""


def text_rows(prompt: Prompt, rows: NDArray[np.intp], time: float) -> dict[str, NDArray[Any]]:
    """The time, and the text of these rows of a prompt, as a network takes them that reads text."""
    context, mask = prompt
    return {"time": np.full(len(rows), time, np.float32), "context": context[rows], "context_mask": mask[rows]}


@runtime_checkable
class DeviceNetwork(Protocol):
    """A network that can leave its outputs on its device."""

    def __call__(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Run it; all outputs on the host."""

    def on_device(self, feed: Feed) -> dict[str, DeviceArray]:
        """Run it; outputs stay on the device."""

    def precompute(self, feeds: Iterable[Feed]) -> None:
        """Work out what depends on text or time alone for all steps, where that saves memory."""


def denoise_network(
    network: Network | DeviceNetwork,
    update: Session | None,
    inputs: ModelInputs,
    noise: Iterator[Array],
    config: Parametrisation,
    sampling: Sampling,
) -> Generator[Denoised, None, Array]:
    """`ffrt.sampling.denoise` of `network`, which sees the latent through one input, or through several in turn.

    With `update`, a session over `ffrt.stages.device_loop.UPDATE` on the same device, and a network that sees the whole
    latent through one input, nothing leaves the device between steps.
    """
    steps, sampler = sampling.num_inference_steps, sampling.sampler
    times = [step.time for step in updates(config, steps, sampler)]
    seen = [inputs.at(time) for time in times]
    if isinstance(network, DeviceNetwork):
        network.precompute(one.conditioning(time) for time, each in zip(times, seen, strict=True) for one in each)
    wholes = [each[0] for each in seen if len(each) == 1 and each[0].items is None]
    if update is not None and isinstance(network, DeviceNetwork) and len(wholes) == steps:
        graph = network

        def on_device(x_in: DeviceArray, time: float) -> DeviceArray:
            return graph.on_device({"x": x_in, **inputs.at(time)[0].conditioning(time)})["prediction"]

        return (
            yield from denoise_on_device(on_device, update, noise, config, steps=steps, sampler=sampler, inputs=wholes)
        )

    def predict(x: Array, time: float) -> Array:
        parts = []
        for one in inputs.at(time):
            guided = guided_prediction(network, one, x if one.items is None else x[one.items], time)
            parts.append(guided if one.core is None else guided[one.core])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return (yield from denoise(predict, noise, config, steps=steps, sampler=sampler))


def guided_prediction(network: Network | DeviceNetwork, one: ModelInput, x: Array, time: float) -> Array:
    """What `network` predicts for the items `x` that `one` sees, the rows of guidance summed."""
    rows = np.concatenate([x] * len(one.weights)).reshape(len(one.before), -1, *x.shape[-2:])
    feed = {"x": np.concatenate([one.before, rows, one.after], axis=1), **one.conditioning(time)}
    return guide_rows(network(feed)["prediction"], one.weights).reshape(x.shape)
