"""Folders in which outputs are made, beside the place that they go to.

A hidden folder `.ffrt-HOST-RANDOM.part` holds a file that its process has locked. A process that was killed holds
no lock, so the next run of any output there takes the folder away. A folder of another host is left alone, since locks
may not reach that far, and so is everything else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from ffrt.errors import OutputError

OWNER = ".ffrt-owner"
ASIDE = ".ffrt-aside"
"""In it lies what an output replaces, for the moment between two renames, under its own name."""
SPARE = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC
"""How a folder is opened to keep a descriptor for the removal, in a process that may open no more files."""
logger = logging.getLogger("ffrt")


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent` for the block; removed afterwards, as far as that can be done.

    Folders that killed runs have left in `parent` are removed first. Raises OSError if `parent` cannot be written to.
    """
    sweep(parent)
    spare = os.open(parent, SPARE)
    try:
        folder, lock = _made(parent)
    except BaseException:
        os.close(spare)
        raise
    try:
        yield folder
    finally:
        os.close(spare)
        _remove(folder)
        os.close(lock)


@contextlib.contextmanager
def kept_folder(folder: Path) -> Iterator[Path]:
    """As `work_folder`, by name, and what a block that failed has left is there for the next one.

    Raises OutputError if another process is at work in it, or if it is something else.
    """
    there = os.path.lexists(folder)
    if there and (folder.is_symlink() or not folder.is_dir()):
        raise OutputError(f"{folder}: expected a folder of an earlier try, got something else; move it away")
    if there and any(folder.iterdir()) and not (folder / OWNER).is_file():
        raise OutputError(f"{folder}: expected a folder of an earlier try, got another one; move it away")
    sweep(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = _locked(folder)
    if lock is None:
        raise OutputError(f"{folder}: another process is at work in it; wait for it, or end it")
    try:
        put_back(folder)
        yield folder
        _retire(folder)
    finally:
        os.close(lock)


def sweep(parent: Path) -> None:
    """Remove from `parent` what killed runs of this host and user have left; nothing else, and without errors."""
    found: list[Path] = []
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        found = [Path(entry.path) for entry in entries if _pattern().fullmatch(entry.name)]
    for folder in found:
        with contextlib.suppress(OSError):
            _remove_if_left(folder)


def put_back(folder: Path) -> None:
    """What a killed run had moved aside goes back to its place beside `folder`, unless a new one stands there."""
    aside = folder / ASIDE
    for old in list(aside.iterdir()) if aside.is_dir() else []:
        place = folder.parent / old.name
        if not os.path.lexists(place):
            os.rename(old, place)


def _made(parent: Path) -> tuple[Path, int]:
    """A new folder and its lock."""
    while True:
        folder = parent / _new_name()
        folder.mkdir(mode=0o700)
        try:
            lock = _locked(folder)
        except FileNotFoundError:  # another run took the folder for one that was left
            continue
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        if lock is not None:
            return folder, lock


def _locked(folder: Path) -> int | None:
    """The locked file of a folder; None if another process has it. Without a lock where the disk knows none."""
    lock = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        return lock
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(lock), os.stat(folder / OWNER)):
            return lock
    os.close(lock)
    return None


def _remove_if_left(folder: Path) -> None:
    status = folder.lstat()
    if status.st_uid != os.geteuid() or folder.is_symlink() or not folder.is_dir():
        return
    # made where it is missing: a run that has just made the folder finds it locked, and makes another one
    lock = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        put_back(folder)
        _remove(folder)
    finally:
        os.close(lock)


def _retire(folder: Path) -> None:
    """Take a kept folder away, under a name that a sweep knows: a removal that is cut short is no earlier try."""
    left = folder.with_name(_new_name())
    try:
        os.rename(folder, left)
    except OSError as error:
        logger.warning("%s could not be removed (%s); the next export to that place does it", folder, error)
    else:
        _remove(left)


def _remove(folder: Path) -> None:
    """Take a folder away. What cannot be is told: the output itself is not the worse for it."""
    try:
        if not _holds_aside(folder):
            _remove_tree(folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTEMPTY):
            return  # another run is taking it away at the same time
        logger.warning("%s could not be removed (%s); the next output there tries again", folder, error)


def _remove_tree(folder: Path) -> None:
    """As `shutil.rmtree`, with one descriptor at a time."""
    for above, folders, files in os.walk(folder, topdown=False, onerror=_raise):
        for name in files:
            os.unlink(os.path.join(above, name))
        for name in folders:
            place = os.path.join(above, name)
            (os.unlink if os.path.islink(place) else os.rmdir)(place)
    os.rmdir(folder)


def _raise(error: OSError) -> None:
    raise error


def _holds_aside(folder: Path) -> bool:
    """Whether the only copy of something is in it."""
    aside = folder / ASIDE
    return aside.is_dir() and any(not os.path.lexists(folder.parent / old.name) for old in aside.iterdir())


def _new_name() -> str:
    return f".ffrt-{_host()}-{secrets.token_hex(4)}.part"


def _host() -> str:
    """Eight digits for this machine's name."""
    return hashlib.sha256(os.uname().nodename.encode(errors="surrogateescape")).hexdigest()[:8]


def _pattern() -> re.Pattern[str]:
    return re.compile(rf"\.ffrt-{_host()}-[0-9a-f]{{8}}\.part")
