"""The routes of videos over a fake worker: what a client asks and what it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ffrt.serve.api.schema import Video
from ffrt.serve.api.service import Service
from ffrt.serve.engine import executor as told
from ffrt.serve.jobs.job import Job, State
from ffrt.serve.jobs.store import Store
from tests.serve.fakes import VIDEO, FakeExecutor, Running, fails, loses, waits

Start = Callable[..., Running]
ASK = {"prompt": "a red circle", "seed": 7}


def made(server: Running, client: Any, **fields: Any) -> dict[str, Any]:
    """A video that is completed."""
    answer = client.post("/v1/videos", json={**ASK, **fields})
    assert answer.status_code == 200, answer.text
    id = answer.json()["id"]
    server.until(lambda: server.state(id) not in ("queued", "in_progress"))
    return client.get(f"/v1/videos/{id}").json()


def test_a_video_is_queued_made_and_fetched(running: Start) -> None:
    server = running()
    with server.client() as client:
        video = made(server, client)
        assert (video["status"], video["state"], video["progress"], video["error"]) == (
            "completed",
            "completed",
            100,
            None,
        )
        assert (video["size"], video["seconds"], video["seed"], video["fps"]) == ("32x32", "1", 7, 8)
        assert (video["num_frames"], video["num_inference_steps"], video["bytes"]) == (9, 4, len(VIDEO))
        path = f"/v1/videos/{video['id']}/content"
        whole = client.get(path, headers={"accept": "application/binary"})
        assert whole.content == VIDEO and whole.headers["content-type"] == "video/mp4"
        assert whole.headers["etag"] == f'"{video["sha256"]}"'
        assert whole.headers["content-disposition"] == f'inline; filename="{video["id"]}.mp4"'
        part = client.get(path, headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, VIDEO[10:20])
        for beyond in ("bytes=99999-", f"bytes={len(VIDEO)}-", "bytes=0-1,99999-"):
            refused = client.get(path, headers={"range": beyond})
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["param"]) == (416, "invalid_range", "Range"), beyond
            assert refused.headers["content-range"] == f"bytes */{len(VIDEO)}" and str(len(VIDEO)) in error["message"]
        stale = {"range": "bytes=99999-", "if-range": '"another"'}
        assert client.get(path, headers=stale).content == VIDEO
        for bad in ("items=0-1", "bytes=a-b", "bytes=5-2", "bytes=", "bytes=0-1,9-3", f"bytes={'9' * 5000}-"):
            all_of_it = client.get(path, headers={"range": bad})
            assert (all_of_it.status_code, all_of_it.content) == (200, VIDEO), bad
        known = {"if-none-match": whole.headers["etag"]}
        again = client.get(path, headers=known)
        assert again.status_code == 304 and {again.headers["cache-control"], whole.headers["cache-control"]} == {
            "private, no-cache"
        }
        assert client.get(path, params={"variant": "thumbnail"}).headers["content-type"] == "image/webp"
        sheet = client.get(path, params={"variant": "spritesheet"})
        assert sheet.headers["x-spritesheet"] == "3x3" and sheet.headers["cache-control"] == "private, no-cache"
        client.delete(path.removesuffix("/content"))
        assert client.get(path, headers=known).status_code == 404, "what is deleted is not shown from a cache"


def test_a_pair_of_numbers_comes_as_json_and_in_a_form(running: Start) -> None:
    server = running()
    with server.client() as client:
        video = made(server, client, guidance_interval=[200, 800.5])
        assert video["asked"]["guidance_interval"] == [200, 800.5]
        form = {"prompt": (None, "a red circle"), "guidance_interval": (None, "200,800.5")}
        again = client.post("/v1/videos", files=form)
        assert again.status_code == 200 and again.json()["asked"]["guidance_interval"] == [200, 800.5]
        for text in ("200", "200,", "200,800,900", "a,b", "800,200", ""):
            refused = client.post("/v1/videos", files={**form, "guidance_interval": (None, text)})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "guidance_interval"), text


def test_the_order_is_of_arrival_and_the_place_is_told(running: Start) -> None:
    server = running(waits)
    with server.client() as client:
        ids = [client.post("/v1/videos", json=ASK).json()["id"] for _ in range(3)]
        server.until(lambda: server.state(ids[0]) == "in_progress")
        shown = [client.get(f"/v1/videos/{id}") for id in ids]
        assert [one.json()["queue_position"] for one in shown] == [None, 1, 2]
        assert [one.json()["status"] for one in shown] == ["in_progress", "queued", "queued"]
        assert all(250 <= int(one.headers["openai-poll-after-ms"]) <= 5000 for one in shown)
        page = client.get("/v1/videos", params={"limit": 2}).json()
        assert [one["id"] for one in page["data"]] == ids[:0:-1] and page["has_more"]
        rest = client.get("/v1/videos", params={"limit": 2, "after": page["last_id"]}).json()
        assert [one["id"] for one in rest["data"]] == ids[:1] and not rest["has_more"]
        server.executor.go_on.set()
        server.until(lambda: {server.state(id) for id in ids} == {"completed"})
        assert [id for id, _ in server.executor.ran] == ids


def test_cancel_stops_what_waits_and_what_runs_and_nothing_else(running: Start) -> None:
    server = running(waits)
    with server.client() as client:
        first, second, third = (client.post("/v1/videos", json=ASK).json()["id"] for _ in range(3))
        server.until(lambda: server.executor.place.current == first)
        queued = client.post(f"/v1/videos/{second}/cancel").json()
        assert (queued["status"], queued["state"], queued["error"]["code"]) == ("failed", "cancelled", "cancelled")
        stopped = client.post(f"/v1/videos/{first}/cancel").json()
        assert stopped["state"] == "cancelled"
        server.executor.go_on.set()
        server.until(lambda: server.state(third) == "completed")
        unchanged = client.post(f"/v1/videos/{third}/cancel")
        assert (unchanged.status_code, unchanged.json()["state"]) == (200, "completed")
        assert client.get(f"/v1/videos/{first}/content").json()["error"]["code"] == "not_ready"
        assert second not in [id for id, _ in server.executor.ran]


def test_delete_removes_row_and_files_and_stops_what_runs(running: Start) -> None:
    server = running(waits)
    with server.client() as client:
        first, second = (client.post("/v1/videos", json=ASK).json()["id"] for _ in range(2))
        server.until(lambda: server.executor.place.current == first)
        gone = client.delete(f"/v1/videos/{first}")
        assert (gone.status_code, gone.json()) == (200, {"id": first, "object": "video.deleted", "deleted": True})
        server.executor.go_on.set()
        server.until(lambda: server.state(second) == "completed")
        assert client.delete(f"/v1/videos/{second}").json()["deleted"]
        assert [client.get(f"/v1/videos/{id}").status_code for id in (first, second)] == [404, 404]
        assert list((server.data.folder / "files").iterdir()) == []
        assert client.delete(f"/v1/videos/{second}").status_code == 404


def test_delete_of_a_worker_that_does_not_answer_is_told_and_done_later(running: Start) -> None:
    def deaf(fake: Any, work: Any, saved: Any) -> Any:
        fake.go_on.wait(30)
        yield from fails("internal_error", False)(fake, work, saved)

    server = running(deaf, cancel_s=0.1)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.executor.place.current == id)
        answer = client.delete(f"/v1/videos/{id}")
        assert (answer.status_code, answer.json()["deleted"]) == (202, False)
        assert client.get(f"/v1/videos/{id}").status_code == 404
        server.executor.go_on.set()
        server.until(lambda: server.state(id) is None)


def test_a_job_that_kills_its_worker_is_given_up(running: Start) -> None:
    server = running(loses)
    with server.client() as client:
        video = made(server, client)
        assert (video["status"], video["error"]["code"], video["attempt"]) == ("failed", "worker_lost", 3)
        assert len(server.executor.ran) == 3


def test_a_fault_of_the_server_itself_does_not_leave_a_job_for_ever(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ffrt.serve.jobs.outcome import Outcome

    faults = ["once"]
    whole = Outcome.publish

    def publish(*args: Any) -> Any:
        if faults:
            raise RuntimeError(faults.pop())
        return whole(*args)

    monkeypatch.setattr(Outcome, "publish", publish)
    server = running()
    with server.client() as client:
        video = made(server, client)
        assert (video["state"], video["attempt"]) == ("completed", 2)


@pytest.mark.parametrize(("retryable", "runs"), [(True, 2), (False, 1)])
def test_an_error_that_nobody_foresaw_is_tried_once_more(running: Start, retryable: bool, runs: int) -> None:
    server = running(fails("internal_error", retryable))
    with server.client() as client:
        assert made(server, client)["error"] == {"code": "internal_error", "message": "it went wrong"}
        assert len(server.executor.ran) == runs


@pytest.mark.parametrize("way", ["cancel", "delete"])
def test_what_nobody_wants_any_more_is_not_tried_again_and_counts_as_cancelled(running: Start, way: str) -> None:
    def fails_late(fake: FakeExecutor, work: told.Work, saved: bytes | None) -> Iterator[told.Event]:
        assert fake.go_on.wait(60)
        yield told.Failed("internal_error", "it went wrong", True)

    server = running(fails_late)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.executor.place.current == id)
        if way == "cancel":
            client.post(f"/v1/videos/{id}/cancel")
        else:
            client.delete(f"/v1/videos/{id}")
        server.executor.go_on.set()
        server.until(lambda: '{code="cancelled",state="cancelled"} 1.0' in client.get("/metrics").text)
        assert len(server.executor.ran) == 1


def test_one_idempotency_key_in_fifty_threads_is_one_job(running: Start) -> None:
    server = running(per_minute=1000, queue_per_key=64)
    answers: list[Any] = []

    def ask(client: Any) -> None:
        answers.append(client.post("/v1/videos", json={"prompt": "a"}, headers={"idempotency-key": "one"}))

    with server.client() as client:
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {one.status_code for one in answers} == {200}
        assert len({one.json()["id"] for one in answers}) == 1, "a seed that was drawn is no other request"
        assert sum("idempotency-replayed" not in one.headers for one in answers) == 1
        other = client.post("/v1/videos", json={"prompt": "b"}, headers={"idempotency-key": "one"})
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_events_tell_the_state_then_every_change_until_the_end(running: Start) -> None:
    server = running(waits)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.executor.place.current == id)
        names, ids, last = [], [], ""
        with client.stream("GET", f"/v1/videos/{id}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    names.append(line[7:])
                    if names[-1] == "preview":
                        picture = client.get(f"/v1/videos/{id}/preview")
                        assert (picture.content, picture.headers["cache-control"]) == (b"RIFFpreview", "no-store")
                        server.executor.go_on.set()
                elif line.startswith("id: "):
                    ids.append(int(line[4:]))
                elif line.startswith("data: "):
                    last = line[6:]
        assert names[-1] == "completed" and {"progress", "preview"} <= set(names)
        assert json.loads(last)["state"] == "completed"
        assert ids == sorted(ids)
        assert client.get(f"/v1/videos/{id}/preview").status_code == 404
        with client.stream("GET", f"/v1/videos/{id}/events") as stream:
            assert "event: completed" in "".join(stream.iter_lines())


def test_progress_never_goes_back(running: Start) -> None:
    server = running(waits)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        seen = []
        while server.state(id) != "completed":
            video = client.get(f"/v1/videos/{id}").json()
            seen.append(video["progress"])
            if video["stage"] == "keyframes":
                server.executor.go_on.set()
        assert seen == sorted(seen) and seen[-1] <= 100


def test_a_job_that_ends_while_it_is_asked_for_is_shown_as_it_ended(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = running(waits)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: client.get(f"/v1/videos/{id}").json()["stage"] == "keyframes")
        show = Service.show

        async def late(self: Service, *jobs: Job) -> list[Video]:
            server.executor.go_on.set()
            while (await self.store.ask(Store.any_state, id)).state is not State.COMPLETED:  # type: ignore[union-attr]
                await asyncio.sleep(0.01)
            return await show(self, *jobs)

        monkeypatch.setattr(Service, "show", late)
        video = client.get(f"/v1/videos/{id}").json()
        assert (video["status"], video["progress"]) == ("completed", 100)


def test_sync_answers_with_the_file(running: Start) -> None:
    server = running()
    with server.client() as client:
        answer = client.post("/v1/videos/sync", json=ASK)
        assert (answer.status_code, answer.content) == (200, VIDEO)
        assert client.get("/v1/videos").json()["data"][0]["id"] == answer.headers["x-video-id"]


def test_a_client_that_leaves_a_sync_request_cancels_it(running: Start) -> None:
    server = running(waits)
    with server.client() as client:
        with pytest.raises(Exception, match="timed out"):
            client.post("/v1/videos/sync", json=ASK, timeout=0.5)
        server.until(lambda: [str(job["state"]) for job in client.get("/v1/videos").json()["data"]] == ["cancelled"])


def test_a_slow_reader_of_events_gives_its_slot_back(running: Start) -> None:
    server = running(waits, streams_per_key=1)
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        with client.stream("GET", f"/v1/videos/{id}/events") as stream:
            assert stream.status_code == 200
            refused = client.get(f"/v1/videos/{id}/events")
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        server.until(lambda: server.service.streams.taken == 0)
        server.executor.go_on.set()
