"""Files that a caller names: paths as Python users write them, and reading that cannot wait for ever."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffrt.checks import describe
from ffrt.errors import FfrtError, RequestError

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""What may name a file or a folder."""
LIMITS = {errno.EMFILE: "raise the limit with ulimit -n", errno.ENFILE: "end other programs"}
"""Faults that say nothing about the file that could not be opened, and what to do about them."""


def path_of(name: str, value: object, error: type[FfrtError] = RequestError) -> Path:
    """The path that a caller gave as `name`: str, bytes or os.PathLike; a leading `~` is the home folder.

    Raises `error` for anything else, and for text that is no file name.
    """
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise error(f"{name}: expected a path, got {describe(value)}")
    try:
        text = os.fsdecode(value)
        empty = not text or b"\0" in os.fsencode(text)
    except (TypeError, UnicodeError) as reason:
        raise error(f"{name}: expected a path, got {value!a:.200} ({reason})") from None
    if empty:
        raise error(f"{name}: expected a path, got {text[:80]!r}, which is no file name")
    return Path(os.path.expanduser(text))


def lasting(name: str, value: object, error: type[FfrtError] = RequestError) -> Path:
    """As `path_of`, absolute: it means the same after a change of the working directory. Links are kept."""
    path = path_of(name, value, error)
    try:
        return Path(os.path.abspath(path))
    except OSError as reason:  # the working directory is gone
        raise error(f"{name}: {shown(path)!r} lies in no folder ({reason}); give an absolute path") from reason


def typed_path(text: str) -> Path:
    """A path on a command line, for argparse: `~` is the home folder where the shell left it, as in `--out=~/x`.

    Raises argparse.ArgumentTypeError for an empty text, which would be the current folder.
    """
    if not text:
        import argparse

        raise argparse.ArgumentTypeError("expected a path, got '', perhaps of a variable that is not set")
    return Path(os.path.expanduser(text))


def check_utf8(name: str, path: Path) -> None:
    """Raise RequestError if the path is not UTF-8: what writes graphs and weights takes no other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{name}: expected a path that is UTF-8, got {os.fsencode(path)!r}; choose another folder"
        ) from None


def shown(path: AnyPath) -> str:
    """A path that can be printed: bytes that are not UTF-8 become signs of replacement."""
    return os.fsencode(path).decode(errors="replace")


@contextmanager
def opened(name: str, path: Path, error: type[FfrtError] = RequestError) -> Iterator[io.BufferedReader]:
    """A plain file, open for reading. Raises `error` where there is none: a folder, a FIFO, a device.

    A FIFO would wait for a writer that may never come; nothing but plain files is opened at all.
    """
    with _open(name, path, error) as file:
        check_plain(name, path, os.fstat(file.fileno()).st_mode, error)  # another file may have taken its place
        yield file


def _open(name: str, path: Path, error: type[FfrtError]) -> io.BufferedReader:
    try:
        check_plain(name, path, os.stat(path).st_mode, error)
        return open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK))
    except OSError as reason:
        raise error(f"{name}: {shown(path)!r} cannot be read {told(reason, 'check its name and rights')}") from reason


def told(error: OSError, advice: str) -> str:
    """What the system said, and what to do: `advice`, unless the file is not the cause."""
    return f"({error.strerror}); {LIMITS.get(0 if error.errno is None else error.errno, advice)}"


def limit_of(error: BaseException) -> str | None:
    """The limit of the system that an error comes from, whatever was being read, and what to do; else None."""
    if not isinstance(error, OSError) or error.errno not in LIMITS:
        return None
    return f"{os.strerror(error.errno)}; {LIMITS[error.errno]}"


def check_plain(name: str, path: Path, mode: int, error: type[FfrtError] = RequestError) -> None:
    """Raise `error` unless `mode` (stat) is that of a plain file."""
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        raise error(f"{name}: expected a plain file, got {kinds.get(stat.S_IFMT(mode), 'a device')}: {shown(path)!r}")
