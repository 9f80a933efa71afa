"""How much memory is free for this process, on the machine or its GPU, and what sets the limit."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ffrt.backend.cgroup import ROOT, Group, groups, read


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that can still be taken, and the limit that leaves no more: a file, an `ulimit`, or a device."""

    bytes: int
    limit: str


def free_memory(on_gpu: bool = False, root: Path = ROOT) -> FreeMemory | None:
    """The least that any limit leaves of the machine's memory; on a GPU, what its driver has; None if not known.

    Limits are those of the system, of every control group around this process, and of `ulimit -v` and `ulimit -d`.
    Cached files count as free, since the system gives them up, and so does swap, where a group may use it.
    """
    if on_gpu:
        free = _gpu_free_bytes()
        return None if free is None else FreeMemory(free, "the GPU")
    return min(_rooms(root), key=lambda room: room.bytes, default=None)


def _rooms(root: Path) -> Iterator[FreeMemory]:
    kilobytes = _table(read(root / "proc/meminfo"))
    swap = kilobytes.get("SwapFree", 0) << 10
    if "MemAvailable" in kilobytes:
        yield FreeMemory((kilobytes["MemAvailable"] << 10) + swap, "this machine")
    for group in groups("memory", root):
        yield from _v2(group, swap) if group.version == 2 else _v1(group, swap)
    yield from _resource_limits(root)


def _v2(group: Group, swap: int) -> Iterator[FreeMemory]:
    cached = group.table("memory.stat")
    used = _or_zero(group.number("memory.current")) - sum(
        cached.get(name, 0) for name in ("active_file", "inactive_file")
    )
    swap_limit = group.number("memory.swap.max")
    if swap_limit is not None:
        swap = min(swap, max(0, swap_limit - _or_zero(group.number("memory.swap.current"))))
    for name in ("memory.max", "memory.high"):
        limit = group.number(name)
        if limit is not None:
            yield FreeMemory(max(0, limit - used + swap), f"{group.told}/{name}")


def _v1(group: Group, swap: int) -> Iterator[FreeMemory]:
    stat = group.table("memory.stat")
    cached = sum(stat.get(name, 0) for name in ("total_active_file", "total_inactive_file"))
    for kind, more in (("memory", swap), ("memory.memsw", 0)):
        limit = group.number(f"{kind}.limit_in_bytes")
        if limit is not None:
            free = limit - _or_zero(group.number(f"{kind}.usage_in_bytes")) + cached + more
            yield FreeMemory(max(0, free), f"{group.told}/{kind}.limit_in_bytes")


def _resource_limits(root: Path) -> Iterator[FreeMemory]:
    used = _table(read(root / "proc/self/status"))
    rows = (("Max address space", "VmSize", "ulimit -v"), ("Max data size", "VmData", "ulimit -d"))
    for line in read(root / "proc/self/limits").splitlines():
        for name, size, told in rows:
            soft = line.removeprefix(name).split()[:1]
            if line.startswith(name) and soft and soft[0].isdecimal():
                yield FreeMemory(max(0, int(soft[0]) - (used.get(size, 0) << 10)), told)


def _table(text: str) -> dict[str, int]:
    """The numbers of a file of lines such as `SwapFree:  0 kB`."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _or_zero(number: int | None) -> int:
    return 0 if number is None else number


def _gpu_free_bytes() -> int | None:
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
            return None
        if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
            return None
        try:
            if driver.cuCtxPushCurrent_v2(context):
                return None
            failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
            driver.cuCtxPopCurrent_v2(ctypes.byref(context))
            return None if failed else free.value
        finally:
            driver.cuDevicePrimaryCtxRelease_v2(device)
    except (OSError, AttributeError):  # no driver, or one that is none
        return None
