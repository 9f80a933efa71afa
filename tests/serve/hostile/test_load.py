"""Many connections and many requests: who waits is closed, who is too many is told so, and `/health` is answered."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ffrt.serve import connections
from ffrt.serve.api import guard
from tests.serve.fakes import Running, waits

Start = Callable[..., Running]
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextlib.contextmanager
def opened(server: Running, count: int, begin: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that send `begin` and no more."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30)))
            found[-1].sendall(begin)
        yield found


def is_closed(raw: socket.socket) -> bool:
    """Whether the other side closes it, now or later; what came before that is read."""
    try:
        while raw.recv(4096):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("begin", [b"", b"G", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
def test_connections_that_ask_for_nothing_keep_nobody_out_and_are_closed(
    running: Start, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 1.0)
    server = running()
    with opened(server, 260, begin) as silent:
        with server.client() as client:
            assert client.get("/health").status_code == 200
            assert client.get("/v1/videos").status_code == 200
        assert all(is_closed(raw) for raw in silent)


def test_a_head_that_comes_a_byte_at_a_time_has_the_same_time_as_any(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 1.0)
    server = running()
    with opened(server, 1, HEALTH) as (raw,):
        assert raw.recv(4096).startswith(b"HTTP/1.1 200"), "a second request of a connection is watched, too"
        with pytest.raises(OSError):
            for _ in range(1000):
                raw.sendall(b"G")
                time.sleep(0.02)
        assert is_closed(raw)


@pytest.mark.parametrize("begin", [b"", b'{"prompt":'])
def test_a_body_that_does_not_come_gives_its_place_back(
    running: Start, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.5)
    server = running(requests=1)
    head = (
        b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    )
    with opened(server, 1, head + begin) as (raw,):
        answer = b"".join(iter(lambda: raw.recv(4096), b""))  # to the end of the connection
        assert answer.startswith(b"HTTP/1.1 408") and b'"body_too_slow"' in answer
        with server.client() as client:
            assert client.get("/v1/videos").json()["data"] == []


def test_streams_and_pauses_between_requests_are_not_cut(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 1.0)
    server = running(waits)
    with server.client() as client:
        id = client.post("/v1/videos", json={"prompt": "a"}).json()["id"]
        with opened(server, 1, HEALTH) as (raw,), client.stream("GET", f"/v1/videos/{id}/events") as stream:
            assert raw.recv(4096).startswith(b"HTTP/1.1 200")
            time.sleep(1.5)
            raw.sendall(HEALTH)
            assert raw.recv(4096).startswith(b"HTTP/1.1 200")
            server.executor.go_on.set()
            assert "event: completed" in "".join(stream.iter_lines())


def test_one_connection_too_many_costs_the_one_that_waits_longest(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    server = running(waits)
    with server.client() as client:
        id = client.post("/v1/videos", json={"prompt": "a"}).json()["id"]
        with client.stream("GET", f"/v1/videos/{id}/events") as stream, opened(server, 2) as (oldest, _):
            with server.client() as other:
                assert other.get("/health").status_code == 200
            assert is_closed(oldest)
            server.executor.go_on.set()
            assert "event: completed" in "".join(stream.iter_lines())


def test_a_request_too_many_is_told_when_to_come_again_and_health_is_answered(running: Start) -> None:
    server = running(waits, requests=2)
    with server.client() as client:
        id = client.post("/v1/videos", json={"prompt": "a"}).json()["id"]
        began, end = threading.Barrier(3, timeout=30), threading.Event()

        def watch() -> None:
            with server.client() as own, own.stream("GET", f"/v1/videos/{id}/events") as stream:
                began.wait()
                assert end.wait(30)
                list(stream.iter_lines())

        threads = [threading.Thread(target=watch) for _ in range(2)]
        for thread in threads:
            thread.start()
        began.wait()
        refused = client.get("/v1/videos")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0 and "x-request-id" in refused.headers
        for path in ("/health", "/health/ready", "/metrics"):
            assert client.get(path).status_code == 200
        server.executor.go_on.set()
        end.set()
        for thread in threads:
            thread.join()
        assert client.get("/v1/videos").status_code == 200
