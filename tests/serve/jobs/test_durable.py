"""What is left of a job when a disk is full, a file is gone, or the server ends and comes again."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ffrt import Bundle
from ffrt.serve.engine import executor as told
from ffrt.serve.errors import ServeError, StoreError
from ffrt.serve.jobs.data import PART, Data
from ffrt.serve.jobs.job import State
from ffrt.serve.jobs.store import Store
from ffrt.serve.keeper import Keeper
from ffrt.serve.limits import Limits
from ffrt.serve.options import ServeOptions
from tests.serve.fakes import FINISHED, VIDEO, FakeExecutor, Running, at_once, steps, waits

Start = Callable[..., Running]
ASK = {"prompt": "a red circle", "seed": 7}
FREE = ServeOptions(limits=Limits(disk_floor=0, disk_wait_s=0.0))


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def stops_after_a_stage(fake: FakeExecutor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
    """Keyframes are made, then it waits; with a checkpoint it goes on from there."""
    if saved is None:
        yield from list(steps(work))[:5]
        yield told.Checkpoint("keyframes", b"the keyframes")
        yield from waits(fake, work, saved)
    else:
        yield from list(steps(work))[5:]
        yield FINISHED


def test_a_drained_server_goes_on_from_the_end_of_the_last_stage(tiny: Bundle, tmp_path: Path) -> None:
    first = Running(tmp_path / "data", tiny, FakeExecutor(stops_after_a_stage), FREE)
    with first.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        checkpoint = first.data.checkpoint(id)
        first.until(checkpoint.exists)
        first.until(lambda: client.get("/v1/videos").json()["data"][0]["stage"] == "keyframes")
    first.close()
    second = Running(tmp_path / "data", tiny, FakeExecutor(stops_after_a_stage), FREE)
    try:
        second.until(lambda: second.state(id) == "completed")
        assert second.executor.ran == [(id, b"the keyframes")]
        job = second.store.wait(Store.find, id)
        assert job is not None and job.attempt == 1, "an attempt that was drained does not count"
        assert not checkpoint.exists(), "what only the work needed is gone"
    finally:
        second.close()


def test_one_folder_is_for_one_server(tmp_path: Path) -> None:
    data = Data(tmp_path / "data")
    with pytest.raises(ServeError, match="held by another server"):
        Data(tmp_path / "data")
    data.close()
    Data(tmp_path / "data").close()


def test_a_start_sweeps_half_files_and_files_of_no_job(tiny: Bundle, tmp_path: Path) -> None:
    data = Data(tmp_path / "data")
    stranger = "video_" + "0" * 32
    left = [
        data.file(stranger, ".mp4"),
        data.file(stranger, f".mp4{PART}"),
        data.checkpoint(stranger),
        data.reference(stranger),
    ]
    for path in left:
        path.write_bytes(b"half")
    (data.scratch / "place-0").mkdir()
    data.close()
    server = Running(tmp_path / "data", tiny, FakeExecutor(), FREE)
    try:
        assert not any(path.exists() for path in left) and names_of(server.data.scratch) == set()
    finally:
        server.close()


def test_what_is_not_ours_stops_no_start_and_is_left_alone(tiny: Bundle, tmp_path: Path) -> None:
    found = tmp_path / "data" / "files" / "lost+found"
    found.mkdir(parents=True)
    others = [tmp_path / "data" / name for name in ("files/a.mp4", "checkpoints/epoch-7.pt", "scratch/notes.txt")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("of somebody")
    server = Running(tmp_path / "data", tiny, FakeExecutor(), FREE)
    try:
        assert found.is_dir() and all(path.exists() for path in others)
        assert server.data.bytes_of_files() == {}
    finally:
        server.close()


class FullDisk:
    """`os.fsync` and `open` as on a disk that is full for files whose name has a word in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
        self.full = True
        whole = Data.publish

        def publish(data: Data, contents: Any) -> None:
            if self.full and any(word in str(path) for path in contents):
                raise OSError(errno.ENOSPC, "No space left on device")
            whole(data, contents)

        monkeypatch.setattr(Data, "publish", publish)


def test_no_room_for_the_video_is_a_failure_that_is_told_and_leaves_nothing(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, "/files/")
    server = running()
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.state(id) == "failed")
        assert client.get(f"/v1/videos/{id}").json()["error"]["code"] == "disk_full"
        assert names_of(server.data.folder / "files") == set()


def test_a_video_waits_for_room(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch, "/files/")
    server = running(disk_wait_s=60.0)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.state(id) == "in_progress")
        disk.full = False
        server.until(lambda: server.state(id) == "completed")
        assert client.get(f"/v1/videos/{id}/content").content == VIDEO


def test_no_room_for_a_checkpoint_costs_nothing_but_the_checkpoint(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, "/checkpoints/")

    def script(fake: FakeExecutor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
        yield told.Checkpoint("keyframes", b"the keyframes")
        yield FINISHED

    server = running(script)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.state(id) == "completed")
        assert server.state(id) == "completed"


@contextlib.contextmanager
def no_writes(monkeypatch: pytest.MonkeyPatch, method: str) -> Iterator[None]:
    """In the block the table takes no write of that kind; a call that is repeated after it goes well."""
    whole, full = getattr(Store, method), [True]

    def call(*args: Any, **kwargs: Any) -> Any:
        if full:
            raise StoreError("the disk is full")
        return whole(*args, **kwargs)

    monkeypatch.setattr(Store, method, call)
    yield
    full.clear()


def test_a_table_without_room_refuses_jobs_and_says_that_it_is_not_ready(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = running()
    with server.client() as client:
        assert client.get("/health/ready").status_code == 200
        with no_writes(monkeypatch, "create"):
            answer = client.post("/v1/videos", json=ASK)
            assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
            assert answer.headers["x-should-retry"] == "false"
        ready = client.get("/health/ready")
        assert ready.status_code in (200, 503)
        assert client.post("/v1/videos", json=ASK).status_code == 200
        server.until(lambda: client.get("/health/ready").status_code == 200)


@pytest.mark.parametrize("method", ["complete", "begin", "any_state"])
def test_an_end_that_cannot_be_written_is_written_when_it_can(
    running: Start, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    server = running()
    with server.client() as client:
        with no_writes(monkeypatch, method):
            id = client.post("/v1/videos", json=ASK).json()["id"]
            server.until(lambda: not server.store.works or method == "begin")
            ready = client.get("/health/ready").json()
            assert ready["ready"] is False or method == "begin"
            assert client.get(f"/v1/videos/{id}/content").status_code == 404
        server.until(lambda: server.state(id) == "completed")
        assert len(server.executor.ran) == 1, "the work was not done again"


@contextlib.contextmanager
def full_until(monkeypatch: pytest.MonkeyPatch, has_room: Callable[[], bool]) -> Iterator[None]:
    """In the block the table takes none of the writes that end a job, unless there is room."""
    full = [True]

    def until_room(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if full and not has_room():
                raise StoreError("the disk is full")
            return whole(*args, **kwargs)

        return call

    for name in ("cancel", "delete", "stopped", "complete"):
        monkeypatch.setattr(Store, name, until_room(getattr(Store, name)))
    yield
    full.clear()


def test_the_files_of_a_deleted_video_make_the_room_for_its_row(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = running()
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.state(id) == "completed")
        files = server.data.folder / "files"
        with full_until(monkeypatch, lambda: names_of(files) == set()):
            answer = client.delete(f"/v1/videos/{id}")
            assert (answer.status_code, answer.json()["deleted"]) == (200, True)
        assert server.state(id) is None


@pytest.mark.parametrize("verb", ["cancel", "delete"])
def test_what_runs_stops_at_once_on_a_full_disk_and_what_waits_is_as_it_was(
    running: Start, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    server = running(waits, cancel_s=0.2)
    with server.client() as client:

        def end(id: str) -> Any:
            path = f"/v1/videos/{id}"
            return client.post(f"{path}/cancel") if verb == "cancel" else client.delete(path)

        first, second = (client.post("/v1/videos", json=ASK).json()["id"] for _ in range(2))
        server.until(lambda: server.executor.place.current == first)
        with full_until(monkeypatch, lambda: False):
            assert end(first).status_code == (200 if verb == "cancel" else 507)
            server.until(lambda: first in server.executor.cancelled)
            assert server.state(first) == "in_progress"
            waiting = end(second)
            assert waiting.status_code == 507 and "nothing was changed" in waiting.json()["error"]["message"]
        server.until(lambda: server.state(first) == "cancelled")
        server.executor.go_on.set()
        server.until(lambda: server.state(second) == "completed")
        assert [id for id, _ in server.executor.ran] == [first, second]


def test_a_cancel_that_is_not_on_the_disk_is_none_after_a_kill(
    running: Start, monkeypatch: pytest.MonkeyPatch, tiny: Bundle, tmp_path: Path
) -> None:
    server = running(waits, cancel_s=0.1)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.executor.place.current == id)
        with full_until(monkeypatch, lambda: False):
            assert client.post(f"/v1/videos/{id}/cancel").json()["state"] == "in_progress"
            shutil.copytree(server.data.folder, tmp_path / "killed")
        server.until(lambda: server.state(id) == "cancelled")
    again = Running(tmp_path / "killed", tiny, FakeExecutor(at_once), FREE)
    try:
        again.until(lambda: again.state(id) == "completed")
    finally:
        again.close()


def test_below_its_floor_the_disk_takes_no_job(running: Start) -> None:
    server = running(disk_floor=1 << 60)
    with server.client() as client:
        answer = client.post("/v1/videos", json=ASK)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["the disk is full"])


def test_files_expire_and_rows_stay_a_while(running: Start) -> None:
    server = running(keep_s=0.0, keep_rows_s=1e9)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.state(id) == "completed")
        gone = client.get(f"/v1/videos/{id}/content")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "expired")
        Keeper(server.store, server.data, server.options.limits).once()
        assert names_of(server.data.folder / "files") == set()
        assert client.get(f"/v1/videos/{id}").json()["state"] == "completed"
        with pytest.MonkeyPatch.context() as patch:  # a search of the folder for each job of days would take for ever
            patch.setattr(Data, "forget_files", lambda data, id: pytest.fail("looked for files that are gone"))
            Keeper(server.store, server.data, server.options.limits).once()
        Keeper(server.store, server.data, Limits(keep_rows_s=0)).once()
        assert client.get(f"/v1/videos/{id}").status_code == 404


def test_the_oldest_files_go_to_make_room(running: Start) -> None:
    size = len(VIDEO) + 100
    server = running(max_disk=2 * size)
    with server.client() as client:
        ids = []
        for _ in range(4):
            ids.append(client.post("/v1/videos", json=ASK).json()["id"])
            server.until(lambda: server.state(ids[-1]) == "completed")
        Keeper(server.store, server.data, server.options.limits).once()
        codes = [client.get(f"/v1/videos/{id}/content").status_code for id in ids]
        assert codes == [404, 404, 200, 200]


def test_a_file_that_is_gone_is_not_found(running: Start) -> None:
    server = running()
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.state(id) == "completed")
        server.data.forget_files(id)
        assert client.get(f"/v1/videos/{id}/content").status_code == 404


def test_a_place_that_is_not_ready_gets_no_job_and_health_says_why(running: Start) -> None:
    from dataclasses import replace

    server = running()
    server.executor.place = replace(server.executor.place, ready=False, why="CUDA did not start")
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["place-0: CUDA did not start"])
        assert server.state(id) == "queued" and client.get("/health").status_code == 200
        server.executor.place = replace(server.executor.place, ready=True, why=None)
        server.until(lambda: server.state(id) == "completed")


def test_jobs_of_a_server_that_was_killed_are_taken_up_first(tiny: Bundle, tmp_path: Path) -> None:
    server = Running(tmp_path / "data", tiny, FakeExecutor(waits), FREE)
    with server.client() as client:
        ids = [client.post("/v1/videos", json=ASK).json()["id"] for _ in range(2)]
        server.until(lambda: server.state(ids[0]) == "in_progress")
    server.store.wait(lambda store: None)
    # the row says in_progress, as after kill -9; the place is told to stop only when nobody looks any more
    shutil.copytree(tmp_path / "data", tmp_path / "killed")
    server.close()
    again = Running(tmp_path / "killed", tiny, FakeExecutor(at_once), FREE)
    try:
        again.until(lambda: {again.state(id) for id in ids} == {"completed"})
        assert [id for id, _ in again.executor.ran] == ids
        job = again.store.wait(Store.find, ids[0])
        assert job is not None and job.attempt == 2 and job.state is State.COMPLETED
    finally:
        again.close()


def test_a_job_that_failed_once_and_was_cancelled_in_the_queue_is_forgotten(running: Start) -> None:
    server = running()
    dispatcher, place = server.service.dispatcher, server.executor
    with server.client() as client:
        place.place = replace(place.place, ready=False)
        id = client.post("/v1/videos", json=ASK).json()["id"]
        dispatcher._errors[id] = 1
        assert client.post(f"/v1/videos/{id}/cancel").json()["state"] == "cancelled"
        place.place = replace(place.place, ready=True)
        server.until(lambda: id not in dispatcher._errors)
