"""The way to a Ray cluster: what must be there, and what is said when it is not.

Ray itself tries again for minutes where there is no cluster or the token is wrong, and lets anybody in where no token
is asked for. So two processes knock first, one with the token that is here and one without any, and each is ended at
its first word.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ffrt.errors import PackageError, RequestError
from ffrt.serve.engine.ray_cluster import NAMESPACE, Cluster
from ffrt.serve.errors import ServeError

KNOCK_S = 60.0
REACH_S = 5.0
ADDRESS = re.compile(r"([^:/\s]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})")
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}
KNOCK = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
except Exception as error:
    print("ERROR", type(error).__name__, error, flush=True)
else:
    print("OPEN", flush=True)
"""
REFUSED = ("Unauthenticated", "InvalidAuthToken", "AuthenticationError")
ADVICE = "on every machine: export RAY_AUTH_MODE=token; the same ~/.ray/auth_token; ray start again"


@contextlib.contextmanager
def connected(address: str | None, *, insecure: bool = False) -> Iterator[Cluster]:
    """A block with a connection to the cluster at HOST:PORT, or at RAY_ADDRESS. One at a time in a process.

    Raises PackageError, RequestError, and ServeError: no cluster, no token, a wrong one, one that asks for none, or
    another version.
    """
    if find_spec("ray") is None:
        raise PackageError("--engine ray needs one more package; type: pip install 'ffrt[ray]'")
    host, port = checked_address(os.environ.get("RAY_ADDRESS") if address is None else address)
    at = f"{host}:{port}"
    _reach(host, port)
    if not insecure:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.update(ENVIRONMENT)
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_knocking(at, os.environ))
        others = None if insecure else stack.enter_context(_knocking(at, {**bare, "RAY_AUTH_MODE": "disabled"}))
        check_ours(at, ours.word())
        if others is not None:
            _check_others(at, others.word())
    ray = import_module("ray")
    import_module("pydantic.v1")  # Ray imports it when it is first used, and not from two threads at once
    ray.init(address=at, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    cluster = Cluster(ray)
    try:
        yield cluster
    finally:
        cluster.close()


def checked_address(address: str | None) -> tuple[str, int]:
    """Host and port. Raises RequestError."""
    found = None if address is None else ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 65536:
        got = "none" if address is None else repr(address)
        raise RequestError(
            f"ray_address: expected HOST:PORT of the cluster's head, got {got}; 'ray start --head --port=6379' "
            "on one machine makes one and prints it"
        )
    return found[1], int(found[2])


class _Knock:
    """A process that tries to connect, and says how that went."""

    def __init__(self, address: str, environment: Mapping[str, str], said: Path) -> None:
        self._said = said
        with open(said, "wb") as file:
            line = [sys.executable, "-c", KNOCK, address]
            self._process = subprocess.Popen(
                line, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def word(self) -> str:
        """What it said by the time that the answer was clear."""
        until_s = time.monotonic() + KNOCK_S
        while time.monotonic() < until_s:
            ended = self._process.poll() is not None
            text = self._said.read_text("utf-8", "replace")
            if ended or "OPEN" in text.splitlines() or any(word in text for word in REFUSED):
                return text
            time.sleep(0.02)
        return self._said.read_text("utf-8", "replace")

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def _knocking(address: str, environment: Mapping[str, str]) -> Iterator[_Knock]:
    with tempfile.TemporaryDirectory(prefix="ffrt-ray-") as folder:
        knock = _Knock(address, environment, Path(folder) / "said")
        try:
            yield knock
        finally:
            knock.end()


def _reach(host: str, port: int) -> None:
    try:
        socket.create_connection((host.strip("[]"), port), timeout=REACH_S).close()
    except OSError as error:
        raise ServeError(
            f"ray_address: no Ray cluster at {host}:{port} ({error}); start one there with "
            f"'ray start --head --port={port}', and join this machine to it with 'ray start --address={host}:{port}'"
        ) from error


def check_ours(address: str, text: str) -> None:
    """Raise ServeError unless the process with our token was let in."""
    if "OPEN" in text.splitlines():
        return
    if "no authentication token was found" in text:
        raise ServeError(
            "ray_address: the cluster's token is not here; copy ~/.ray/auth_token from its head to the same place "
            "(chmod 600), or name its file in RAY_AUTH_TOKEN_PATH"
        )
    if any(word in text for word in REFUSED):
        raise ServeError(
            f"ray_address: the cluster at {address} refuses the token that is here; copy ~/.ray/auth_token from its "
            "head, or export RAY_AUTH_MODE=token if it is not set to that"
        )
    if "ersion mismatch" in text or "The cluster was started with" in text:
        raise ServeError(
            f"ray_address: the cluster at {address} runs other versions ({_last(text)}); install the same "
            "Python and Ray on all machines"
        )
    raise ServeError(
        f"ray_address: no connection to the Ray cluster at {address} ({_last(text)}); this machine must be one of it: "
        f"type ray start --address={address}"
    )


def _check_others(address: str, text: str) -> None:
    """Raise ServeError unless a process without a token was refused."""
    if "OPEN" in text.splitlines():
        raise ServeError(
            f"insecure_ray: the cluster at {address} asks for no token, so whoever reaches it runs programs on it; "
            f"{ADVICE}; or type --insecure-ray if nobody else can reach it"
        )
    if not any(word in text for word in REFUSED):
        raise ServeError(
            f"insecure_ray: it is not known whether the cluster at {address} asks for a token: {_last(text)}"
        )


def _last(text: str) -> str:
    """The error of a process, in one line."""
    said = [line for line in text.splitlines() if line.strip()]
    begin = next((number for number, line in enumerate(said) if line.startswith("ERROR")), max(0, len(said) - 1))
    return " ".join(" ".join(said[begin:]).split()).removeprefix("ERROR ")[:500] if said else "it said nothing"
