"""Who may ask, from which page, under which name; and what answers and logs carry."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffrt.cli.main import main
from ffrt.errors import RequestError
from ffrt.serve.errors import ServeError
from ffrt.serve.keys import Keys, add_key, read_keys, remove_key
from ffrt.serve.limits import Limits
from ffrt.serve.options import ServeOptions
from ffrt.serve.server import Server, check_address, check_certificate, configured
from tests.serve.fakes import Running

Start = Callable[..., Running]
ASK = {"prompt": "a secret circle"}


@pytest.fixture
def keyed(running: Start, tmp_path: Path) -> tuple[Running, str, str]:
    """A server with two keys."""
    file = tmp_path / "keys"
    one, two = add_key(file, "one"), add_key(file, "two", first=True)
    options = ServeOptions(keys=file, limits=Limits(disk_floor=0, per_minute=1000))
    return running(options=options), one, two


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_a_key_is_shown_once_and_kept_as_a_digest_that_others_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    token = add_key(file, "me")
    assert token.startswith("ffrt_") and token not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(RequestError, match="has a key"):
        add_key(file, "me")
    for name in ("", "a:b", "a b", "x" * 65, "a\n"):
        with pytest.raises(RequestError, match="name: expected"):
            add_key(file, name)
    found = Keys(file).find(token)
    assert found is not None and found.name == "me"
    assert Keys(file).find(token[:-1]) is None and Keys(file).find("") is None
    remove_key(file, "me")
    assert read_keys(file) == ()


def test_a_file_of_keys_that_others_can_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    add_key(file, "me")
    os.chmod(file, 0o644)
    with pytest.raises(ServeError, match="chmod 600"):
        Keys(file)
    os.chmod(file, 0o600)
    file.write_text("me:secret\n")
    with pytest.raises(ServeError, match="line 1"):
        Keys(file)


@pytest.mark.parametrize(
    ("owner", "mode", "taken"),
    [
        *[(0, 0o640, True), (0, 0o440, True), (0, 0o400, True), (0, 0o644, False), (0, 0o660, False)],
        *[(1000, 0o600, True), (1000, 0o640, False), (1000, 0o604, False)],
    ],
)
def test_a_group_may_read_keys_that_root_handed_to_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, taken: bool
) -> None:
    file = tmp_path / "keys"
    add_key(file, "alice")
    facts = os.stat_result((0o100000 | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda number: facts)
    if taken:
        assert [key.name for key in read_keys(file)] == ["alice"]
    else:
        with pytest.raises(ServeError, match="chmod 600"):
            read_keys(file)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ffrt_wrong", "Basic {}", "{}", "Bearer  x{}"])
def test_without_its_key_nothing_is_told(keyed: tuple[Running, str, str], header: str) -> None:
    server, one, _ = keyed
    headers = [(b"authorization", header.format(one).encode())]
    with server.client() as client:
        for method, path in [("GET", "/v1/videos"), ("POST", "/v1/videos"), ("GET", "/v1/models")]:
            answer = client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert client.get("/health").status_code == 200


def test_a_key_sees_its_own_videos_only(keyed: tuple[Running, str, str]) -> None:
    server, one, two = keyed
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK, headers=bearer(one)).json()["id"]
        server.until(lambda: server.state(id) == "completed")
        assert client.get(f"/v1/videos/{id}", headers=bearer(one)).status_code == 200
        for method, path in [
            ("GET", ""),
            ("GET", "/content"),
            ("GET", "/events"),
            ("GET", "/preview"),
            ("POST", "/cancel"),
            ("DELETE", ""),
        ]:
            assert client.request(method, f"/v1/videos/{id}{path}", headers=bearer(two)).status_code == 404
        assert client.get("/v1/videos", headers=bearer(two)).json()["data"] == []
        assert client.get("/v1/videos", params={"after": id}, headers=bearer(two)).status_code == 400


def test_priority_is_for_keys_that_may(keyed: tuple[Running, str, str]) -> None:
    server, one, two = keyed
    with server.client() as client:
        asked = {**ASK, "priority": 1}
        assert client.post("/v1/videos", json=asked, headers=bearer(one)).json()["error"]["param"] == "priority"
        assert client.post("/v1/videos", json=asked, headers=bearer(two)).status_code == 200
        assert client.post("/v1/videos", json={**ASK, "priority": -1}, headers=bearer(one)).status_code == 200


def test_keys_that_are_read_again_hold_at_once(keyed: tuple[Running, str, str], tmp_path: Path) -> None:
    server, one, _ = keyed
    remove_key(tmp_path / "keys", "one")
    server.keys.reload()
    with server.client() as client:
        assert client.get("/v1/videos", headers=bearer(one)).status_code == 401


def test_keys_that_come_after_a_start_without_keys_are_told_to_hold_not_yet(
    running: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server = running()
    reloading = Server(configured(server.options, None), server.service, "")
    with caplog.at_level(logging.INFO, "ffrt.serve"):
        reloading._reload()
        assert "no key is asked for" not in caplog.text
        add_key(server.options.keys_file, "late")
        reloading._reload()
    assert "no key is asked for" in caplog.text and "start it again" in caplog.text


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "http://127.0.0.1", "file://", "https://127.0.0.1:1"]
)
def test_a_foreign_page_cannot_post(running: Start, origin: str) -> None:
    server = running()
    with server.client(headers={"origin": origin}) as client:
        for method, path in [("POST", "/v1/videos"), ("DELETE", "/v1/videos/x"), ("POST", "/v1/videos/x/cancel")]:
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in client.get("/v1/models").headers
    with server.client(headers={"origin": server.url}) as client:
        assert client.post("/v1/videos", json=ASK).status_code == 200


def test_a_page_that_is_allowed_can_post(running: Start) -> None:
    page = "https://studio.example"
    server = running(options=ServeOptions(origins=(page,), limits=Limits(disk_floor=0)))
    with server.client(headers={"origin": page}) as client:
        answer = client.post("/v1/videos", json=ASK)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "", "localhost.evil.example", "a@b", "[::1", "127.0.0.1.nip.io"]
)
def test_a_foreign_name_that_was_pointed_here_is_refused(running: Start, host: str) -> None:
    with running().client() as client:
        answer = client.get("/v1/videos", headers={"host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_host")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST", "192.168.0.7"])
def test_names_and_addresses_of_the_server_are_taken(running: Start, host: str) -> None:
    with running().client() as client:
        assert client.get("/health", headers={"host": host}).status_code == 200


def test_every_answer_carries_the_headers(running: Start) -> None:
    with running().client() as client:
        for answer in (
            client.get("/health"),
            client.get("/nowhere"),
            client.get("/v1/videos", headers={"host": "x.y"}),
        ):
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["x-request-id"].startswith("req_")
            assert "server" not in answer.headers


@pytest.mark.parametrize(("asked", "shown"), [(False, False), (True, True)])
def test_prompts_are_logged_if_asked_for(
    running: Start, caplog: pytest.LogCaptureFixture, asked: bool, shown: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    server = running(options=ServeOptions(log_prompts=asked, limits=Limits(disk_floor=0)))
    with server.client() as client:
        id = client.post("/v1/videos", json=ASK).json()["id"]
        client.post("/v1/videos", json={**ASK, "fps": 7})
        server.until(lambda: server.state(id) == "completed")
    told = " ".join(str(vars(record)) for record in caplog.records if record.name.startswith("ffrt"))
    assert id in told and ("secret circle" in told) == shown


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "server.pem"
    with pytest.raises(ServeError, match="ssl_certfile: .*server.pem.* cannot be used"):
        check_certificate(ServeOptions(ssl_certfile=missing, ssl_keyfile=missing))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("typed", ["right", "wrong", None])
def test_a_passphrase_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str | None) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "server.pem"
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-passout", "pass:right", "-subj", "/CN=localhost"]
    subprocess.run([*line, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        if typed is None:
            raise EOFError  # a service has nobody to ask
        return typed

    monkeypatch.setattr("getpass.getpass", answer)
    options = ServeOptions(ssl_certfile=certificate, ssl_keyfile=key)
    if typed != "right":
        with pytest.raises(ServeError, match="ssl_certfile: .* cannot be used"):
            check_certificate(options)
    else:
        configured(options, lambda: None, check_certificate(options)).load()
    assert asked == [f"passphrase of {key}: "]


def test_an_open_address_wants_keys(tmp_path: Path) -> None:
    empty = Keys(tmp_path / "none")
    for host in ("127.0.0.1", "::1", "localhost"):
        check_address(ServeOptions(host=host), empty)
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.com"):
        with pytest.raises(RequestError, match="serve keys add"):
            check_address(ServeOptions(host=host), empty)
        check_address(ServeOptions(host=host, no_auth=True), empty)
    add_key(tmp_path / "keys", "me")
    check_address(ServeOptions(host="0.0.0.0"), Keys(tmp_path / "keys"))


def test_the_command_makes_lists_and_removes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "keys")
    assert main(["serve", "keys", "add", "me", "--keys", file]) == 0
    assert capsys.readouterr().out.startswith("ffrt_")
    assert main(["serve", "keys", "list", "--keys", file]) == 0
    assert capsys.readouterr().out == "me\n"
    assert main(["serve", "keys", "remove", "me", "--keys", file]) == 0
    assert main(["serve", "keys", "remove", "me", "--keys", file]) == 2
    assert main(["serve", "--host", "0.0.0.0", "--data", str(tmp_path / "data")]) == 2
    assert "--host: expected 127.0.0.1" in capsys.readouterr().err


def test_metrics_are_for_this_machine_or_a_key(keyed: tuple[Running, str, str]) -> None:
    server, one, _ = keyed
    with server.client() as client:
        client.get("/health")
        text = client.get("/metrics").text
        through_a_proxy: dict[str, Any] = {"x-forwarded-for": "1.2.3.4"}
        assert client.get("/metrics", headers=through_a_proxy).status_code == 401
        assert client.get("/metrics", headers={**through_a_proxy, **bearer(one)}).status_code == 200
        client.get("/v1/videos/video_" + "0" * 32, headers=bearer(one))
        assert "video_0" not in client.get("/metrics").text
    for name in (
        "ffrt_jobs_queued",
        "ffrt_place_up",
        "ffrt_http_requests_total",
        "ffrt_disk_free_bytes",
        "ffrt_build_info",
    ):
        assert f"\n{name}" in text


@pytest.mark.parametrize(
    "flags",
    [["--queue", "0"], ["--rate", "-1"], ["--keep", "nan"], ["--drain", "x"], ["--port", "x"], ["--port", "65536"]],
)
def test_flags_out_of_range_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", *flags])
    assert ended.value.code == 2 and flags[0] in capsys.readouterr().err


def test_methods_that_a_client_makes_up_are_counted_as_one(keyed: tuple[Running, str, str]) -> None:
    server, _, _ = keyed
    with server.client() as client:
        for number in range(20):
            assert client.request(f"MADEUP{number}", "/health").status_code == 405
        text = client.get("/metrics").text
    assert "MADEUP" not in text and 'method="other"' in text
