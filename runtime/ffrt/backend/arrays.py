"""What goes into a session and comes out: arrays on the host or on its device, and how a file declares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
"""Numpy's names of the types that graphs take and give."""


@dataclass(frozen=True)
class Tensor:
    """One input or output as the file has it: a size that is not fixed is a name or None, an unknown rank is None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class DeviceArray:
    """An array in the memory of a session's device, uploaded or computed there; on the CPU it shares memory."""

    def __init__(self, value: Any) -> None:
        self._value = value  # an OrtValue

    @property
    def dtype(self) -> np.dtype[Any]:
        found = str(self._value.data_type())
        return np.dtype(str(DTYPES.get(found, found)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._value.shape())

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return str(self._value.device_name()).lower()

    def numpy(self) -> NDArray[Any]:
        """The array on the host: a copy of a device's, a view of the CPU's."""
        found: NDArray[Any] = self._value.numpy()
        return found

    def update(self, array: NDArray[Any]) -> None:
        """Write `array`, of the same shape and dtype, in the same place, as CUDA graphs need it."""
        if array.shape != self.shape or array.dtype != self.dtype:
            raise GraphInputError(
                f"device array: expected {self.dtype} {list(self.shape)}, got {array.dtype} {list(array.shape)}"
            )
        self._value.update_inplace(np.ascontiguousarray(array))


Feed = Mapping[str, NDArray[Any] | DeviceArray]


def on_host(value: NDArray[Any] | DeviceArray) -> NDArray[Any]:
    """An array wherever it lies, on the host."""
    return value.numpy() if isinstance(value, DeviceArray) else value
