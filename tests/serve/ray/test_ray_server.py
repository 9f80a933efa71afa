"""A real server over two machines: a worker, a machine or the server is killed, and every job is made all the same."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ffrt import Bundle, Pipeline
from tests.serve.processes import needs_ray, until
from tests.serve.ray.cluster import LoopbackCluster

pytestmark = [pytest.mark.slow, needs_ray]
ASK: dict[str, Any] = {"prompt": "a red circle moving right", "seed": 7, "output_format": "gif"}
LONG = {**ASK, "fps": 30, "num_inference_steps": 100}


class Served:
    """A server on the cluster, and its client. It can be killed and started again."""

    def __init__(self, bundle: Bundle, loopback: LoopbackCluster, folder: Path) -> None:
        self._bundle, self._loopback, self._folder = bundle, loopback, folder
        self.start()

    def start(self) -> None:
        self.process = self._loopback.serve(self._bundle.folder, self._folder / "data")
        self.client = httpx.Client(base_url=self.process.url, timeout=60)

    def kill(self, number: int = signal.SIGKILL) -> int:
        self.client.close()
        return self.process.kill(number)

    def ask(self, fields: dict[str, Any]) -> str:
        answer = self.client.post("/v1/videos", json=fields)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def video(self, id: str) -> dict[str, Any]:
        return dict(self.client.get(f"/v1/videos/{id}").json())

    def content(self, id: str) -> bytes:
        return self.client.get(f"/v1/videos/{id}/content").content

    def until(self, id: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        until(lambda: done(self.video(id)))
        return self.video(id)

    def until_stage(self, id: str, stage: str) -> None:
        self.until(id, lambda video: video["stage"] == stage or video["status"] == "completed")

    def until_done(self, id: str) -> dict[str, Any]:
        return self.until(id, lambda video: video["status"] in ("completed", "failed"))

    def places(self) -> list[dict[str, Any]]:
        return list(self.client.get("/health/ready").json()["places"])

    def until_all_ready(self, count: int = 2) -> None:
        until(lambda: sum(place["ready"] for place in self.places()) == count)

    def host(self) -> str:
        """The machine on which the one job runs."""
        until(lambda: any(place["busy"] for place in self.places()))
        (busy,) = [place for place in self.places() if place["busy"]]
        return str(busy["device"]).split()[-1]


@pytest.fixture(scope="module")
def served(tiny: Bundle, loopback: LoopbackCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(tiny, loopback, tmp_path_factory.mktemp("served"))
    yield running
    running.kill(signal.SIGTERM)


@pytest.fixture(autouse=True)
def ready(served: Served) -> None:
    served.until_all_ready()


@pytest.fixture(scope="module")
def expected(pipe: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file that the pipeline itself makes of `LONG`."""
    path = tmp_path_factory.mktemp("own") / "own.gif"
    pipe(str(LONG["prompt"]), seed=7, fps=30, num_inference_steps=100).save(path)
    return path.read_bytes()


def test_a_video_is_the_one_that_the_pipeline_makes_on_every_machine(served: Served, expected: bytes) -> None:
    ids = [served.ask(LONG) for _ in range(4)]
    for id in ids:
        video = served.until_done(id)
        assert (video["status"], video["attempt"]) == ("completed", 1)
        assert served.content(id) == expected
    devices = {place["device"] for place in served.places() if place["ready"]}
    assert devices == {"cpu of 127.0.0.2", "cpu of 127.0.0.3"}


def test_a_worker_that_is_killed_is_replaced_and_its_job_done(
    served: Served, loopback: LoopbackCluster, expected: bytes
) -> None:
    id = served.ask(LONG)
    served.until_stage(id, "keyframes")
    (pid,) = loopback.places(served.host())
    os.kill(pid, signal.SIGKILL)
    video = served.until_done(id)
    assert (video["status"], video["attempt"]) == ("completed", 2) and served.content(id) == expected
    served.until_all_ready()
    assert pid not in loopback.places() and len(loopback.places()) == 2


def test_a_machine_that_is_killed_is_told_and_its_job_done_elsewhere(
    served: Served, loopback: LoopbackCluster, expected: bytes
) -> None:
    id = served.ask(LONG)
    served.until_stage(id, "keyframes")
    host = served.host()
    loopback.kill(host)
    until(lambda: any(f"its machine {host} is lost" in str(place["why"]) for place in served.places()))
    video = served.until_done(id)
    assert (video["status"], video["attempt"]) == ("completed", 2) and served.content(id) == expected
    assert served.client.get("/health/ready").status_code == 200, "the other machine is there"
    assert 'place_up{device="cpu of ' + host in served.client.get("/metrics").text
    loopback.add(host)
    served.until_all_ready()


def test_a_server_that_is_killed_takes_its_places_up_again_and_does_its_jobs(
    served: Served, loopback: LoopbackCluster, expected: bytes
) -> None:
    before = sorted(loopback.places())
    ids = [served.ask(LONG) for _ in range(3)]
    served.until_stage(ids[0], "keyframes")
    served.kill()
    assert sorted(loopback.places()) == before, "detached actors keep their model"
    served.start()
    for id in ids:
        video = served.until_done(id)
        assert video["status"] == "completed" and served.content(id) == expected
    assert set(loopback.places()) & set(before), "one that does not let go of its job in time is replaced, not all"


def test_a_cancel_at_any_time_frees_the_place(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    took_s = []
    for number, stage in enumerate(("text", "keyframes", "interpolation", "decoding")):
        id = served.ask({**LONG, "seed": number})
        if stage != "text":
            served.until_stage(id, stage)
        began_s = time.monotonic()
        state = served.client.post(f"/v1/videos/{id}/cancel").json()["state"]
        assert state in ("cancelled", "completed")
        until(lambda: not any(place["busy"] for place in served.places()))
        took_s.append(time.monotonic() - began_s)
        assert (served.client.get(f"/v1/videos/{id}/content").status_code == 200) == (state == "completed")
    with capsys.disabled():
        print("\ncancel over HTTP until the place is free, s:", [round(one, 3) for one in took_s])
    assert served.until_done(served.ask(ASK))["status"] == "completed"
    assert max(took_s) < 10


def test_a_machine_that_joins_later_gets_a_place(served: Served, loopback: LoopbackCluster) -> None:
    loopback.add("127.0.0.4")
    served.until_all_ready(3)
    assert len(loopback.places("127.0.0.4")) == 1
    ids = [served.ask(LONG) for _ in range(6)]
    until(lambda: sum(place["busy"] for place in served.places()) == 3)
    loopback.kill("127.0.0.4")
    until(lambda: any("its machine 127.0.0.4 is lost" in str(place["why"]) for place in served.places()))
    assert {served.until_done(id)["status"] for id in ids} == {"completed"}
    served.kill(signal.SIGTERM)
    served.start()  # for two machines


def test_a_server_that_is_stopped_leaves_no_process_and_its_jobs_for_the_next_start(
    served: Served, loopback: LoopbackCluster, expected: bytes
) -> None:
    ids = [served.ask(LONG) for _ in range(5)]
    assert served.kill(signal.SIGTERM) == 0
    until(lambda: loopback.places() == [])
    served.start()
    for id in ids:
        video = served.until_done(id)
        assert video["status"] == "completed" and served.content(id) == expected


def test_another_server_on_the_cluster_leaves_the_places_to_their_owner(
    served: Served, loopback: LoopbackCluster, tiny: Bundle, tmp_path: Path
) -> None:
    id = served.ask(LONG)
    other = loopback.serve(tiny.folder, tmp_path / "data")
    with httpx.Client(base_url=other.url, timeout=60) as client:
        until(lambda: "another server has it" in client.get("/health/ready").text)
    assert other.kill(signal.SIGTERM) == 0
    assert served.until_done(id)["attempt"] == 1
    served.until_all_ready()


def test_other_options_after_a_kill_make_the_places_anew(
    served: Served, loopback: LoopbackCluster, expected: bytes
) -> None:
    before = loopback.places()
    id = served.ask(LONG)
    served.kill()
    served.process = loopback.serve(served._bundle.folder, served._folder / "data", "--memory", "low")
    served.client = httpx.Client(base_url=served.process.url, timeout=60)
    assert served.until_done(id)["status"] == "completed" and served.content(id) == expected
    assert not set(before) & set(loopback.places())
