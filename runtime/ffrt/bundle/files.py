"""The files of a bundle, opened so that what is read is what was hashed.

A path says nothing about tomorrow's content. So the state of a file is kept from the moment of hashing, and compared
whenever it is opened again: a file whose state has changed is hashed anew.
"""

from __future__ import annotations

import hashlib
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ffrt.errors import BundleError
from ffrt.files import check_plain, shown, told

CHUNK_BYTES = 1 << 20
TICK_NS = 20_000_000
"""The coarsest step of the clock that stamps files: two writes within it may leave one stamp."""
OPENED_FOLDERS = Path("/proc/self/fd")
"""Where Linux shows open folders: a path through it stays in the same folder, whatever is renamed meanwhile."""


@dataclass(frozen=True)
class FileState:
    """What changes when a file is replaced or written to. Of `ctime_ns` nobody but the system is the writer."""

    device: int
    inode: int
    bytes: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: int) -> FileState:
        """The state of an open file."""
        return _state(os.fstat(file))


def state_at(name: str, folder: int, *, follow: bool = True) -> FileState | None:
    """The state of what now has this name in an open folder, or of the link itself; None for nothing."""
    try:
        return _state(os.stat(name, dir_fd=folder, follow_symlinks=follow))
    except OSError:
        return None


def _state(status: os.stat_result) -> FileState:
    return FileState(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@contextmanager
def open_folder(folder: Path) -> Iterator[tuple[int, Path]]:
    """A folder, and a path by which it can be reached while it is open. Raises BundleError if it cannot be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BundleError(
            f"{shown(folder)} cannot be opened {told(error, 'give a folder that can be read')}"
        ) from error
    try:
        reachable = OPENED_FOLDERS / str(descriptor)
        yield descriptor, reachable if reachable.is_dir() else folder
    finally:
        os.close(descriptor)


@contextmanager
def open_file(path: Path, folder: int) -> Iterator[int]:
    """The plain file `path`, whose folder is open, as a descriptor. Raises BundleError if it cannot be read.

    Links are followed: the cache of Hugging Face is made of them.
    """
    name = path.name
    try:
        check_plain("bundle", path, os.stat(name, dir_fd=folder).st_mode, BundleError)
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError as error:
        raise BundleError(f"{shown(path)} is missing ({error.strerror}); get the bundle again") from error
    except OSError as error:
        raise BundleError(
            f"{shown(path)} cannot be read {told(error, 'give this user the right to read it')}"
        ) from error
    try:
        check_plain("bundle", path, os.fstat(descriptor).st_mode, BundleError)  # another may have taken its place
        yield descriptor
    finally:
        os.close(descriptor)


def read(path: Path, file: int, most: int) -> tuple[bytes, FileState]:
    """All of an open file of at most `most` bytes, and the state that it has. Raises BundleError."""
    before = _begin(file)
    if before.bytes > most:
        raise BundleError(f"{shown(path)}: expected at most {most} bytes, got {before.bytes}; get the bundle again")
    return b"".join(_chunks(path, file, most)), _end(path, file, before)


def sha256(path: Path, file: int) -> tuple[str, FileState]:
    """The sha256 of an open file, and the state that it has. Raises BundleError."""
    before = _begin(file)
    digest = hashlib.sha256()
    for chunk in _chunks(path, file, before.bytes):
        digest.update(chunk)
    return digest.hexdigest(), _end(path, file, before)


class KeptFile:
    """A file that stays open while an engine maps it."""

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self._file = os.dup(file)
        self._state = FileState.of(file)
        weakref.finalize(self, os.close, self._file)

    @property
    def untouched(self) -> bool:
        """Whether it is as it was when it was checked last."""
        return FileState.of(self._file) == self._state

    def check(self, digest: str) -> None:
        """Raise BundleError if it holds, now that it was touched, other content than `digest` says."""
        if not self.untouched:
            found, state = sha256(self.path, self._file)
            if found != digest:
                raise changed(self.path, digest, found)
            self._state = state


def changed(path: Path, want: str, found: str) -> BundleError:
    """The error for a file whose digest is not, or no longer, that of the manifest."""
    return BundleError(
        f"{shown(path)} has changed since it was opened: sha256 {want} expected, {found} found; get the bundle again, "
        "and replace a bundle by renaming a new folder"
    )


def _begin(file: int) -> FileState:
    """The state of a file before it is read, old enough that a later write shows in it."""
    state = FileState.of(file)
    if 0 <= time.time_ns() - state.ctime_ns < TICK_NS:
        time.sleep(TICK_NS / 1e9)
    return FileState.of(file)


def _chunks(path: Path, file: int, most: int) -> Iterator[bytes]:
    """The bytes of an open file from its beginning, and no more than `most` and one."""
    at = 0
    try:
        while at <= most and (chunk := os.pread(file, min(CHUNK_BYTES, most + 1 - at), at)):
            at += len(chunk)
            yield chunk
    except OSError as error:
        raise BundleError(f"{shown(path)} cannot be read {told(error, 'get the bundle again')}") from error


def _end(path: Path, file: int, before: FileState) -> FileState:
    after = FileState.of(file)
    if after != before:
        raise BundleError(f"{shown(path)} has changed while it was read; try again when nothing writes to it")
    return after
