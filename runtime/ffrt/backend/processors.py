"""How many threads have a processor to run on: affinity, the quota of the control groups, and OMP_NUM_THREADS."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ffrt.backend.cgroup import ROOT, Group, groups, read


@dataclass(frozen=True)
class Processors:
    """How many threads can run at the same time, and what sets the limit; `limited` where that is not the machine."""

    count: int
    limit: str
    limited: bool = False


def processors(root: Path = ROOT) -> Processors:
    """The least of the cores that this process may run on, the quotas around it, and OMP_NUM_THREADS.

    Two hardware threads of a core count as one, since they share what multiplies. A quota of one processor and a half
    is two threads.
    """
    return min(_limits(root), key=lambda one: one.count)


def _limits(root: Path) -> Iterator[Processors]:
    online = os.cpu_count()
    there = 1 if online is None else online
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(there))
    limited = len(allowed) < there
    told = "cores that this process may run on" if limited else "cores of this machine"
    yield Processors(_cores(allowed, root), told, limited)
    for group in groups("cpu", root):
        quota = _quota(group)
        if quota is not None:
            yield Processors(max(1, math.ceil(quota)), f"the quota of {group.told}", limited=True)
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdecimal() and int(wanted) > 0:
        yield Processors(int(wanted), "OMP_NUM_THREADS", limited=True)


def _cores(numbers: set[int], root: Path) -> int:
    """Processors by number as cores: hardware threads of one core name the same siblings."""
    folder = root / "sys/devices/system/cpu"
    files = {number: read(folder / f"cpu{number}/topology/thread_siblings_list").strip() for number in numbers}
    return max(1, len({siblings if siblings else number for number, siblings in files.items()}))


def features() -> str:
    """What the processor can do, as the system says it: kernels, and how their weights are laid out, depend on it."""
    lines = read(ROOT / "proc/cpuinfo").splitlines()
    own = (line.partition(":")[2].strip() for line in lines if line.lower().startswith(("flags", "features")))
    return next(own, f"{platform.machine()} {platform.processor()}")


def _quota(group: Group) -> float | None:
    """Processors' worth of time that a group may take; None for any."""
    if group.version == 2:
        time, period = (*group.numbers("cpu.max"), None, None)[:2]
    else:
        time, period = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
    return None if time is None or period is None or time <= 0 or period <= 0 else time / period
