"""What the system refuses while an output is written, as an error that says what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from ffrt.errors import OutputError
from ffrt.files import limit_of, shown


def why_not_written(error: OSError, folder: Path) -> str | None:
    """Why nothing could be written in `folder`, with what to do; None for a fault that has no cure of its own."""
    place = repr(shown(folder))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of {place} is full; free some space or choose another folder"
    if error.errno == errno.EFBIG:
        return f"files in {place} may be no larger; raise the limit with ulimit -f, or choose another disk"
    if error.errno == errno.EROFS:
        return f"the disk of {place} is read-only; choose another folder"
    return limit_of(error)


@contextlib.contextmanager
def output_faults(target: Path, name: str) -> Iterator[None]:
    """Faults of the system in the block become an OutputError, which calls the target `name`; others pass."""
    try:
        yield
    except OSError as error:
        reason = why_not_written(error, target.parent)
        if reason is None:
            raise
        raise OutputError(f"{name}: {shown(target)!r} was not written: {reason}") from error
