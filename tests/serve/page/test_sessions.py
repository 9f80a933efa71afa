"""Sessions of the page: who gets one, what it opens, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ffrt.serve.api.app import build
from ffrt.serve.keys import Keys, add_key, remove_key
from ffrt.serve.limits import Limits
from ffrt.serve.options import ServeOptions
from ffrt.serve.sessions import LASTS_S, MOST, MOST_OF_KEY, Sessions
from tests.serve.fakes import Running

Start = Callable[..., Running]
ASK = {"prompt": "a red circle"}


@pytest.fixture
def keyed(running: Start, tmp_path: Path) -> tuple[Running, str]:
    """A server with a key, and that key."""
    token = add_key(tmp_path / "keys", "alice")
    options = ServeOptions(keys=tmp_path / "keys", limits=Limits(disk_floor=0))
    return running(options=options), token


def log_in(client: httpx.Client, token: str) -> httpx.Response:
    return client.post("/session", headers={"authorization": f"Bearer {token}"})


def test_a_key_in_a_header_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(keyed: tuple[Running, str]) -> None:
    server, token = keyed
    with server.client() as client:
        assert client.get("/session").json() == {"keys": True, "name": None, "ending": False}
        answer = log_in(client, token)
        assert (answer.status_code, answer.content, answer.headers["cache-control"]) == (204, b"", "no-store")
        parts = answer.headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=strict", "Path=/", f"Max-Age={int(LASTS_S)}"} == set(parts[1:])
        name, _, value = parts[0].partition("=")
        assert name == f"ffrt_session_{server.port}" and len(value) >= 43 and value not in token
        assert client.get("/session").json() == {"keys": True, "name": "alice", "ending": False}
        id = client.post("/v1/videos", json=ASK).json()["id"]
        server.until(lambda: server.state(id) == "completed")
        for path in ("", "/content", "/events"):
            assert client.get(f"/v1/videos/{id}{path}").status_code == 200
    with httpx.Client() as stranger:
        assert stranger.get(f"{server.url}/v1/videos/{id}").status_code == 401


@pytest.mark.parametrize("token", ["ffrt_", "ffrt_wrong", "x" * 5000])
def test_a_wrong_key_or_cookie_opens_nothing(keyed: tuple[Running, str], token: str) -> None:
    server, _ = keyed
    with server.client() as client:
        answer = log_in(client, token)
        assert (answer.status_code, answer.headers.get("set-cookie")) == (401, None)
        client.cookies.set(f"ffrt_session_{server.port}", token)
        assert client.get("/v1/videos").status_code == 401
        assert client.get("/session").json()["name"] is None


def test_a_session_does_not_stand_in_for_the_key_of_another_one(keyed: tuple[Running, str]) -> None:
    server, token = keyed
    with server.client() as client:
        log_in(client, token)
        assert client.post("/session").status_code == 401
        wrong = {"authorization": "Bearer ffrt_wrong"}
        assert client.get("/v1/videos", headers=wrong).status_code == 401, "a header wins over the cookie"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_cookie_counts_for_our_own_page_alone(keyed: tuple[Running, str], headers: dict[str, str]) -> None:
    server, token = keyed
    with server.client() as client:
        log_in(client, token)
        for method, path in [("POST", "/v1/videos"), ("GET", "/v1/videos"), ("DELETE", "/session")]:
            answer = client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        own = {"origin": server.url, "sec-fetch-site": "same-origin"}
        assert client.post("/v1/videos", json=ASK, headers=own).status_code == 200
        assert client.get("/session").json()["name"] == "alice"


def test_a_page_that_may_use_the_server_may_not_use_a_session(running: Start, tmp_path: Path) -> None:
    page = "https://studio.example"
    token = add_key(tmp_path / "keys", "alice")
    options = ServeOptions(keys=tmp_path / "keys", origins=(page,), limits=Limits(disk_floor=0))
    with running(options=options).client() as client:
        log_in(client, token)
        assert client.post("/v1/videos", json=ASK, headers={"origin": page}).status_code == 403
        with_key = {"origin": page, "authorization": f"Bearer {token}"}
        assert client.post("/v1/videos", json=ASK, headers=with_key).status_code == 200


def test_logging_out_ends_the_session_and_not_only_the_cookie(keyed: tuple[Running, str]) -> None:
    server, token = keyed
    with server.client() as client:
        log_in(client, token)
        kept = dict(client.cookies)
        assert client.delete("/session").status_code == 204
        assert dict(client.cookies) == {}
        assert client.delete("/session").status_code == 204
    with server.client(cookies=kept) as thief:
        assert thief.get("/v1/videos").status_code == 401


def test_a_key_that_is_removed_ends_its_sessions(keyed: tuple[Running, str], tmp_path: Path) -> None:
    server, token = keyed
    with server.client() as client:
        log_in(client, token)
        add_key(tmp_path / "keys", "bob")
        server.keys.reload()
        assert client.get("/v1/videos").status_code == 200
        remove_key(tmp_path / "keys", "alice")
        add_key(tmp_path / "keys", "alice")  # of the same name, and another one
        server.keys.reload()
        assert client.get("/v1/videos").status_code == 401


def test_with_tls_the_cookie_goes_over_tls_alone(keyed: tuple[Running, str]) -> None:
    server, token = keyed
    app = build(server.service, hosts=["studio.example"])

    async def log_in_over_tls() -> str:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="https://studio.example") as client:
            answer = await client.post("/session", headers={"authorization": f"Bearer {token}"})
            return answer.headers["set-cookie"]

    cookie = asyncio.run(log_in_over_tls())
    assert cookie.startswith("ffrt_session=") and "Secure" in cookie.split("; ")


def test_a_server_without_keys_has_no_sessions(running: Start) -> None:
    with running().client() as client:
        assert client.get("/session").json() == {"keys": False, "name": None, "ending": False}
        assert log_in(client, "x").json()["error"]["code"] == "not_found"


def test_sessions_end_after_their_time_and_the_oldest_make_room(tmp_path: Path) -> None:
    now_s = 0.0
    file = tmp_path / "keys"
    tokens = {name: add_key(file, name) for name in [f"key-{i}" for i in range(MOST // MOST_OF_KEY + 2)]}
    keys = Keys(file)
    sessions = Sessions(keys, clock=lambda: now_s)
    alice, bob = (keys.find(tokens[name]) for name in ("key-0", "key-1"))
    assert alice is not None and bob is not None
    first = sessions.begin(alice)
    now_s = LASTS_S - 1
    assert sessions.find(first) == alice
    second = sessions.begin(bob)
    now_s = LASTS_S
    assert sessions.find(first) is None and sessions.find(second) == bob
    mine = [sessions.begin(alice) for _ in range(MOST_OF_KEY + 1)]
    assert [sessions.find(token) is None for token in mine] == [True] + [False] * MOST_OF_KEY
    assert sessions.find(second) == bob, "one key's sessions take no room of another's"
    for name in list(tokens)[2:]:
        key = keys.find(tokens[name])
        assert key is not None
        for _ in range(MOST_OF_KEY):
            sessions.begin(key)
    assert sessions.find(second) is None and sessions.find(mine[1]) is None
    assert sessions.find(mine[-1]) == alice
