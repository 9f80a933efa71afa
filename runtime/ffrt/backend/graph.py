"""One graph of a bundle as a function of named arrays, held to the contract of the manifest.

ONNX Runtime lets a symbolic axis have two sizes in one call and names no argument in a dtype error: here every call is
checked against the contract.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DeviceArray, Feed, Tensor
from ffrt.backend.axes import Axis, bind_axes, evaluate
from ffrt.backend.cancel import Cancellation, token
from ffrt.backend.cuda_graph import CudaGraphSession
from ffrt.backend.engines import engines_folder
from ffrt.backend.kept_graph import MAX_STORED_BYTES
from ffrt.backend.parts import Parts
from ffrt.backend.providers import AUTO, choose_provider
from ffrt.backend.runner import Memory, Runner
from ffrt.backend.session import Session
from ffrt.bundle import Bundle
from ffrt.errors import BundleError, GraphInputError
from ffrt.families import OVER_PIXELS, TensorSpec


class Graph:
    """One graph of a bundle, opened; arguments as `ffrt.backend.session.Session` has them.

    Any thread may call it: calls take turns, and a call that waits can be cancelled. With `cuda_graph` a GPU records
    what runs in every step (`ffrt.backend.cuda_graph.CudaGraphSession`): the next call then overwrites what `on_device`
    returned. A copy or an unpickled graph is opened anew.

    Raises BundleError if the graph cannot be loaded or differs from the manifest, ProviderError if the provider that
    was asked for is not the one in use, OutOfMemoryError, and Cancelled if `cancellation` ended the opening.
    """

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        *,
        provider: str = AUTO,
        provider_options: Mapping[str, object] | None = None,
        threads: int | None = None,
        memory: Memory = "fast",
        cuda_graph: bool = False,
        cancellation: Cancellation | None = None,
    ) -> None:
        row = choose_provider(provider, optimised_for(bundle))
        if name not in bundle.graphs:
            raise BundleError(f"{bundle.folder} has no graph {name!r}; it has {sorted(bundle.graphs)}")
        spec = bundle.graphs[name]
        self.name = name
        self._reopen = functools.partial(
            Graph,
            bundle,
            name,
            provider=provider,
            provider_options=provider_options,
            threads=threads,
            memory=memory,
            cuda_graph=cuda_graph,
        )

        kept = engines_folder()

        def open_file(file: str, cancellation: Cancellation) -> Runner:
            records = cuda_graph and file == spec.file
            session = Session(
                bundle.graph_file(file),
                name,
                provider=provider,
                provider_options=provider_options,
                threads=threads,
                memory="fast" if row.keeps_graphs and holds_weights(bundle, name) else memory,
                optimised_for=optimised_for(bundle),
                dtype="float32" if bundle.optimised is None else bundle.optimised.dtype,
                engines=None if kept is None else kept / bundle.digest / row.name / Path(file).stem,
                cuda_graph=records,
                cancellation=cancellation,
            )
            return CudaGraphSession(name, session) if records else session

        self._memory = memory
        self._cancellation = token(cancellation)
        parts = [(part, open_file(part.file, self._cancellation)) for part in spec.parts]
        self.session: Runner = (
            Parts(name, spec.inputs, parts, open_file) if parts else open_file(spec.file, self._cancellation)
        )
        self._inputs = _agree(name, "input", spec.inputs, self.session.inputs)
        self._outputs = _agree(name, "output", spec.outputs, self.session.outputs)
        self._cancellation = Cancellation()

    @property
    def provider(self) -> str:
        """The provider that the session really got, by the name that `provider=` takes."""
        return self.session.provider

    @property
    def input_names(self) -> list[str]:
        """The names that a feed must have, in the contract's order."""
        return [spec.name for spec in self._inputs]

    def bind(self, cancellation: Cancellation) -> Graph:
        """A view of the same graph whose calls carry `cancellation` where they are given none of their own."""
        view = Graph.__new__(Graph)
        vars(view).update(vars(self))
        view._cancellation = cancellation
        return view

    def __call__(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """Run the graph and return its outputs by name.

        Raises GraphInputError (graph, argument, expected, got) if `feed` breaks the contract, OutOfMemoryError, and
        Cancelled if `cancellation` was cancelled, perhaps in mid-operator.
        """
        sizes = self._check(feed)
        values = self.session.run(feed, self._own(cancellation))
        for spec in self._outputs:
            self._check_finite(spec, values[spec.name])
            self._check_output(spec, values[spec.name].shape, sizes)
        return values

    def on_device(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, DeviceArray]:
        """Run the graph and leave its outputs on the device, on a GPU without a look at them; raises as the call."""
        sizes = self._check(feed)
        values = self.session.run_on_device(feed, [spec.name for spec in self._outputs], self._own(cancellation))
        for spec in self._outputs:
            if self.session.device == "cpu":
                self._check_finite(spec, values[spec.name].numpy())
            self._check_output(spec, values[spec.name].shape, sizes)
        return values

    def precompute(self, feeds: Iterable[Feed], cancellation: Cancellation | None = None) -> None:
        """Before the runs of a stage, with memory "low" on a GPU: compute what depends on text or noise level alone.

        Its weights then leave the device. `feeds` are those of the runs, without `x`. Elsewhere this does nothing.
        """
        if self._memory == "low" and self.session.device != "cpu" and isinstance(self.session, Parts):
            self.session.precompute(feeds, self._own(cancellation))

    def __reduce__(self) -> tuple[Callable[[], Graph], tuple[()]]:
        return self._reopen, ()

    def _own(self, cancellation: Cancellation | None) -> Cancellation:
        return self._cancellation if cancellation is None else cancellation

    def _check_finite(self, spec: TensorSpec, value: NDArray[Any]) -> None:
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise GraphInputError(
                f"graph {self.name}, output {spec.name}: expected finite numbers, got NaN or infinity; check "
                "that the inputs are finite, then the bundle (float16 overflows first)"
            )

    def _check_output(self, spec: TensorSpec, shape: tuple[int, ...], sizes: Mapping[str, int]) -> None:
        expected = [evaluate(axis, sizes) for axis in spec.shape]
        if len(expected) != len(shape) or any(
            size is not None and size != got for size, got in zip(expected, shape, strict=True)
        ):
            raise BundleError(
                f"graph {self.name}, output {spec.name}: the manifest says {list(spec.shape)}, the graph gave "
                f"{list(shape)}"
            )

    def _check(self, feed: Feed) -> dict[str, int]:
        where = f"graph {self.name}"
        if feed.keys() != {spec.name for spec in self._inputs}:
            raise GraphInputError(f"{where}: expected the inputs {self.input_names}, got {list(feed)}")
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


def holds_weights(bundle: Bundle, name: str) -> bool:
    """Whether a graph is opened on the CPU as with memory "fast" in any case, since it then takes less memory.

    The values of a network over pixels take more than its weights, and a half to a third where it was optimised.
    """
    files = bundle.graphs[name].files
    return name in OVER_PIXELS and all(bundle.graph_file(file).stored_bytes <= MAX_STORED_BYTES for file in files)


def optimised_for(bundle: Bundle) -> str | None:
    """The provider that the bundle's graphs were rewritten for, None for none."""
    return None if bundle.optimised is None else bundle.optimised.provider


def _agree(graph: str, side: str, specs: Sequence[TensorSpec], tensors: Sequence[Tensor]) -> list[TensorSpec]:
    """The manifest's tensors, with every size that the graph itself fixes; raises BundleError where they differ."""
    names = [tensor.name for tensor in tensors]
    if sorted(names) != sorted(spec.name for spec in specs):
        raise BundleError(f"graph {graph}: the manifest has the {side}s {[s.name for s in specs]}, the graph {names}")
    merged = []
    for spec in specs:
        tensor = tensors[names.index(spec.name)]
        where = f"graph {graph}, {side} {spec.name}"
        if tensor.dtype != spec.dtype:
            raise BundleError(f"{where}: the manifest says {spec.dtype}, the graph {tensor.dtype}")
        shape = list(tensor.shape) if tensor.shape else list(spec.shape)
        if len(shape) != len(spec.shape):
            raise BundleError(f"{where}: the manifest says {list(spec.shape)}, the graph {shape}")
        for expected, got in zip(spec.shape, shape, strict=True):
            if isinstance(expected, int) and isinstance(got, int) and expected != got:
                raise BundleError(f"{where}: the manifest says {list(spec.shape)}, the graph {shape}")
        axes = (got if isinstance(got, int) else axis for axis, got in zip(spec.shape, shape, strict=True))
        merged.append(TensorSpec(spec.name, spec.dtype, tuple(axes)))
    return merged
