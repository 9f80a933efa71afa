"""What Prometheus gets: every number of the contract, by name and labels, whatever a driver or a disk does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ffrt.serve.api.metrics.gpus import Nvml, Reading, own_gpus
from ffrt.serve.api.metrics.recorded import Metrics
from ffrt.serve.engine.executor import Place, Replaced
from ffrt.serve.jobs.store import Store
from tests.serve.fakes import Running, waits
from tests.serve.watched.exported import CONTRACT, exported

Start = Callable[..., Running]


class NvmlFault(Exception):
    """What the library raises."""


class NotSupported(NvmlFault):
    """A number that a card does not have."""


class NoPermission(NvmlFault):
    """A number that is for the administrator."""


class InvalidArgument(NvmlFault):
    """A number of a whole card that a part of one was asked for."""


class FakeNvml:
    """NVIDIA's library with two cards of 80 GB; `broken` is what raises, and `fault` what it raises."""

    NVMLError, NVMLError_NotSupported, NVMLError_NoPermission = NvmlFault, NotSupported, NoPermission
    NVMLError_InvalidArgument = InvalidArgument
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.calls: list[str] = []
        self.fault: type[NvmlFault] = NvmlFault

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise self.fault(f"{name}: driver not loaded")

    def nvmlInit(self) -> None:
        self._call("init")

    def nvmlShutdown(self) -> None:
        self._call("shutdown")

    def nvmlDeviceGetHandleByIndex(self, gpu: int) -> int:
        self._call("handle")
        return gpu

    def nvmlDeviceGetHandleByUUID(self, id: str) -> int:
        self._call("handle")
        return {"GPU-0": 0, "MIG-3": 3}[id]

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> SimpleNamespace:
        self._call("memory")
        return SimpleNamespace(used=(gpu + 1) * 10**9, total=80 * 10**9)

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:
        self._call("rates")
        return SimpleNamespace(gpu=97, memory=40)

    def nvmlDeviceGetTemperature(self, gpu: int, sensor: int) -> int:
        self._call("temperature")
        return 61 + gpu


def gpu_lines(metrics: Metrics) -> list[str]:
    text = metrics.text([], "0.1", "tiny", "abc").decode()
    return [line for line in text.splitlines() if line.startswith("ffrt_gpu")]


def watched(nvml: FakeNvml) -> Metrics:
    metrics = Metrics()
    metrics.watch_gpus({"place-0": "0", "place-1": "3"}, Nvml(nvml).read)
    return metrics


def test_every_number_of_the_contract_is_exported_with_its_labels(running: Start) -> None:
    assert exported(running()) == CONTRACT


def test_ends_are_counted_from_nothing_so_that_the_first_is_an_increase() -> None:
    text = Metrics().text([], "0.1", "tiny", "abc").decode()
    assert 'ffrt_jobs_finished_total{code="worker_lost",state="failed"} 0.0' in text
    assert 'ffrt_jobs_finished_total{code="",state="completed"} 0.0' in text
    assert 'ffrt_jobs_requeued_total{reason="worker_lost"} 0.0' in text


def test_the_gpu_of_each_place_is_measured() -> None:
    assert gpu_lines(watched(FakeNvml())) == [
        'ffrt_gpu_memory_bytes{kind="used",place="place-0"} 1e+09',
        'ffrt_gpu_memory_bytes{kind="total",place="place-0"} 8e+10',
        'ffrt_gpu_memory_bytes{kind="used",place="place-1"} 4e+09',
        'ffrt_gpu_memory_bytes{kind="total",place="place-1"} 8e+10',
        'ffrt_gpu_utilisation{place="place-0"} 0.97',
        'ffrt_gpu_utilisation{place="place-1"} 0.97',
        'ffrt_gpu_temperature_celsius{place="place-0"} 61.0',
        'ffrt_gpu_temperature_celsius{place="place-1"} 64.0',
    ]


def test_only_gpus_of_this_machine_are_measured() -> None:
    devices = ["cpu", "gpu 0", "gpu 12", "gpu GPU-5a", "gpu MIG-7b", "gpu of 10.0.0.7", "cpu of 10.0.0.7"]
    own = own_gpus(Place(device, device) for device in devices)
    assert own == {"gpu 0": "0", "gpu 12": "12", "gpu GPU-5a": "GPU-5a", "gpu MIG-7b": "MIG-7b"}


def test_a_gpu_is_measured_by_its_id_too() -> None:
    read = Nvml(FakeNvml()).read
    assert (read("GPU-0"), read("MIG-3")) == (read("0"), read("3"))


def test_nothing_is_asked_before_somebody_wants_to_know() -> None:
    nvml = FakeNvml()
    watched(nvml)
    assert nvml.calls == []


@pytest.mark.parametrize("broken", ["init", "handle", "memory", "rates", "temperature"])
def test_a_lost_driver_costs_its_own_numbers_and_may_come_back(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    nvml = FakeNvml()
    metrics = watched(nvml)
    nvml.broken = {broken}
    assert gpu_lines(metrics) == gpu_lines(metrics) == []
    assert "ffrt_jobs_finished" in metrics.text([], "0.1", "tiny", "abc").decode()
    for gpu in (0, 3):
        assert caplog.text.count(f"GPU {gpu}: nothing of it can be measured") == 1, "it is said once"
    nvml.broken, nvml.calls = set(), []
    assert len(gpu_lines(metrics)) == 8 and nvml.calls.count("init") == 1, "it is opened again"


def test_a_lost_gpu_beside_one_that_is_well_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def read(gpu: str) -> Reading:
        if gpu == "0":
            raise NvmlFault("GPU is lost")
        return Reading(used=1)

    metrics = Metrics()
    metrics.watch_gpus({"place-0": "0", "place-1": "1"}, read)
    assert gpu_lines(metrics) == gpu_lines(metrics) == ['ffrt_gpu_memory_bytes{kind="used",place="place-1"} 1.0']
    assert caplog.text.count("nothing of it can be measured") == 1


@pytest.mark.parametrize("fault", [NotSupported, NoPermission, InvalidArgument])
def test_a_number_that_a_card_does_not_have_or_tell_is_left_out(fault: type[NvmlFault]) -> None:
    nvml = FakeNvml()
    nvml.broken, nvml.fault = {"rates", "temperature"}, fault
    metrics = watched(nvml)
    assert len(gpu_lines(metrics)) == len(gpu_lines(metrics)) == 4
    assert nvml.calls.count("init") == 1 and "shutdown" not in nvml.calls


def test_the_library_is_opened_once_while_all_is_well() -> None:
    nvml = FakeNvml()
    metrics = watched(nvml)
    gpu_lines(metrics)
    gpu_lines(metrics)
    assert nvml.calls.count("init") == 1 and "shutdown" not in nvml.calls


def test_a_driver_that_hangs_holds_one_reader_and_not_the_next() -> None:
    hanging, go_on = threading.Event(), threading.Event()

    def read(gpu: str) -> Reading:
        hanging.set()
        assert go_on.wait(60)
        return Reading(used=1)

    metrics = Metrics()
    metrics.watch_gpus({"place-0": "0"}, read)
    first: list[str] = []
    thread = threading.Thread(target=lambda: first.extend(gpu_lines(metrics)))
    thread.start()
    assert hanging.wait(60)
    assert gpu_lines(metrics) == []
    go_on.set()
    thread.join()
    assert first == ['ffrt_gpu_memory_bytes{kind="used",place="place-0"} 1.0']


def test_a_gauge_that_cannot_be_read_is_nan_and_the_others_are_told(
    running: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = running()

    def fails() -> tuple[int, int]:
        raise OSError("no such disk")

    monkeypatch.setattr(server.data, "free", fails)
    with server.client() as client:
        text = client.get("/metrics").text
    assert "ffrt_disk_free_bytes NaN" in text and "ffrt_jobs_queued 0.0" in text


def ended(server: Running) -> float:
    """How many jobs came to their end, as the numbers say."""
    text = server.service.metrics.text([], "0.1", "tiny", "abc").decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("ffrt_jobs_finished_t"))


def test_every_end_is_counted_once(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = running(waits)
    ask = {"prompt": "a"}
    with server.client() as client:
        first, second, third = (client.post("/v1/videos", json=ask).json()["id"] for _ in range(3))
        server.until(lambda: server.executor.place.current == first)
        seen, find = threading.Barrier(2, timeout=30), server.store.ask

        async def both_see_it_queued(method: Any, *args: Any, **kwargs: Any) -> Any:
            job = await find(method, *args, **kwargs)
            if method is Store.find:
                await asyncio.to_thread(seen.wait)
            return job

        monkeypatch.setattr(server.store, "ask", both_see_it_queued)
        cancels = [threading.Thread(target=client.post, args=(f"/v1/videos/{second}/cancel",)) for _ in range(2)]
        for thread in cancels:
            thread.start()
        for thread in cancels:
            thread.join()
        monkeypatch.undo()
        assert ended(server) == 1
        assert client.delete(f"/v1/videos/{second}").status_code == 200 and ended(server) == 1
        assert client.delete(f"/v1/videos/{third}").status_code == 200 and ended(server) == 2, "in the queue"
        assert client.delete(f"/v1/videos/{first}").status_code == 200
        server.until(lambda: ended(server) == 3)


def place_lines(metrics: Metrics, *places: Place) -> list[str]:
    text = metrics.text(places, "0.1", "tiny", "abc").decode()
    return [line for line in text.splitlines() if line.startswith(("ffrt_place", "ffrt_build"))]


def test_a_place_that_moved_is_told_where_it_is_and_nowhere_else() -> None:
    metrics = Metrics()
    place_lines(metrics, Place("place-0", "gpu"))
    place_lines(metrics, Place("place-0", "gpu of 10.0.0.1", "cuda", ready=True))
    lost = place_lines(metrics, Place("place-0", "gpu of 10.0.0.2", "cuda"))
    assert [line for line in lost if line.startswith("ffrt_place_up")] == [
        'ffrt_place_up{device="gpu of 10.0.0.2",place="place-0"} 0.0'
    ]


def test_what_replaced_a_process_is_told_and_a_second_reader_counts_nothing_twice() -> None:
    metrics, place = Metrics(), Place("place-0", "cpu", restarts={Replaced.SILENT: 2})
    before = 'ffrt_place_restarts_total{place="place-0",reason="silent"} 0.0'
    assert before in place_lines(metrics, Place("place-0", "cpu")), "from nothing, so that the first is an increase"
    for _ in range(2):
        found = [line for line in place_lines(metrics, place) if line.startswith("ffrt_place_restarts_total")]
        assert len(found) == len(Replaced)
        assert 'ffrt_place_restarts_total{place="place-0",reason="silent"} 2.0' in found
        assert 'ffrt_place_restarts_total{place="place-0",reason="ended"} 0.0' in found
