"""Whether an output may go where it was asked to: everything that a rename would refuse, said before the work."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ffrt.files import limit_of

WhyNot = Callable[[Path], str | None]
"""Tells why a folder that is there may not be replaced, or None if it may."""


def why_not_file(target: Path) -> str | None:
    """Why `target`, its links followed, cannot become a new file; None if it can. Nothing is written for the answer.

    Raises OSError for a name that cannot be, such as one that is too long.
    """
    folder = target.parent
    if not folder.is_dir():
        return f"cannot be made: there is no folder {str(folder)!r}; create it with mkdir -p"
    status = _status(target)
    if status is None:
        return _why_not_in(folder)
    if stat.S_ISDIR(status.st_mode):
        return "is a folder; name a file"
    if not stat.S_ISREG(status.st_mode):
        return "is there and not a plain file; choose another name"
    return _why_not_replaced(target, status) or _why_not_in(folder)


def why_not_folder(out: Path, why_not: WhyNot) -> str | None:
    """Why `out` cannot become a new folder; None if it can. Nothing is written for the answer.

    Of what is there only an empty folder is replaced, and one of plain files that may be written, to which `why_not`
    has no objection.
    """
    if _holds_us(out):
        return "is the working folder, or holds it; give a new folder"
    if out.name in ("", ".."):
        return "is no name of a folder; give one"
    status = _status(out)
    if status is None:
        return _why_not_below(out.parent)
    if stat.S_ISLNK(status.st_mode):
        return "is a link; give the folder itself"
    if not stat.S_ISDIR(status.st_mode):
        return "is a file; give a new folder"
    return _why_not_replaced(out, status) or _why_not_in(out.parent) or _why_not_files(out, why_not)


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted at `path`, a single file too."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            places = {line.split()[4] for line in file}
    except OSError:
        return os.path.ismount(path)
    real = os.fsencode(os.path.realpath(path))
    for sign in (b"\\", b" ", b"\t", b"\n"):
        real = real.replace(sign, b"\\%03o" % ord(sign))
    return real in places


def _status(path: Path) -> os.stat_result | None:
    """What is there, links not followed. Raises OSError for a name that cannot be, such as one that is too long."""
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _holds_us(out: Path) -> bool:
    try:
        here = Path(os.path.realpath(os.getcwd()))
    except OSError:
        return False
    real = Path(os.path.realpath(out))
    return real == here or real in here.parents


def _why_not_replaced(path: Path, status: os.stat_result) -> str | None:
    """Why a file or folder that is there cannot make room for another."""
    if is_mount_point(path):
        return "is a mount point; choose a place in it or beside it"
    if _on_read_only_disk(path):
        return "is on a disk that is read-only; choose another folder"
    if not status.st_mode & 0o222 or not _writable(path, status):
        return "is read-only; make it writable with chmod u+w, or choose another name"
    folder = path.parent.stat()
    mine = os.geteuid() in (0, status.st_uid, folder.st_uid)
    if folder.st_mode & stat.S_ISVTX and not mine:
        return "belongs to somebody else, in a folder where only its owner may replace it; choose another name"
    return None


def _writable(path: Path, status: os.stat_result) -> bool:
    """Asks the system, which also knows of access lists, read-only disks, and files that were made immutable."""
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return False
    if stat.S_ISREG(status.st_mode):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
        except OSError as error:
            if limit_of(error) is not None:
                raise
            return False
    return True


def _on_read_only_disk(path: Path) -> bool:
    """Whether the disk takes no writing at all, whoever asks."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:  # a file system that does not tell
        return False


def _why_not_in(folder: Path) -> str | None:
    if _on_read_only_disk(folder):
        return f"was not written: the disk of {str(folder)!r} is read-only; choose another folder"
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return f"was not written: no permission to write in {str(folder)!r}; choose another folder"
    return None


def _why_not_below(folder: Path) -> str | None:
    """As `_why_not_in`, for a folder that may have to be made first."""
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each) or each == each.parent)
    if not there.is_dir():
        return f"lies below {str(there)!r}, which is no folder"
    return _why_not_in(there)


def _why_not_files(out: Path, why_not: WhyNot) -> str | None:
    entries = sorted(out.iterdir())
    if not entries:
        return None
    reason = why_not(out)
    if reason is not None:
        return reason
    for entry in entries:
        status = entry.lstat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            return f"holds {entry.name!r}, which is no file; move it away"
        if stat.S_ISREG(status.st_mode) and (not status.st_mode & 0o222 or not _writable(entry, status)):
            return (
                f"holds {entry.name!r}, which is read-only; make it writable with chmod u+w, or choose another folder"
            )
    return None
