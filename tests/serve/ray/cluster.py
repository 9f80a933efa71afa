"""A Ray cluster of several machines on this one: each is an address of the loopback network. It asks for a token."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ffrt import Bundle
from ffrt.serve.engine.ray_actors import Asked
from ffrt.serve.engine.ray_connect import connected
from ffrt.serve.engine.ray_executor import RayExecutor, wanted
from tests.serve.processes import ServerProcess, alive, children, command, environment, until

HEAD = "127.0.0.1"
MEMORY = "--object-store-memory=100000000"
RAY = [
    sys.executable,
    "-c",
    "import ctypes; ctypes.CDLL(None).prctl(1, 15)\n"  # SIGTERM when its parent dies: killed runs leave nothing
    "from ray.scripts.scripts import main; main()",
]


class LoopbackCluster:
    """A head that makes no videos, and machines that are started and killed one by one."""

    def __init__(self, folder: Path, *, token: bool = True) -> None:
        # Ray's sockets lie in the folder, and their paths may have 107 characters
        self._folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
        self._logs = folder
        self.port = free_port()
        self.address = f"{HEAD}:{self.port}"
        home, self._temporary = folder / "home", folder / "tmp"
        home.mkdir()
        self._temporary.mkdir()
        self.environment: dict[str, str] = {
            **{name: value for name, value in environment().items() if not name.startswith("RAY_")},
            "HOME": str(home),  # Ray looks for a token there
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # Ray's own 15 makes a test slow on a busy computer
            "RAY_AUTH_MODE": "token" if token else "disabled",
            "TMPDIR": str(self._temporary),
        }
        if token:
            path = folder / "token"
            path.touch(0o600)
            path.write_text(secrets.token_hex(32))
            self.environment["RAY_AUTH_TOKEN_PATH"] = str(path)
        self._machines: dict[str, subprocess.Popen[bytes]] = {}
        flags = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        self._start(HEAD, [*flags, "--num-cpus=0", "--num-gpus=0"], {})

    def add(self, host: str, *, cpus: int = 1, gpus: int = 0, environment: Mapping[str, str] | None = None) -> None:
        """A machine joins, with its own environment."""
        flags = [f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
        self._start(host, flags, {} if environment is None else environment)

    def kill(self, host: str) -> None:
        """A machine is gone at once, with all its processes."""
        gone = self._machines.pop(host)
        everything = [gone.pid, *below(gone.pid)]
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        gone.wait()
        until(lambda: not any(alive(pid) for pid in everything))

    def places(self, host: str | None = None) -> list[int]:
        """The processes of actors of ours, on one machine or on all."""
        machines = self._machines.values() if host is None else [self._machines[host]]
        pids = [pid for machine in machines for pid in below(machine.pid)]
        return [pid for pid in pids if b"ray::" in command(pid) and b"PlaceActor" in command(pid)]

    def scratch(self) -> Path:
        """The folder in which the one place there is makes its files."""
        (found,) = [path for path in self._temporary.glob("*/scratch") if path.is_dir()]
        return found

    def serve(self, bundle: Path, data: Path, *flags: str) -> ServerProcess:
        """`ffrt serve` on the cluster."""
        ours = ("--engine", "ray", "--ray-address", self.address, "--provider", "cpu")
        return ServerProcess(bundle, data, data.with_name("server.log"), *ours, *flags, own=self.environment)

    @contextlib.contextmanager
    def executor(self, bundle: Bundle, *, count: int | None = None, digest: str = "") -> Iterator[RayExecutor]:
        """Places on the cluster, of this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("RAY_")]:
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            asked = Asked("", str(bundle.folder), digest if digest else bundle.digest, "cpu", 1, "fast")
            with connected(self.address) as connection:
                executor = RayExecutor(connection, wanted(connection, "tests", asked, count=count, cpus=1))
                try:
                    yield executor
                finally:
                    executor.close()

    def close(self) -> None:
        for host in reversed(list(self._machines)):
            self.kill(host)

    def _start(self, host: str, flags: list[str], own: Mapping[str, str]) -> None:
        """Start a machine; again if the computer was so busy that Ray gave up after 30 s."""
        for last in (False, False, True):
            text = self._tried(host, flags, own)
            if "Ray runtime started" in text:
                return
            with contextlib.suppress(KeyError):
                self.kill(host)
            assert not last and "timed out during startup" in text, text

    def _tried(self, host: str, flags: list[str], own: Mapping[str, str]) -> str:
        """What a machine says until it has started, or has ended."""
        log = self._logs / f"{host}.log"
        with open(log, "ab") as file:
            begin = file.tell()
            machine = subprocess.Popen(
                [*RAY, "start", "--block", f"--node-ip-address={host}", MEMORY, *flags],
                env={**self.environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._machines[host] = machine
        until(lambda: machine.poll() is not None or b"Ray runtime started" in log.read_bytes()[begin:])
        return log.read_bytes()[begin:].decode(errors="replace")


def below(pid: int) -> list[int]:
    """All processes that a process has started, and those that they have."""
    found = []
    for child in children(pid):
        found += [child, *below(child)]
    return found


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind((HEAD, 0))
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def cluster(folder: Path, *hosts: str, token: bool = True) -> Iterator[LoopbackCluster]:
    """A cluster for a block, with a machine of one processor at each address."""
    started = LoopbackCluster(folder, token=token)
    try:
        for host in hosts:
            started.add(host)
        yield started
    finally:
        started.close()
