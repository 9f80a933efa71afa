"""A service manager hears when the server answers and when it ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ffrt import Bundle
from ffrt.serve import notify
from tests.serve.processes import serving


@pytest.fixture(params=["a file", "a name without a file"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    address = str(tmp_path / "notify") if request.param == "a file" else f"@ffrt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0"))
        listening.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield listening


def test_a_word_and_a_status_of_one_line_arrive(manager: socket.socket) -> None:
    notify.ready("serving\n demo")
    assert manager.recv(4096) == b"READY=1\nSTATUS=serving demo"
    notify.stopping("it ends")
    assert manager.recv(4096) == b"STOPPING=1\nSTATUS=it ends"


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nowhere/notify"])
def test_nothing_happens_where_nobody_listens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready("serving")


def test_the_server_says_that_it_answers_and_that_it_ends(manager: socket.socket, tiny: Bundle, tmp_path: Path) -> None:
    with serving(tiny.folder, tmp_path / "data", "--drain", "7") as server:
        said = manager.recv(4096).decode()
        assert said == f"READY=1\nSTATUS=serving {tiny.name} at {server.url}"
        os.kill(server.pid, signal.SIGTERM)
        assert manager.recv(4096) == b"STOPPING=1\nSTATUS=it ends: running jobs have 7 s"
        assert server.process.wait(60) == 0
