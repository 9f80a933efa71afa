"""An ONNX file that ONNX Runtime has opened, as a function of named arrays."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.arrays import DTYPES, DeviceArray, Feed, OrtValue, Tensor, on_host
from ffrt.backend.cancel import Cancellation, token
from ffrt.backend.inherited import keep_for_ever
from ffrt.backend.runner import Provider, SessionOptions
from ffrt.errors import PackageError

try:
    import onnxruntime as ort  # type: ignore[import-untyped]
    from onnxruntime.capi._pybind_state import OrtValueVector  # type: ignore[import-untyped]
except ImportError as error:
    raise PackageError(
        'ffrt needs ONNX Runtime: type pip install "ffrt[cpu]" for the processor or pip install "ffrt[cuda]" for an '
        f"NVIDIA GPU ({error})"
    ) from error

__all__ = ["OnnxRuntimeSession", "device_array", "ort"]


class _Node(Protocol):
    name: str
    type: str
    shape: list[int | str | None] | None


class _Binding(Protocol):
    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None: ...
    def bind_cpu_input(self, name: str, arr_on_cpu: NDArray[Any]) -> None: ...
    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None: ...
    def bind_output(self, name: str, device_type: str, device_id: int) -> None: ...
    def get_outputs(self) -> Sequence[OrtValue]: ...


class _InferenceSession(Protocol):
    def get_inputs(self) -> list[_Node]: ...
    def get_outputs(self) -> list[_Node]: ...
    def get_providers(self) -> list[str]: ...
    def run(self, names: Sequence[str], feed: Mapping[str, NDArray[Any]], options: object) -> list[NDArray[Any]]: ...
    def io_binding(self) -> _Binding: ...
    def run_with_iobinding(self, binding: _Binding, options: object) -> None: ...


class OnnxRuntimeSession:
    """One file opened by ONNX Runtime for one provider. Not re-entrant while launches are recorded."""

    engine = "ONNX Runtime"

    def __init__(self, session: _InferenceSession, name: str, provider: Provider, options: SessionOptions) -> None:
        self._session = session
        self._name = name
        self._process = os.getpid()
        self._provider = provider
        self._records = options.cuda_graph
        self._shrink_arena = provider.shrinks_arena and len(options.sizes) > 0
        self.inputs = [_tensor(node) for node in session.get_inputs()]
        self.outputs = [_tensor(node) for node in session.get_outputs()]

    def __del__(self) -> None:
        if self._process != os.getpid():
            keep_for_ever(self._session)

    @property
    def provider(self) -> str:
        """The provider that the session really got."""
        first = self._session.get_providers()[0]
        return self._provider.name if first == self._provider.ort_name else first

    @property
    def device(self) -> str:
        """Where device arrays lie: "cuda" or "cpu"."""
        return self._provider.device

    def device_array(self, array: NDArray[Any]) -> DeviceArray:
        """`array` uploaded to the device; on the CPU it is the same memory, which must not change meanwhile."""
        return device_array(array, self.device)

    def run(self, feed: Feed, cancellation: Cancellation | None = None) -> dict[str, NDArray[Any]]:
        """All outputs on the host. Raises Cancelled, and ONNX Runtime's own errors."""
        names = [tensor.name for tensor in self.outputs]
        if any(isinstance(value, DeviceArray) for value in feed.values()):
            return {name: value.numpy() for name, value in self.run_on_device(feed, names, cancellation).items()}
        hosted = {name: on_host(value) for name, value in feed.items()}
        with self._cancellable(token(cancellation), in_place=False) as options:
            return dict(zip(names, self._session.run(names, hosted, options), strict=True))

    def run_on_device(
        self,
        feed: Feed,
        outputs: Sequence[str] | Mapping[str, DeviceArray],
        cancellation: Cancellation | None = None,
    ) -> dict[str, DeviceArray]:
        """The named outputs on the device, in the arrays of a mapping. Raises Cancelled and ONNX Runtime's errors."""
        targets = outputs if isinstance(outputs, Mapping) else {}
        binding = self._session.io_binding()
        for name, value in feed.items():
            if isinstance(value, DeviceArray):
                binding.bind_ortvalue_input(name, value.ort_value)
            else:
                binding.bind_cpu_input(name, np.asarray(value, order="C"))
        for name in outputs:
            if name in targets:
                binding.bind_ortvalue_output(name, targets[name].ort_value)
            else:
                binding.bind_output(name, self.device, 0)
        with self._cancellable(token(cancellation), in_place=len(targets) > 0) as options:
            self._session.run_with_iobinding(binding, options)
        values = _detach(binding.get_outputs())
        return {name: DeviceArray(value) for name, value in zip(outputs, values, strict=True)}

    @contextlib.contextmanager
    def _cancellable(self, cancellation: Cancellation, *, in_place: bool) -> Iterator[object]:
        options = ort.RunOptions()
        if self._shrink_arena:  # from the next run on it is one block, planned by this run
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
        if self._records and not in_place:
            options.add_run_config_entry("gpu_graph_id", "-1")  # a recording holds the addresses of its arrays
        with cancellation.aborts(functools.partial(setattr, options, "terminate", True), f"graph {self._name}"):
            yield options
        self._shrink_arena = False


def device_array(array: NDArray[Any], device: str) -> DeviceArray:
    """`array` uploaded to `device`; on the CPU it is the same memory."""
    source = np.asarray(array, order="C")
    value = ort.OrtValue.ortvalue_from_numpy(source, device, 0)
    return DeviceArray(value, source if device == "cpu" else None)


def _detach(values: Sequence[Any]) -> list[OrtValue]:
    """Detach values from their IOBinding, which would otherwise keep the session and its weights alive."""
    detached = OrtValueVector()
    for value in values:
        detached.push_back(value._ortvalue)
    return [ort.OrtValue(value) for value in detached]


def _tensor(node: _Node) -> Tensor:
    shape = None if node.shape is None else tuple(node.shape)
    return Tensor(node.name, DTYPES.get(node.type, str(node.type)), shape)
