"""A real server: `ffrt serve` in a process of its own, its worker, and how either is killed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs pip install 'ffrt[ray]'")


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


class ServerProcess:
    """`ffrt serve` over a bundle and a data folder, on a free port. Its log goes to `log`; `own` is its environment."""

    def __init__(self, bundle: Path, data: Path, log: Path, *flags: str, own: Mapping[str, str] | None = None) -> None:
        line = [sys.executable, "-m", "ffrt", "serve", "--bundle", str(bundle), "--data", str(data), "--port", "0"]
        self._log = open(log, "ab")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*line, "--threads", "1", "--disk-floor", "0", "--rate", "100000", *flags],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment() if own is None else {**own},
        )
        assert self.process.stdout is not None
        told = self.process.stdout.readline().decode()
        match = re.search(r"https?://\S+", told)
        assert match is not None, f"{told!r}, log: {log.read_text()[-3000:]}"
        self.url = match[0]

    @property
    def pid(self) -> int:
        return self.process.pid

    def workers(self) -> list[int]:
        """The processes of places: children that were spawned to make videos."""
        return [pid for pid in children(self.pid) if b"spawn_main" in command(pid)]

    def until_ready(self) -> None:
        with httpx.Client(base_url=self.url, timeout=10) as client:
            until(lambda: client.get("/health/ready").status_code == 200)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the status."""
        if self.process.poll() is None:
            os.kill(self.pid, number)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self._log.close()
            assert self.process.stdout is not None
            self.process.stdout.close()


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    own = [int(word) for word in text.split()]
    for task in Path(f"/proc/{pid}/task").iterdir() if Path(f"/proc/{pid}/task").exists() else ():
        with contextlib.suppress(OSError):
            own += [int(word) for word in (task / "children").read_text().split()]
    return sorted(set(own))


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def filled(pipe: int) -> None:
    """Write into a pipe until it takes no more."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    os.set_blocking(pipe, True)


def until(done: object, patience_s: float = PATIENCE_S) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + patience_s
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@contextlib.contextmanager
def serving(bundle: Path, data: Path, *flags: str) -> Iterator[ServerProcess]:
    """A server for a block."""
    server = ServerProcess(bundle, data, data.with_name("server.log"), *flags)
    try:
        server.until_ready()
        yield server
    finally:
        server.kill()
