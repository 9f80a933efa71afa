"""A graph that was split into several sessions, run as one: what stays the same from step to step is computed once.

Keys and values of the text change once per request, the tables of scale and shift once per noise level
(`graphs.passes.split`). Their outputs stay on the device, and a part does not run again on inputs that it saw before.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray, Feed, Tensor, on_host
from ffrt.backend.cancel import Cancellation, Turn, token
from ffrt.backend.inherited import keep_for_ever
from ffrt.backend.runner import Runner
from ffrt.bundle import PartSpec
from ffrt.errors import BundleError, GraphInputError
from ffrt.families import TensorSpec

KEPT_BYTES = 1 << 28
"""How many bytes of outputs are kept: tables of 50 noise levels take 105 MB in float16 at the released size."""

Outputs = dict[str, DeviceArray]
Opener = Callable[[str, Cancellation], Runner]
"""Opens the file of a part."""


class Parts:
    """The sessions of one graph, of which the last runs in every step.

    `open_part` opens the file of a part again where `precompute` has closed it. Raises BundleError where the inputs or
    outputs of a file differ from its part of the manifest.
    """

    def __init__(
        self,
        name: str,
        inputs: Sequence[TensorSpec],
        parts: Sequence[tuple[PartSpec, Runner]],
        open_part: Opener,
    ) -> None:
        for part, session in parts:
            _check_part(name, part, session)
        self.name = name
        self.step = parts[-1][1]
        self._early = [(part, session.inputs) for part, session in parts[:-1]]
        self._sessions = {part.file: session for part, session in parts[:-1]}
        self._open_part = open_part
        self._turn = Turn()
        self._process = os.getpid()
        self._kept: OrderedDict[bytes, Outputs] = OrderedDict()
        self._last: dict[str, tuple[dict[str, NDArray[Any] | bytes], bytes]] = {}
        dtypes = {tensor.name: tensor.dtype for _, session in parts for tensor in session.inputs}
        step = {tensor.name: tensor for tensor in self.step.inputs}
        self.inputs: Sequence[Tensor] = [
            step.get(spec.name, Tensor(spec.name, dtypes.get(spec.name, spec.dtype), None)) for spec in inputs
        ]
        self.outputs: Sequence[Tensor] = self.step.outputs
        self.provider = self.step.provider
        self.device = self.step.device

    @property
    def kept(self) -> list[Outputs]:
        """What earlier runs of the parts before the step left on the device, the oldest first."""
        return list(self._kept.values())

    @property
    def open_files(self) -> list[str]:
        """The files of the parts before the step that are open."""
        return list(self._sessions)

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """`array` uploaded to the device, as a session does it."""
        return self.step.device_array(array)

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """Return all outputs on the host; raises as a session does."""
        return self.step.run(self._step_feed(feed, token(cancellation)), cancellation)

    def run_on_device(
        self,
        feed: Feed,
        outputs: Sequence[str] | Mapping[str, DeviceArray],
        cancellation: Cancellation | None = None,
    ) -> Outputs:
        """Return the named outputs on the device; raises as a session does."""
        return self.step.run_on_device(self._step_feed(feed, token(cancellation)), outputs, cancellation)

    def precompute(self, feeds: Iterable[Feed], cancellation: Cancellation | None = None) -> None:
        """Run the parts before the step for runs to come, then close them: the step gets their memory.

        `feeds` may lack what the step alone takes.
        """
        cancellation = token(cancellation)
        for feed in feeds:
            self._with_outputs(feed, cancellation)
        with self._turn.taken(cancellation, f"graph {self.name}"):
            self._sessions.clear()

    def _step_feed(self, feed: Feed, cancellation: Cancellation) -> Feed:
        known = self._with_outputs(feed, cancellation)
        return {tensor.name: known[tensor.name] for tensor in self.step.inputs}

    def _with_outputs(self, feed: Feed, cancellation: Cancellation) -> Feed:
        """`feed` and the outputs of the parts before the step for it."""
        known: dict[str, NDArray[Any] | DeviceArray] = dict(feed)
        made_by: dict[str, bytes] = {}
        with self._turn.taken(cancellation, f"graph {self.name}"):
            self._leave_inherited()
            for part, inputs in self._early:
                own = {tensor.name: self._one_number(tensor, known[tensor.name]) for tensor in inputs}
                key = self._key(
                    part.file,
                    {name: made_by[name] if name in made_by else on_host(value) for name, value in own.items()},
                )
                if key not in self._kept:
                    if part.file not in self._sessions:
                        self._sessions[part.file] = self._open_part(part.file, cancellation)
                    self._kept[key] = self._sessions[part.file].run_on_device(own, part.outputs, cancellation)
                self._kept.move_to_end(key)
                known.update(self._kept[key])
                made_by.update(dict.fromkeys(part.outputs, key))
            while len(self._kept) > len(self._early) and sum(map(_bytes, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return known

    def _leave_inherited(self) -> None:
        """In a forked child: outputs lie in memory whose locks belong to the parent."""
        if self._process != os.getpid():
            keep_for_ever(self._kept)
            self._kept, self._process = OrderedDict(), os.getpid()

    def _key(self, file: str, inputs: Mapping[str, NDArray[Any] | bytes]) -> bytes:
        """The same for the same part and inputs; the output of another part counts as that part's own key.

        Inputs that equal those of the call before, as they do in every step but the first, are compared and not hashed.
        """
        last, key = self._last.get(file, ({}, b""))
        if inputs.keys() != last.keys() or not all(_same(inputs[name], last[name]) for name in inputs):
            digest = hashlib.sha256(file.encode())
            for name, value in sorted(inputs.items()):
                array = value if isinstance(value, bytes) else np.ascontiguousarray(value)
                kind = "" if isinstance(array, bytes) else f"{array.dtype}{array.shape}"
                digest.update(f"{name}{kind}".encode())
                digest.update(array if isinstance(array, bytes) else array.data)
            key = digest.digest()
            self._last[file] = ({n: v if isinstance(v, bytes) else v.copy() for n, v in inputs.items()}, key)
        return key

    def _one_number(self, tensor: Tensor, value: NDArray[Any] | DeviceArray) -> NDArray[Any] | DeviceArray:
        """`value`, or its first number where the part takes one for all groups; GraphInputError if they differ."""
        if tensor.shape != (1,) or value.shape == (1,):
            return value
        numbers = on_host(value)
        if (numbers != numbers[:1]).any():
            raise GraphInputError(
                f"graph {self.name}, input {tensor.name}: expected the same number {value.shape[0]} times, since this "
                f"bundle was optimised for that, got {numbers.tolist()!r:.200}; use the bundle that it was made of"
            )
        return numbers[:1]


def _check_part(graph: str, part: PartSpec, session: Runner) -> None:
    for side, expected, tensors in (
        ("inputs", part.inputs, session.inputs),
        ("outputs", part.outputs, session.outputs),
    ):
        names = [tensor.name for tensor in tensors]
        if sorted(names) != sorted(expected):
            raise BundleError(f"graph {graph}, {part.file}: the manifest has the {side} {expected}, the file {names}")


def _same(one: NDArray[Any] | bytes, other: NDArray[Any] | bytes) -> bool:
    if isinstance(one, bytes) or isinstance(other, bytes):
        return isinstance(one, bytes) and isinstance(other, bytes) and one == other
    return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)


def _bytes(outputs: Outputs) -> int:
    return sum(math.prod(value.shape) * value.dtype.itemsize for value in outputs.values())
