"""A graph as ONNX Runtime has optimised it, kept for the next process: most of what opening a small graph costs.

The name of an entry says what it is of and holds a sha256 of that and of its content, so one that was damaged, cut
short, changed or renamed is not used but made again. So is one that another user could have written.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from ffrt.errors import FfrtError
from ffrt.output.work import work_folder

MAX_STORED_BYTES = 1 << 28
"""Of a graph file and its weights, as the bundle stores them, for which an entry is kept. An entry holds weights in
float32 as kernels want them, twice as many bytes and more, and is in memory while it is made."""
MAX_BYTES = 1 << 31
"""Of all entries; the ones that were not used for longest go."""
_NAME = re.compile(r"[0-9a-f]{64}-[0-9a-f]{64}\.graph")
_PIECE_BYTES = 1 << 20
logger = logging.getLogger("ffrt")


@dataclass(frozen=True)
class KeptGraph:
    """An entry in `folder`, which need not be there, for these `facts`: the graph, the engine, the processor.

    Nothing that happens to it keeps a graph from being opened.
    """

    folder: Path
    facts: tuple[str, ...]

    def also(self, *facts: str) -> KeptGraph:
        """The entry for these facts as well."""
        return replace(self, facts=(*self.facts, *facts))

    def at(self, folder: Path) -> KeptGraph:
        """The same in another folder."""
        return replace(self, folder=folder)

    @contextlib.contextmanager
    def checked(self) -> Iterator[Path | None]:
        """A path of the optimised graph in a block, whatever happens to its name; None if there is none to trust."""
        with contextlib.ExitStack() as stack:
            place: Path | None = None
            try:
                found = self._found()
                if found is not None:
                    file = stack.enter_context(open(found, "rb"))
                    if _is_own(os.fstat(file.fileno())) and self._named(file) == found.name:
                        place = Path(f"/proc/self/fd/{file.fileno()}")
                        place = place if place.exists() else found
                        os.utime(found)
                    else:
                        self.remove("it is damaged, or another user could have written it")
            except OSError as error:
                self.remove(str(error))
            yield place

    def remove(self, why: str) -> None:
        """Give the entry up."""
        logger.info("%s: an optimised graph is not used: %s", self.folder, why)
        with contextlib.suppress(OSError):
            found = self._found()
            if found is not None:
                found.unlink(missing_ok=True)

    def make(self, write: Callable[[Path], object]) -> None:
        """Make the entry of what `write` writes to a path; if that fails there is none. Raises FfrtError of `write`."""
        try:
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
            with work_folder(self.folder) as folder:
                place = folder / "graph.onnx"
                write(place)
                self._keep(place)
        except FfrtError:
            raise
        except Exception as error:  # of the disk, or of the graph, which its own opening will tell
            logger.info("%s: no optimised graph is kept (%s)", self.folder, error)

    def _keep(self, place: Path) -> None:
        place.chmod(0o600)
        make_room(self.folder, place.stat().st_size)
        with open(place, "rb") as file:
            os.replace(place, self.folder / self._named(file))

    def _named(self, file: BinaryIO) -> str:
        """The name of an entry with the content of a file."""
        digest = hashlib.sha256(self._subject.encode())
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        return f"{self._subject}-{digest.hexdigest()}.graph"

    def _found(self) -> Path | None:
        """The entry, perhaps damaged; None if there is none. Raises OSError."""
        if not self.folder.is_dir():
            return None
        names = sorted(path.name for path in self.folder.iterdir() if _NAME.fullmatch(path.name) is not None)
        return next((self.folder / name for name in names if name.startswith(self._subject)), None)

    @property
    def _subject(self) -> str:
        return hashlib.sha256(repr(self.facts).encode()).hexdigest()


def make_room(folder: Path, wanted: int) -> None:
    """Remove entries of a folder, those that were not used for longest first, until so many bytes have room.

    Files that are no entries stay. Raises OSError.
    """
    found = [(path, path.stat()) for path in folder.iterdir() if _NAME.fullmatch(path.name) is not None]
    total = wanted + sum(status.st_size for _, status in found)
    for path, status in sorted(found, key=lambda one: one[1].st_mtime):
        if total <= MAX_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= status.st_size


def _is_own(status: os.stat_result) -> bool:
    """Whether a file is the user's own and nobody else may write to it."""
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not others and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid())
