"""Pickles of numpy arrays, as flax and others leave them, read without running anything they name."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from export.errors import CheckpointError

ADMITTED = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


class _Arrays(pickle.Unpickler):
    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(io.BytesIO(content))
        self.name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise CheckpointError(f"{self.name}: expected numpy arrays alone, got {module}.{name}")
        if name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        return getattr(np, name)


def read_arrays(content: bytes, name: str) -> Mapping[str, Any]:
    """Dictionaries and arrays of a pickle, of its `params` where it has them.

    Raises CheckpointError where it names anything but arrays, or is damaged.
    """
    try:
        tree = _Arrays(content, name).load()
        found: Mapping[str, Any] = tree.get("params", tree)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise CheckpointError(f"{name}: expected a pickle of numpy arrays: {error}; get it again") from error
    return found
