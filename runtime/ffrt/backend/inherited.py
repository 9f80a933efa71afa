"""What a forked child inherits of an engine: objects whose threads are not in its process."""

from __future__ import annotations

import ctypes


def keep_for_ever(*objects: object) -> None:
    """Never destroy these objects: their destructors would wait for threads that a forked child does not have."""
    for value in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
