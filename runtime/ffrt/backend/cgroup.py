"""The control groups that this process is in, versions 1 and 2, with those around them: what a container may use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
UNLIMITED = 1 << 60
"""A limit from here on is none: version 1 has the largest number of pages in place of a word."""


@dataclass(frozen=True)
class Group:
    """One control group: the folder of its files, `told` as the system calls it, and the version of its hierarchy."""

    folder: Path
    told: str
    version: int

    def number(self, name: str) -> int | None:
        """The whole number in a file; None where there is no such file, and for "max"."""
        value = _number(self._read(name).strip())
        return None if value is None or value >= UNLIMITED else value

    def numbers(self, name: str) -> list[int | None]:
        """The whole numbers of a file's first line, None for "max"."""
        return [_number(word) for word in self._read(name).partition("\n")[0].split()]

    def table(self, name: str) -> dict[str, int]:
        """A file with a name and a number on each line."""
        rows = (line.split() for line in self._read(name).splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}

    def _read(self, name: str) -> str:
        return read(self.folder / name)


def groups(controller: str, root: Path = ROOT) -> list[Group]:
    """The groups that may limit `controller` ("memory" or "cpu"), each before the one around it; none elsewhere.

    A container may see its own group at the top of a mount while the system names the whole way to it, or the other
    way round: both are looked up.
    """
    found = {}
    for version, path in _memberships(controller, root):
        for top, mount in _mounts(controller, version, root):
            inside = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path()
            steps = [step for step in inside.parts if step != ".."]
            for depth in range(len(steps), -1, -1):
                told = mount.joinpath(*steps[:depth])
                found[told] = Group(root / told.relative_to("/"), str(told), version)
    return list(found.values())


def read(path: Path) -> str:
    """A file of the system; empty where it is missing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _memberships(controller: str, root: Path) -> Iterator[tuple[int, str]]:
    for line in read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if not path.startswith("/"):
            continue
        if names == "":
            yield 2, path
        elif controller in names.split(","):
            yield 1, path


def _mounts(controller: str, version: int, root: Path) -> Iterator[tuple[str, Path]]:
    """Pairs (the group at the top of a mount, the mount's folder), the usual folder last."""
    for line in read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        place, kind = before.split(" "), after.split(" ")
        if len(place) < 5 or len(kind) < 3:
            continue
        of_it = kind[0] == "cgroup" and controller in kind[2].split(",") if version == 1 else kind[0] == "cgroup2"
        if of_it:
            yield _plain(place[3]), Path(_plain(place[4]))
    yield "/", Path("/sys/fs/cgroup") if version == 2 else Path("/sys/fs/cgroup", controller)


def _plain(word: str) -> str:
    r"""A word of mountinfo, where a space is \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def _number(word: str) -> int | None:
    return int(word) if word.lstrip("-").isdecimal() else None
