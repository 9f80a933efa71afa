"""One graph of a bundle as a function of named arrays, held to the contract of the manifest.

ONNX Runtime lets a symbolic axis have two sizes in one call and names no argument in a dtype error: here the contract
is checked on every call.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray, Feed, Tensor
from ffrt.backend.cancel import Cancellation
from ffrt.backend.cuda_graph import Recorded
from ffrt.backend.parts import Parts
from ffrt.backend.providers import engines_folder
from ffrt.backend.session import Memory, Session, check_provider
from ffrt.bundle import Bundle
from ffrt.errors import BundleError, GraphInputError
from ffrt.families import TensorSpec

Axis = int | str


class Graph:
    """One session over one graph of a bundle; arguments as :class:`ffrt.backend.session.Session` has them.

    With `cuda_graph` a GPU records what runs in every step (:class:`ffrt.backend.cuda_graph.Recorded`): what
    `on_device` gave is then overwritten by the next call.
    Raises BundleError if the graph cannot be loaded or differs from the manifest, ProviderError if the provider that
    was asked for is not the one in use.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        *,
        provider: str = "auto",
        threads: int | None = None,
        memory: Memory = "fast",
        cuda_graph: bool = False,
        cancellation: Cancellation | None = None,
    ) -> None:
        word = check_provider(provider, optimised_for(bundle))
        if name not in bundle.graphs:
            raise BundleError(f"{bundle.folder} has no graph {name!r}; it has {sorted(bundle.graphs)}")
        spec = bundle.graphs[name]
        self.name = name

        def opened(file: str, cancellation: Cancellation | None) -> Session | Recorded:
            recorded = cuda_graph and file == spec.file
            session = Session(
                bundle.path(file),
                name,
                provider=provider,
                threads=threads,
                memory=memory,
                optimised_for=optimised_for(bundle),
                dtype="float32" if bundle.optimised is None else bundle.optimised.dtype,
                engines=engines_folder() / bundle.digest / word / Path(file).stem,
                cuda_graph=recorded,
                cancellation=cancellation,
            )
            return Recorded(session) if recorded else session

        parts = [(part, opened(part.file, cancellation)) for part in spec.parts]
        self.session = Parts(name, spec.inputs, parts, opened) if parts else opened(spec.file, cancellation)
        self._memory = memory
        self._cancellation: Cancellation | None = None
        self._inputs = _agree(name, "input", spec.inputs, self.session.inputs)
        self._outputs = _agree(name, "output", spec.outputs, self.session.outputs)

    @property
    def provider(self) -> str:
        """The provider that the session really got, in the words that `provider=` takes."""
        return self.session.provider

    @property
    def input_names(self) -> list[str]:
        """The names that a feed must have, in the contract's order."""
        return [spec.name for spec in self._inputs]

    def bind(self, cancellation: Cancellation) -> Graph:
        """A view of the same graph whose calls all carry `cancellation`."""
        view = copy.copy(self)
        view._cancellation = cancellation
        return view

    def __call__(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """Run the graph. Raises GraphInputError (graph, argument, want, got) if `feed` breaks its contract, Cancelled
        if `cancellation`, or the one that the view was bound to, is cancelled.
        """
        sizes = self._check(feed)
        values = self.session.run(feed, self._token(cancellation))
        for spec in self._outputs:
            self._check_finite(spec, values[spec.name])
            self._check_output(spec, values[spec.name].shape, sizes)
        return values

    def on_device(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, DeviceArray]:
        """Run the graph and leave what it gives on the session's device, not looked at on a GPU; raises as the call."""
        sizes = self._check(feed)
        values = self.session.run_on_device(feed, [spec.name for spec in self._outputs], self._token(cancellation))
        for spec in self._outputs:
            if self.session.device == "cpu":
                self._check_finite(spec, values[spec.name].numpy())
            self._check_output(spec, values[spec.name].shape, sizes)
        return values

    def precompute(self, feeds: Iterable[Feed], cancellation: Cancellation | None = None) -> None:
        """Before the runs of a stage: with memory "low" on a GPU, what depends on text or noise level alone is worked
        out now for all of them, and its weights leave the device. `feeds` are those of the runs, without `x`.
        """
        if self._memory == "low" and self.session.device != "cpu" and isinstance(self.session, Parts):
            self.session.precompute(feeds, self._token(cancellation))

    def _token(self, cancellation: Cancellation | None) -> Cancellation | None:
        return self._cancellation if cancellation is None else cancellation

    def _check_finite(self, spec: TensorSpec, value: NDArray[Any]) -> None:
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise GraphInputError(
                f"graph {self.name}, output {spec.name}: expected finite numbers, got NaN or infinity; check "
                "that the inputs are finite, then the bundle (float16 overflows first)"
            )

    def _check_output(self, spec: TensorSpec, shape: tuple[int, ...], sizes: Mapping[str, int]) -> None:
        want, got = [_evaluate(axis, sizes) for axis in spec.shape], list(shape)
        if len(want) != len(got) or any(w is not None and w != g for w, g in zip(want, got, strict=True)):
            raise BundleError(
                f"graph {self.name}, output {spec.name}: the manifest says {list(spec.shape)}, the graph gave {got}"
            )

    def _check(self, feed: Feed) -> dict[str, int]:
        where = f"graph {self.name}"
        if feed.keys() != {spec.name for spec in self._inputs}:
            want = [spec.name for spec in self._inputs]
            raise GraphInputError(f"{where}: expected the inputs {want}, got {list(feed)}")
        axes: list[tuple[str, Axis, int]] = []
        for spec in self._inputs:
            value = feed[spec.name]
            if not isinstance(value, (np.ndarray, DeviceArray)):
                raise GraphInputError(f"{where}, input {spec.name}: expected an array, got {type(value).__name__}")
            if value.dtype.name != spec.dtype:
                raise GraphInputError(f"{where}, input {spec.name}: expected {spec.dtype}, got {value.dtype.name}")
            if value.ndim != len(spec.shape) or 0 in value.shape:
                raise GraphInputError(
                    f"{where}, input {spec.name}: expected the axes {list(spec.shape)}, got {list(value.shape)}"
                )
            axes += [(spec.name, axis, size) for axis, size in zip(spec.shape, value.shape, strict=True)]
        try:
            return bind_axes(axes)
        except ValueError as error:
            raise GraphInputError(f"{where}, {error}") from None


def optimised_for(bundle: Bundle) -> str | None:
    """The provider that the bundle's graphs were rewritten for, None for none."""
    return None if bundle.optimised is None else bundle.optimised.provider


def bind_axes(axes: Sequence[tuple[str, Axis, int]]) -> dict[str, int]:
    """Sizes of all symbolic axes from rows (argument, axis, size); a product is checked once its letters are known.

    Raises ValueError naming the argument if a fixed size differs or two arguments disagree.
    """
    sizes: dict[str, int] = {}
    for argument, axis, size in sorted(axes, key=lambda row: str(row[1]).count("*")):
        want = _evaluate(axis, sizes)
        if want is None:
            name = str(axis)
            unknown = [letter for letter in name.split("*") if letter not in sizes]
            rest = math.prod(sizes[letter] for letter in name.split("*") if letter in sizes)
            if size % rest:
                raise ValueError(f"input {argument}: expected axis {axis} to be a multiple of {rest}, got {size}")
            if len(unknown) == 1:
                sizes[unknown[0]] = size // rest
            sizes[name] = size
        elif want != size:
            known = {letter: sizes[letter] for letter in str(axis).split("*") if letter in sizes}
            told = f" (with {known} from the other inputs)" if known else ""
            raise ValueError(f"input {argument}: expected axis {axis} to be {want}{told}, got {size}")
    return sizes


def _evaluate(axis: Axis, sizes: Mapping[str, int]) -> int | None:
    if isinstance(axis, int):
        return axis
    letters = axis.split("*")
    if all(letter in sizes for letter in letters):
        return math.prod(sizes[letter] for letter in letters)
    return sizes.get(axis)


def _agree(graph: str, side: str, wanted: Sequence[TensorSpec], found: Sequence[Tensor]) -> list[TensorSpec]:
    """The manifest's tensors, with every size that the graph itself fixes; raises BundleError where they differ."""
    names = [node.name for node in found]
    if sorted(names) != sorted(spec.name for spec in wanted):
        raise BundleError(f"graph {graph}: the manifest has the {side}s {[s.name for s in wanted]}, the graph {names}")
    merged = []
    for spec in wanted:
        node = found[names.index(spec.name)]
        where = f"graph {graph}, {side} {spec.name}"
        if node.dtype != spec.dtype:
            raise BundleError(f"{where}: the manifest says {spec.dtype}, the graph {node.dtype}")
        shape = list(node.shape) if node.shape else list(spec.shape)
        if len(shape) != len(spec.shape):
            raise BundleError(f"{where}: the manifest says {list(spec.shape)}, the graph {shape}")
        for want, got in zip(spec.shape, shape, strict=True):
            if isinstance(want, int) and isinstance(got, int) and want != got:
                raise BundleError(f"{where}: the manifest says {list(spec.shape)}, the graph {shape}")
        axes = (g if isinstance(g, int) else w for w, g in zip(spec.shape, shape, strict=True))
        merged.append(TensorSpec(spec.name, spec.dtype, tuple(axes)))
    return merged
