"""A file that is the old one or the whole new one, whatever happens while it is written."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ffrt.errors import OutputError
from ffrt.files import shown
from ffrt.output.faults import output_faults
from ffrt.output.interrupts import held_interrupts
from ffrt.output.place import why_not_file
from ffrt.output.work import work_folder

Identity = tuple[int, int]


@contextlib.contextmanager
def whole_file(target: Path, name: str = "path", *, beside: Path | None = None) -> Iterator[Path]:
    """A path to write to; the file there becomes `target` when the block succeeds, and is removed when it fails.

    It has the name of `target` in a folder of its own, in `beside` or else where `target` is. A link is followed. The
    file keeps the permissions and, where that is allowed, the owner of the one that it replaces. Raises OutputError,
    which calls the target `name`, before the block if it cannot be replaced, and in it for a full disk and the like;
    OSError where the disk fails.
    """
    target = Path(os.path.realpath(target))
    with output_faults(target, name):
        check_file(target, name)
    folder_of = target.parent if beside is None else beside
    with output_faults(target, name), work_folder(folder_of) as folder:
        part = folder / target.name
        yield part
        with held_interrupts():
            _publish(part, target, name)


def check_file(target: Path, name: str = "path") -> None:
    """Raise OutputError if `target`, its links followed, cannot become a new file."""
    reason = why_not_file(Path(os.path.realpath(target)))
    if reason is not None:
        raise OutputError(f"{name}: {shown(target)!r} {reason}")


def _publish(part: Path, target: Path, name: str) -> None:
    """Rename `part`, once it is on the disk, to `target`, which it replaces."""
    check_file(target, name)
    sync(part)
    if target.exists():
        keep_rights(target, part)
    os.replace(part, target)
    sync_names(target.parent)


def keep_rights(old: Path, new: Path) -> None:
    """Give `new` the permissions of `old`, and its owner where that is allowed."""
    status = old.stat()
    with contextlib.suppress(OSError):
        os.chown(new, status.st_uid, status.st_gid)
    os.chmod(new, stat.S_IMODE(status.st_mode) & 0o2777 if new.is_dir() else status.st_mode & 0o777)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_names(folder: Path) -> None:
    """Bring the names in a folder to the disk, as far as that can be done: what they name is in its place already."""
    with contextlib.suppress(OSError):
        sync(folder)


def identity(path: Path) -> Identity | None:
    """What tells a file or folder from the one that was there before; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
