"""A program that is killed before every line that may touch a file, and what it leaves; for `test_kills_everywhere`.

`python everywhere.py CASE FOLDER` prints how often it was killed and every state that broke the promise.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ffrt.output import whole_folder as folders
from ffrt.output.whole_file import whole_file
from ffrt.output.whole_folder import publish_folder, whole_folder
from ffrt.output.work import ASIDE, kept_folder, sweep

TOUCHING = ("/ffrt/output/", "/pathlib", "/shutil.py")
"""Files whose lines call the file system."""


TraceFunction = Callable[[FrameType, str, Any], Any]


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Run `work` in a child that ends itself before its `number`-th such line; whether it came to that."""
    child = os.fork()
    if child == 0:
        seen = itertools.count()

        def count(frame: FrameType, event: str, argument: object) -> TraceFunction | None:
            if not any(part in frame.f_code.co_filename for part in TOUCHING):
                return None
            if event == "line" and next(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return count

        sys.settrace(count)
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def holds(path: Path) -> object:
    """The content of a file, or of the files of a folder."""
    return {each.name: each.read_text() for each in path.iterdir()} if path.is_dir() else path.read_text()


def nothing_against(folder: Path) -> None:
    return None


def write_file(out: Path) -> None:
    with whole_file(out) as part:
        part.write_text("new")


def write_folder(out: Path) -> None:
    with whole_folder(out, nothing_against) as new:
        for name in "ab":
            (new / name).write_text("new")


def write_folder_in_two_renames(out: Path) -> None:
    folders.exchange = lambda one, other: False
    write_folder(out)


def write_kept(out: Path) -> None:
    """As the export of a release: what is done stays for the next try."""
    work = out.parent / f".{out.name}.writing"
    with kept_folder(work):
        (work / out.name).mkdir(exist_ok=True)
        for name in "ab":
            (work / out.name / name).write_text("new")
        publish_folder(work / out.name, out, work / ASIDE, nothing_against)


def again(out: Path) -> None:
    """The next run of any output in that folder; of an export that goes on, its own."""
    if (out.parent / f".{out.name}.writing").exists():
        write_kept(out)
    sweep(out.parent)


OLD, NEW = {"a": "old", "b": "old"}, {"a": "new", "b": "new"}
CASES: dict[str, tuple[Callable[[Path], None], object, object]] = {
    "file": (write_file, "old", "new"),
    "folder": (write_folder, OLD, NEW),
    "folder in two renames": (write_folder_in_two_renames, OLD, NEW),
    "kept folder": (write_kept, OLD, NEW),
}


def main(case: str, folder: Path) -> None:
    write, old, new = CASES[case]
    kills = 0
    for number in itertools.count():
        out = folder / str(number) / "out"
        out.parent.mkdir()
        (out.parent / ".ffrt-mine.part").mkdir()  # nearly the name of one of ours, and none of ours
        if isinstance(old, dict):
            out.mkdir()
            for name, text in old.items():
                (out / name).write_text(text)
        else:
            out.write_text(str(old))
        killed = killed_at(number, lambda out=out: write(out))
        kills += killed
        if write is not write_folder_in_two_renames and holds(out) not in (old, new):
            print(f"{number}: left {holds(out)}")
        again(out)
        if holds(out) not in (old, new):
            print(f"{number}: {holds(out)} after the next run")
        if not killed and holds(out) != new:
            print(f"{number}: not killed, and not written")
        left = {each.name for each in out.parent.iterdir()} - {"out", ".ffrt-mine.part"}
        if left:
            print(f"{number}: leftovers {left}")
        shutil.rmtree(out.parent)
        if not killed:
            break
    print(f"{kills} kills")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
