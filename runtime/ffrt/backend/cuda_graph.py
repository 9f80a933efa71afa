"""A session whose launches a GPU records once and replays, which saves the host's part of every kernel.

A recording (a CUDA graph) holds the addresses of its arrays: they stay where they are, and inputs are written into
them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray, Feed, Tensor, on_host
from ffrt.backend.cancel import Cancellation, Turn, token
from ffrt.backend.runner import Runner


class CudaGraphSession:
    """A session opened with `cuda_graph`.

    The first run of every shape is an ordinary one, the second is recorded, later ones are replayed; for another shape
    the session is opened anew. The next run overwrites what a run left on the device. Device arrays in a feed go
    through the host, unless they are the same objects as before, which must hold the same numbers.

    The recording belongs to the thread that began it, since another's run would overwrite results that are still in
    use: while that thread lives, runs of others are ordinary ones.
    """

    def __init__(self, name: str, session: Runner) -> None:
        self._name = name
        self._session = session
        self._turn = Turn()
        self._owner = threading.current_thread()
        self._inputs: dict[str, DeviceArray] = {}
        self._outputs: dict[str, DeviceArray] = {}
        self._fed: dict[str, NDArray[Any] | DeviceArray] = {}
        self.inputs: Sequence[Tensor] = session.inputs
        self.outputs: Sequence[Tensor] = session.outputs
        self.provider = session.provider
        self.device = session.device

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """`array` uploaded to the device, as a session does it."""
        return self._session.device_array(array)

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """Return all outputs on the host, copied; raises as a session does."""
        values = self.run_on_device(feed, [tensor.name for tensor in self.outputs], cancellation)
        return {name: value.numpy().copy() for name, value in values.items()}

    def run_on_device(
        self,
        feed: Feed,
        outputs: Sequence[str] | Mapping[str, DeviceArray],
        cancellation: Cancellation | None = None,
    ) -> dict[str, DeviceArray]:
        """Return the named outputs, on the device until the next run; raises as a session does."""
        cancellation = token(cancellation)
        with self._turn.taken(cancellation, f"graph {self._name}"):
            current = threading.current_thread()
            if self._owner is not current:
                if self._owner.is_alive():
                    return self._session.run_on_device(feed, outputs, cancellation)
                self._owner = current
                self._fed = {}
            values = self._replayed(feed, cancellation)
        if isinstance(outputs, Mapping):
            for name, target in outputs.items():
                target.update(values[name].numpy())
            return dict(outputs)
        return {name: values[name] for name in outputs}

    def _replayed(self, feed: Feed, cancellation: Cancellation) -> dict[str, DeviceArray]:
        if {name: value.shape for name, value in feed.items()} != {n: v.shape for n, v in self._inputs.items()}:
            values = self._session.run_on_device(feed, [tensor.name for tensor in self.outputs], cancellation)
            self._inputs = {name: self.device_array(on_host(value).copy()) for name, value in feed.items()}
            self._outputs = {name: self.device_array(np.zeros(v.shape, v.dtype)) for name, v in values.items()}
            self._fed = dict(feed)
            return values
        for name, value in feed.items():
            if not isinstance(value, DeviceArray) or self._fed.get(name) is not value:
                self._inputs[name].update(on_host(value))
                self._fed[name] = value
        return self._session.run_on_device(self._inputs, self._outputs, cancellation)
