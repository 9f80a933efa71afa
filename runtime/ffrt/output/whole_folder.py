"""A folder that is the old one or the whole new one, whatever happens while it is written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ffrt.errors import OutputError
from ffrt.files import shown
from ffrt.output.exchange import exchange
from ffrt.output.faults import output_faults
from ffrt.output.interrupts import held_interrupts
from ffrt.output.place import WhyNot, why_not_folder
from ffrt.output.whole_file import keep_rights, sync, sync_names
from ffrt.output.work import ASIDE, work_folder


@contextlib.contextmanager
def whole_folder(out: Path, why_not: WhyNot, name: str = "out") -> Iterator[Path]:
    """An empty folder that becomes `out` when the block succeeds, and is removed when it fails.

    It has the name of `out` in a hidden folder beside it. What it may replace, and how `why_not` is asked, is said at
    `why_not_folder`; folders above `out` are made. Raises OutputError, which calls the folder `name`, before the block
    if it cannot be replaced, and in it for a full disk and the like; OSError where the disk fails.
    """
    with output_faults(out, name):
        check_folder(out, why_not, name)
        out.parent.mkdir(parents=True, exist_ok=True)
    out = Path(os.path.realpath(out.parent), out.name)
    with output_faults(out, name), work_folder(out.parent) as work:
        new = work / out.name
        new.mkdir()
        yield new
        with held_interrupts():
            publish_folder(new, out, work / ASIDE, why_not, name)


def check_folder(out: Path, why_not: WhyNot, name: str = "out") -> None:
    """Raise OutputError if `out` cannot become a new folder; see `why_not_folder`."""
    reason = why_not_folder(out, why_not)
    if reason is not None:
        raise OutputError(f"{name}: {shown(out)!r} {reason}")


def publish_folder(new: Path, out: Path, aside: Path, why_not: WhyNot, name: str = "out") -> None:
    """`new`, once it is on the disk, becomes `out`; what it replaces lies at `new` or in `aside` afterwards.

    Old and new are swapped in one step where the disk can do that. Where it cannot, the old one is moved aside and the
    new one in; a run that is killed in between leaves the old one to `work.put_back`.
    """
    check_folder(out, why_not, name)
    for file in new.iterdir():
        sync(file)
    sync(new)
    if not out.exists():
        os.rename(new, out)
        sync_names(out.parent)
        return
    _keep_all_rights(out, new)
    if not exchange(new, out):
        aside.mkdir()
        try:
            os.rename(out, aside / out.name)
            os.rename(new, out)
        except BaseException:
            if not os.path.lexists(out):
                os.rename(aside / out.name, out)
            raise
    sync_names(out.parent)


def _keep_all_rights(old: Path, new: Path) -> None:
    keep_rights(old, new)
    for file in new.iterdir():
        before = old / file.name
        if before.is_file() and not before.is_symlink():
            keep_rights(before, file)
