"""A session whose launches a GPU records once and plays back, which saves the host's part of every kernel.

A recording (a CUDA graph) holds the addresses of its arrays: they stay where they are, and what a run is fed is written
into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray, Feed, Tensor, on_host
from ffrt.backend.cancel import Cancellation
from ffrt.backend.session import Session


class Recorded:
    """A session opened with `cuda_graph`, with what it has.

    The first run of every shape is an ordinary one, the second is recorded, later ones play that back; for another
    shape the session is opened anew. What a run leaves on the device is overwritten by the next. Device arrays that are
    fed go through the host, unless they are the same objects as before, which must hold the same numbers.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._inputs: dict[str, DeviceArray] = {}
        self._outputs: dict[str, DeviceArray] = {}
        self._fed: dict[str, NDArray[Any] | DeviceArray] = {}

    @property
    def inputs(self) -> list[Tensor]:
        """As the file has them."""
        return self._session.inputs

    @property
    def outputs(self) -> list[Tensor]:
        """As the file has them."""
        return self._session.outputs

    @property
    def provider(self) -> str:
        """The provider that the session really got, in the words that `provider=` takes."""
        return self._session.provider

    @property
    def device(self) -> str:
        """Where device arrays lie: "cuda" or "cpu"."""
        return self._session.device

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """`array` uploaded to the device, as a session does it."""
        return self._session.device_array(array)

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """All outputs on the host, copied; raises as a session does."""
        made = self.run_on_device(feed, [tensor.name for tensor in self.outputs], cancellation)
        return {name: value.numpy().copy() for name, value in made.items()}

    def run_on_device(
        self, feed: Feed, outputs: Sequence[str], cancellation: Cancellation | None = None
    ) -> dict[str, DeviceArray]:
        """The named outputs, left on the device until the next run; raises as a session does."""
        if {name: value.shape for name, value in feed.items()} != {n: v.shape for n, v in self._inputs.items()}:
            made = self._session.run_on_device(feed, [tensor.name for tensor in self.outputs], cancellation)
            self._inputs = {name: self.device_array(on_host(value).copy()) for name, value in feed.items()}
            self._outputs = {name: self.device_array(np.zeros(one.shape, one.dtype)) for name, one in made.items()}
            self._fed = dict(feed)
        else:
            for name, value in feed.items():
                if not isinstance(value, DeviceArray) or self._fed[name] is not value:
                    self._inputs[name].update(on_host(value))
                    self._fed[name] = value
            made = self._session.run_on_device(self._inputs, self._outputs, cancellation)
        return {name: made[name] for name in outputs}
