"""Memory of a process that lives for months: what it frees goes back to the system.

Two habits would let it creep. Python's collector looks at old objects only once their number has grown by a quarter, so
garbage with circles in it (an exception and its frames) piles up. And whenever a mapped buffer is freed, glibc raises
the size from which it maps (`man mallopt`, M_MMAP_THRESHOLD), so that later ones leave holes in the heap.
"""

from __future__ import annotations

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Numbers of glibc's `malloc.h`."""
MAPPED_FROM = 128 * 1024
"""Bytes. glibc's first value, which stays as it is once it has been set."""
ARENAS = 2


def map_buffers() -> None:
    """Buffers are mapped, and go back to the system as soon as they are freed. Nothing is done without glibc."""
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        for name, value in ((M_MMAP_THRESHOLD, MAPPED_FROM), (M_TRIM_THRESHOLD, MAPPED_FROM), (M_ARENA_MAX, ARENAS)):
            mallopt(name, value)


def keep_loaded() -> None:
    """Once all is loaded: what there is stays, and `tidy` need not look through it."""
    gc.collect()
    gc.freeze()


def tidy() -> None:
    """Now and then: circles that nothing reaches are collected, and free pages go back. Takes some milliseconds."""
    gc.collect()
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
