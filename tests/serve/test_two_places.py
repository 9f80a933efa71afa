"""Two places, as on a machine with two GPUs: jobs run side by side, each once, and a cancel reaches the right one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from ffrt import Bundle
from ffrt.serve.engine import executor as told
from ffrt.serve.limits import Limits
from ffrt.serve.options import ServeOptions
from tests.serve.fakes import FakeExecutor, Running, waits


class Two:
    """Two fake executors of one place each, seen as one."""

    def __init__(self) -> None:
        self.parts = {f"place-{number}": FakeExecutor(waits) for number in range(2)}
        for name, part in self.parts.items():
            part.place = told.Place(name, "gpu", "cpu", ready=True, why=None, seen_s=1e18)

    def places(self) -> list[told.Place]:
        return [part.place for part in self.parts.values()]

    def run(self, place: str, work: told.Work, checkpoint: bytes | None) -> Iterator[told.Event]:
        return self.parts[place].run(place, work, checkpoint)

    def cancel(self, place: str, job_id: str) -> None:
        self.parts[place].cancel(place, job_id)

    def close(self) -> None:
        for part in self.parts.values():
            part.close()

    @property
    def current(self) -> set[str | None]:
        return {place.current for place in self.places()}


@pytest.fixture
def two(tiny: Bundle, tmp_path: Path) -> Iterator[tuple[Running, Two]]:
    executor = Two()
    options = ServeOptions(limits=Limits(disk_floor=0, queue_per_key=64))
    running = Running(tmp_path / "data", tiny, cast(FakeExecutor, executor), options)
    yield running, executor
    running.close()


def test_jobs_run_side_by_side_and_each_once(two: tuple[Running, Two]) -> None:
    server, executor = two
    with server.client() as client:
        ids = [client.post("/v1/videos", json={"prompt": "a"}).json()["id"] for _ in range(20)]
        server.until(lambda: executor.current == set(ids[:2]))
        assert client.post(f"/v1/videos/{ids[1]}/cancel").json()["state"] == "cancelled"
        server.until(lambda: executor.current == {ids[0], ids[2]})
        for part in executor.parts.values():
            part.go_on.set()
        server.until(lambda: {server.state(id) for id in ids} == {"completed", "cancelled"})
        ran = [id for part in executor.parts.values() for id, _ in part.ran]
        assert sorted(ran) == sorted(ids) and [server.state(id) for id in ids].count("cancelled") == 1
        text = client.get("/metrics").text
        assert all(f'ffrt_place_up{{device="gpu",place="place-{number}"}} 1.0' in text for number in range(2))
