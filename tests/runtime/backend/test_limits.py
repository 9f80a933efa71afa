"""What a container allows: memory and processors, read from the files of a system that the test has written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ffrt import Bundle
from ffrt.backend.free_memory import FreeMemory, free_memory
from ffrt.backend.openvino import settings_of
from ffrt.backend.processors import Processors, processors
from ffrt.backend.session import Session

GB, MB = 10**9, 10**6
V2 = "22 1 0:20 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 22 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "31 22 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)
System = Callable[[Mapping[str, object]], Path]


@pytest.fixture
def system(tmp_path: Path) -> System:
    """A root folder with 8 GB available, 1 GB of swap, and the given files."""

    def write(files: Mapping[str, object]) -> Path:
        meminfo = f"MemTotal: 16000000 kB\nMemAvailable: {8 * GB >> 10} kB\nSwapFree: {GB >> 10} kB\n"
        for name, text in {"proc/meminfo": meminfo, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return tmp_path

    return write


def v2(group: str = "/a/b", mounts: str = V2) -> dict[str, object]:
    return {"proc/self/cgroup": f"0::{group}", "proc/self/mountinfo": mounts}


def v1(group: str = "/docker/x", mounts: str = V1) -> dict[str, object]:
    return {
        "proc/self/cgroup": f"5:memory:{group}\n4:cpu,cpuacct:{group}\n0::/",
        "proc/self/mountinfo": mounts,
    }


def free(root: Path) -> tuple[int, str]:
    found = free_memory(root=root)
    assert found is not None
    return round(found.bytes / MB), found.limit


def test_without_limits_the_system_and_its_swap_are_free(system: System) -> None:
    assert free(system({})) == (9000, "this machine")
    assert free(system({**v2(), "sys/fs/cgroup/a/b/memory.max": "max"})) == (9000, "this machine")
    unlimited = {"sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": 9223372036854771712}
    assert free(system({**v1(), **unlimited})) == (9000, "this machine")


@pytest.mark.parametrize("name", ["memory.max", "memory.high"])
@pytest.mark.parametrize("group", ["/a/b", "/a", ""], ids=["own", "parent", "top"])
def test_every_group_around_the_process_limits_it(system: System, name: str, group: str) -> None:
    folder = f"sys/fs/cgroup{group}"
    files = {f"{folder}/{name}": 500 * MB, f"{folder}/memory.current": 300 * MB, f"{folder}/memory.swap.max": 0}
    assert free(system({**v2(), **files})) == (200, f"/{folder}/{name}")


def test_what_the_system_gives_up_counts_as_free(system: System) -> None:
    folder = "sys/fs/cgroup/a/b"
    stat = f"anon {100 * MB}\nfile {150 * MB}\nactive_file {90 * MB}\ninactive_file {60 * MB}"
    files = {f"{folder}/memory.max": 500 * MB, f"{folder}/memory.current": 300 * MB, f"{folder}/memory.stat": stat}
    assert free(system({**v2(), **files}))[0] == 350 + 1000, "as much swap as there is"
    swap = {f"{folder}/memory.swap.max": 80 * MB, f"{folder}/memory.swap.current": 30 * MB}
    assert free(system({**v2(), **files, **swap}))[0] == 350 + 50
    assert free(system({**v2(), f"{folder}/memory.current": 900 * MB, f"{folder}/memory.swap.max": 0}))[0] == 0


@pytest.mark.parametrize(
    ("group", "mount"),
    [
        ("/", V2),  # a container with a namespace of its own
        ("/kubepods/pod7/c9", V2.replace(" / /sys", " /kubepods/pod7/c9 /sys")),  # one that sees the system's names
        ("/../../other", V2),  # a process that was moved out of its namespace
        ("/", ""),  # no mount that is known: the usual folder
    ],
)
def test_a_container_finds_its_own_group(system: System, group: str, mount: str) -> None:
    files = {"sys/fs/cgroup/memory.max": 256 * MB, "sys/fs/cgroup/memory.swap.max": 0}
    assert free(system({**v2(group, mount), **files})) == (256, "/sys/fs/cgroup/memory.max")


def test_version_1_limits_memory_and_memory_with_swap(system: System) -> None:
    folder = "sys/fs/cgroup/memory/docker/x"
    files = {
        f"{folder}/memory.limit_in_bytes": 400 * MB,
        f"{folder}/memory.usage_in_bytes": 300 * MB,
        f"{folder}/memory.stat": f"total_inactive_file {20 * MB}\ntotal_active_file {30 * MB}",
    }
    assert free(system({**v1(), **files})) == (1150, f"/{folder}/memory.limit_in_bytes")
    both = {f"{folder}/memory.memsw.limit_in_bytes": 500 * MB, f"{folder}/memory.memsw.usage_in_bytes": 350 * MB}
    assert free(system({**v1(), **files, **both})) == (200, f"/{folder}/memory.memsw.limit_in_bytes")
    above = {"sys/fs/cgroup/memory/memory.limit_in_bytes": 30 * MB, "proc/meminfo": "MemAvailable: 8000000 kB"}
    assert free(system({**v1(), **files, **above})) == (30, "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@pytest.mark.parametrize(("row", "told"), [("Max address space", "ulimit -v"), ("Max data size", "ulimit -d")])
def test_limits_of_the_shell_count(system: System, row: str, told: str) -> None:
    status = "VmPeak:\t 999999 kB\nVmSize:\t 300000 kB\nVmData:\t 300000 kB"
    limits = f"Limit  Soft Limit  Hard Limit  Units\n{row}    1024000000   unlimited   bytes"
    files = {"proc/self/status": status, "proc/self/limits": limits}
    assert free(system(files)) == (round((1024000000 - 300000 * 1024) / MB), told)
    files["proc/self/limits"] = limits.replace("1024000000", "unlimited")
    assert free(system(files)) == (9000, "this machine")


def test_files_that_make_no_sense_limit_nothing(system: System) -> None:
    broken = {
        "proc/self/cgroup": "nonsense\n0:\n0::relative\n:::",
        "proc/self/mountinfo": "1 2 - cgroup2\n- -\ncgroup",
        "sys/fs/cgroup/memory.max": "\N{SNOWMAN} 12",
        "proc/self/limits": "Max address space",
    }
    assert free(system(broken)) == (9000, "this machine")


def test_memory_that_is_not_known_is_none(tmp_path: Path) -> None:
    assert free_memory(root=tmp_path) is None


def test_this_machine_has_memory() -> None:
    found = free_memory()
    assert found is None or (1 << 20 < found.bytes < 1 << 50 and found.limit)
    assert FreeMemory(1, "") != found


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processors, on all of which this process may run, and no OMP_NUM_THREADS."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def count(root: Path) -> tuple[int, str, bool]:
    found = processors(root)
    return found.count, found.limit, found.limited


@pytest.mark.usefixtures("eight")
def test_threads_follow_the_cores_that_may_be_used(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count(system({})) == (8, "cores of this machine", False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 6})
    assert count(system({})) == (2, "cores that this process may run on", True)


@pytest.mark.usefixtures("eight")
def test_hardware_threads_of_a_core_are_one(system: System) -> None:
    pairs = {f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": f"{i % 4},{i % 4 + 4}" for i in range(8)}
    assert count(system(pairs)) == (4, "cores of this machine", False)


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("quota", "threads"), [("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1)])
@pytest.mark.parametrize("group", ["/a/b", "/a", ""], ids=["own", "parent", "top"])
def test_threads_follow_a_quota(system: System, quota: str, threads: int, group: str) -> None:
    root = system({**v2(), f"sys/fs/cgroup{group}/cpu.max": quota})
    assert count(root) == (threads, f"the quota of /sys/fs/cgroup{group}", True)


@pytest.mark.usefixtures("eight")
def test_threads_follow_a_quota_of_version_1(system: System) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/docker/x"
    files = {f"{folder}/cpu.cfs_quota_us": 250000, f"{folder}/cpu.cfs_period_us": 100000}
    assert count(system({**v1(), **files})) == (3, f"the quota of /{folder}", True)
    assert count(system({**v1(), **files, f"{folder}/cpu.cfs_quota_us": -1}))[0] == 8


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize("quota", ["max 100000", "", "0 0", "x y", "100000"])
def test_a_quota_that_is_none_limits_nothing(system: System, quota: str) -> None:
    assert count(system({**v2(), "sys/fs/cgroup/a/cpu.max": quota}))[0] == 8


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("told", "threads"), [("3", 3), ("2,4", 2), ("64", 8), ("0", 8), ("-1", 8), ("many", 8)])
def test_omp_num_threads_lowers_the_number(
    system: System, monkeypatch: pytest.MonkeyPatch, told: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert count(system({}))[0] == threads


@pytest.mark.parametrize(("asked", "wanted"), [(None, 3), (2, 2)])
def test_a_session_takes_the_threads_that_may_run(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, asked: int | None, wanted: int
) -> None:
    monkeypatch.setattr("ffrt.backend.onnxruntime.processors", lambda: Processors(3, "the test", limited=True))
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    session = Session(tiny.path("movq_decoder.onnx"), "movq_decoder", provider="cpu", threads=asked)
    assert len(list(tasks.iterdir())) - before == wanted - 1, "one of them is the caller's"
    assert session.provider == "cpu"
    assert ("INFERENCE_NUM_THREADS" in settings_of(asked)) == (asked is not None or processors().limited)
