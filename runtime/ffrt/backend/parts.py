"""A graph that was split in several sessions, run as one: what stays the same from step to step is worked out once.

Text keys and values change once a request and the tables of scale and shift once a noise level
(``graphs.passes.split``); what such a part gave stays on the device, and parts that saw the same inputs before are not
run again.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray, Feed, Tensor, on_host
from ffrt.backend.cancel import Cancellation
from ffrt.backend.cuda_graph import Recorded
from ffrt.backend.session import Session
from ffrt.bundle import PartSpec
from ffrt.errors import BundleError, GraphInputError
from ffrt.families import TensorSpec

KEPT_BYTES = 1 << 28
"""How much is kept of what parts gave: tables of 50 noise levels take 105 MB in float16 at the released size."""

Given = dict[str, DeviceArray]


class Parts:
    """The sessions of one graph, with what a :class:`ffrt.backend.session.Session` has.

    `opened` opens the file of a part again where `precompute` has closed it. Raises BundleError where a file takes or
    gives something else than its part of the manifest says.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[TensorSpec],
        parts: Sequence[tuple[PartSpec, Session | Recorded]],
        opened: Callable[[str, Cancellation | None], Session | Recorded],
    ) -> None:
        for part, session in parts:
            for side, want, got in (
                ("inputs", part.inputs, session.inputs),
                ("outputs", part.outputs, session.outputs),
            ):
                names = [tensor.name for tensor in got]
                if sorted(names) != sorted(want):
                    raise BundleError(
                        f"graph {name}, {part.file}: the manifest has the {side} {want}, the file {names}"
                    )
        self.name = name
        self._slow = [(part, session.inputs) for part, session in parts[:-1]]
        self._sessions = {part.file: session for part, session in parts[:-1]}
        self._opened = opened
        self._step = parts[-1][1]
        self._kept: OrderedDict[bytes, Given] = OrderedDict()
        self._before: dict[str, tuple[dict[str, NDArray[Any] | bytes], bytes]] = {}
        found = {tensor.name: tensor.dtype for _, session in parts for tensor in session.inputs}
        step = {tensor.name: tensor for tensor in self._step.inputs}
        self.inputs = [
            step.get(spec.name, Tensor(spec.name, found.get(spec.name, spec.dtype), None)) for spec in inputs
        ]
        self.outputs = self._step.outputs

    @property
    def provider(self) -> str:
        """The provider that the step got, in the words that `provider=` takes."""
        return self._step.provider

    @property
    def device(self) -> str:
        """Where device arrays lie: "cuda" or "cpu"."""
        return self._step.device

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """`array` uploaded to the device, as a session does it."""
        return self._step.device_array(array)

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """All outputs on the host; raises as a session does."""
        return self._step.run(self._fed(feed, cancellation), cancellation)

    def run_on_device(self, feed: Feed, outputs: Sequence[str], cancellation: Cancellation | None = None) -> Given:
        """The named outputs, left on the device; raises as a session does."""
        return self._step.run_on_device(self._fed(feed, cancellation), outputs, cancellation)

    def precompute(self, feeds: Iterable[Feed], cancellation: Cancellation | None = None) -> None:
        """Work out what the other parts give for runs to come, then close them: the step has their memory. `feeds` may
        lack what the step alone takes.
        """
        for feed in feeds:
            self._known(feed, cancellation)
        self._sessions.clear()

    def _fed(self, feed: Feed, cancellation: Cancellation | None) -> Feed:
        """What the step takes: inputs of the graph, and what the other parts give for them."""
        known = self._known(feed, cancellation)
        return {tensor.name: known[tensor.name] for tensor in self._step.inputs}

    def _known(self, feed: Feed, cancellation: Cancellation | None) -> Feed:
        """`feed` and what the parts before the step give for it."""
        known: dict[str, NDArray[Any] | DeviceArray] = dict(feed)
        came_from: dict[str, bytes] = {}
        for part, inputs in self._slow:
            given = {tensor.name: self._fitted(tensor, known[tensor.name]) for tensor in inputs}
            key = self._key(
                part.file,
                {name: came_from[name] if name in came_from else on_host(value) for name, value in given.items()},
            )
            if key not in self._kept:
                if part.file not in self._sessions:
                    self._sessions[part.file] = self._opened(part.file, cancellation)
                self._kept[key] = self._sessions[part.file].run_on_device(given, list(part.outputs), cancellation)
            self._kept.move_to_end(key)
            known.update(self._kept[key])
            came_from.update(dict.fromkeys(part.outputs, key))
        while len(self._kept) > len(self._slow) and sum(map(_size, self._kept.values())) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return known

    def _key(self, file: str, told: Mapping[str, NDArray[Any] | bytes]) -> bytes:
        """The same for the same part and inputs: of what another part gave, that part's own key counts. Inputs that are
        as in the call before, as they are in every step but the first, are compared and not hashed.
        """
        before, key = self._before.get(file, ({}, b""))
        if told.keys() != before.keys() or not all(_same(told[name], before[name]) for name in told):
            digest = hashlib.sha256(file.encode())
            for name, value in sorted(told.items()):
                array = value if isinstance(value, bytes) else np.ascontiguousarray(value)
                kind = "" if isinstance(array, bytes) else f"{array.dtype}{array.shape}"
                digest.update(f"{name}{kind}".encode())
                digest.update(array if isinstance(array, bytes) else array.data)
            key = digest.digest()
            self._before[file] = ({n: v if isinstance(v, bytes) else v.copy() for n, v in told.items()}, key)
        return key

    def _fitted(self, tensor: Tensor, value: NDArray[Any] | DeviceArray) -> NDArray[Any] | DeviceArray:
        """`value`, its one number where the part takes one for all groups. Raises GraphInputError where they differ."""
        if tensor.shape != (1,) or value.shape == (1,):
            return value
        numbers = on_host(value)
        if (numbers != numbers[:1]).any():
            raise GraphInputError(
                f"graph {self.name}, input {tensor.name}: expected the same number {value.shape[0]} times, since this "
                f"bundle was optimised for that, got {numbers.tolist()!r:.200}; use the bundle that it was made of"
            )
        return numbers[:1]


def _same(one: NDArray[Any] | bytes, other: NDArray[Any] | bytes) -> bool:
    if isinstance(one, bytes) or isinstance(other, bytes):
        return isinstance(one, bytes) and isinstance(other, bytes) and one == other
    return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)


def _size(given: Given) -> int:
    return sum(math.prod(value.shape) * value.dtype.itemsize for value in given.values())
