"""API keys: made once, shown once, and kept as digests.

A line of the file is `NAME:SHA256`, or `NAME:SHA256:priority` for a key that may go before others. SHA-256 is enough:
a key is 32 random bytes and no password that could be guessed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path

from ffrt.errors import RequestError
from ffrt.files import shown
from ffrt.output.whole_file import whole_file
from ffrt.serve.errors import ServeError

PREFIX = "ffrt_"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})(:priority)?")


@dataclass(frozen=True)
class Key:
    """Who a request is from. `first` says whether its jobs may go before others."""

    name: str
    digest: str
    first: bool = False


NOBODY = Key("", "", first=True)
"""Who asks where no keys are wanted."""


class Keys:
    """The keys in a file, read at the start and by `reload`. No file is no keys. Raises ServeError for a bad file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._keys = read_keys(path)

    def __len__(self) -> int:
        return len(self._keys)

    def reload(self) -> None:
        """Read the file again; a bad one leaves the keys as they are and raises ServeError."""
        keys = read_keys(self._path)
        with self._lock:
            self._keys = keys

    def find(self, token: str) -> Key | None:
        """Whose key it is. Every key is compared, in the same time whatever comes."""
        digest = _digest(token)
        with self._lock:
            keys = self._keys
        found = None
        for key in keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def still(self, key: Key) -> Key | None:
        """A key that was found before, as the file has it now; None if it was removed or made anew."""
        with self._lock:
            keys = self._keys
        return next((one for one in keys if (one.name, one.digest) == (key.name, key.digest)), None)


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file, none if there is no file. Raises ServeError."""
    try:
        with open(path, encoding="utf-8") as file:
            if _is_open(os.fstat(file.fileno())):
                raise ServeError(f"keys: others may read {shown(path)!r}; type: chmod 600 {shown(path)}")
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeError) as error:
        raise ServeError(f"keys: {shown(path)!r} cannot be read ({error}); check its name and rights") from error
    keys = []
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line)
        if match is not None:
            keys.append(Key(match[1], match[2], match[3] is not None))
        elif line and not line.startswith("#"):
            raise ServeError(
                f"keys: {shown(path)!r}, line {number}: expected NAME:SHA256; make keys with 'serve keys add'"
            )
    return tuple(keys)


def add_key(path: Path, name: str, *, first: bool = False) -> str:
    """Make a key and keep its digest; the key itself is nowhere else. Raises RequestError for a name in use."""
    if NAME.fullmatch(name) is None:
        raise RequestError(f"name: expected 1 to 64 letters, digits, dots, dashes and underlines, got {name[:80]!r}")
    keys = read_keys(path)
    if name in [key.name for key in keys]:
        raise RequestError(f"name: expected a new one, got {name!r}, which has a key; remove that first")
    token = PREFIX + secrets.token_urlsafe(32)
    _write(path, [*keys, Key(name, _digest(token), first)])
    return token


def remove_key(path: Path, name: str) -> None:
    """Forget a key. Raises RequestError if there is none of that name."""
    keys = read_keys(path)
    if name not in [key.name for key in keys]:
        raise RequestError(f"name: expected one of {[key.name for key in keys]}, got {name[:80]!r}")
    _write(path, [key for key in keys if key.name != name])


def _write(path: Path, keys: list[Key]) -> None:
    lines = [f"{key.name}:{key.digest}{':priority' if key.first else ''}\n" for key in keys]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        whole_file(path, "keys") as part,
        open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file,
    ):
        file.writelines(lines)
    with contextlib.suppress(OSError):
        os.chmod(path, 0o600)


def _is_open(facts: os.stat_result) -> bool:
    """Whether more users than its own can read the file. One of root's may be read by a group, and no more.

    So do systemd and Kubernetes hand secrets to a service that is not root.
    """
    return bool(facts.st_mode & (0o037 if facts.st_uid == 0 else 0o077))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
