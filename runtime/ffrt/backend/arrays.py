"""Arrays that enter and leave a session, on the host or on its device, and how a file declares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import GraphInputError

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}
"""ONNX Runtime's names of the element types that graphs use, and numpy's."""


@dataclass(frozen=True)
class Tensor:
    """One input or output as the file declares it.

    An open size is a symbolic name or None; `shape` is None where even the rank is open.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class OrtValue(Protocol):
    """The part of `onnxruntime.OrtValue` that is used here."""

    def data_type(self) -> str:
        """The element type, as in `DTYPES`."""

    def shape(self) -> list[int]:
        """All sizes."""

    def device_name(self) -> str:
        """Where it lies."""

    def data_ptr(self) -> int:
        """Its address there."""

    def numpy(self) -> NDArray[Any]:
        """On the host."""

    def update_inplace(self, np_arr: NDArray[Any]) -> None:
        """Overwrite it."""


class DeviceArray:
    """An array in the memory of a session's device; on the CPU it shares memory with its source."""

    def __init__(self, ort_value: OrtValue, source: NDArray[Any] | None = None) -> None:
        self.ort_value = ort_value
        self._source = source  # shares memory with `ort_value`, whose views do not keep it alive

    @property
    def dtype(self) -> np.dtype[Any]:
        """As numpy has it."""
        name = str(self.ort_value.data_type())
        return np.dtype(DTYPES.get(name, name))

    @property
    def shape(self) -> tuple[int, ...]:
        """All sizes."""
        return tuple(self.ort_value.shape())

    @property
    def ndim(self) -> int:
        """The rank."""
        return len(self.shape)

    @property
    def device(self) -> str:
        """Where it lies: "cpu" or "cuda"."""
        return str(self.ort_value.device_name()).lower()

    def numpy(self) -> NDArray[Any]:
        """The array on the host: a copy of a device's memory, a view of the CPU's."""
        return self.ort_value.numpy() if self._source is None else self._source

    def update(self, array: NDArray[Any]) -> None:
        """Overwrite it in place with `array` of the same shape and dtype, as CUDA graphs need; else GraphInputError."""
        if array.shape != self.shape or array.dtype != self.dtype:
            raise GraphInputError(
                f"device array: expected {self.dtype} {list(self.shape)}, got {array.dtype} {list(array.shape)}"
            )
        self.ort_value.update_inplace(np.asarray(array, order="C"))


Feed = Mapping[str, NDArray[Any] | DeviceArray]


def on_host(value: NDArray[Any] | DeviceArray) -> NDArray[Any]:
    """The array on the host, wherever it lies."""
    return value.numpy() if isinstance(value, DeviceArray) else value
