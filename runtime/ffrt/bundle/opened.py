"""A bundle that was checked, and how its files are opened later: never others than those that were checked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

from ffrt.bundle.files import FileState, KeptFile, changed, open_file, open_folder, read, sha256, state_at
from ffrt.bundle.manifest import MANIFEST, Manifest
from ffrt.bundle.onnx_file import Walked
from ffrt.checks import describe
from ffrt.errors import BundleError
from ffrt.files import shown


@dataclass(frozen=True, kw_only=True)
class Bundle(Manifest):
    """A manifest whose files were checked. `digest`, the sha256 of the manifest, pins every byte of the bundle.

    `states` are those that the files had when they were hashed, and `walked` is what each graph file says of its
    weights.
    """

    folder: Path
    digest: str
    states: dict[str, FileState] = field(compare=False, repr=False)
    walked: dict[str, Walked] = field(compare=False, repr=False)

    @property
    def manifest(self) -> Manifest:
        """The manifest alone."""
        return Manifest(**{f.name: getattr(self, f.name) for f in fields(Manifest)})

    def path(self, file: str) -> Path:
        """The path of `file`, which must be in the manifest. Raises BundleError if it is not."""
        if not isinstance(file, str) or file not in self.files:
            raise BundleError(
                f"{shown(self.folder)}: {describe(file)} is not a file of this bundle; it has {sorted(self.files)}"
            )
        return self.folder / file

    def read(self, file: str, most: int) -> bytes:
        """The bytes of `file`, or of the manifest, as they were checked; at most `most`.

        Raises BundleError if there are more, or if the file has changed since the bundle was opened.
        """
        path = self.folder / MANIFEST if isinstance(file, str) and file == MANIFEST else self.path(file)
        with self.opened(file) as (_, files):
            return read(path, files[file], most)[0]

    def copy(self, file: str, folder: Path) -> None:
        """Copy `file` into `folder`. Raises BundleError if it has changed, and OSError if it cannot be written."""
        self.path(file)
        with (
            self.opened(file) as (_, files),
            open(files[file], "rb", closefd=False) as source,
            open(folder / file, "wb") as target,
        ):
            shutil.copyfileobj(source, target)

    def graph_file(self, file: str) -> GraphFile:
        """`file` and its weights, for an engine. Raises BundleError if it is not in the manifest."""
        self.path(file)
        return GraphFile(self, file)

    @contextmanager
    def opened(self, *names: str) -> Iterator[tuple[Path, dict[str, int]]]:
        """The folder and descriptors of files of it, which are those that were checked, to the end of the block.

        The folder's path stays right while the folder is renamed. A file that was touched, linked or replaced by an
        equal one has not changed; for any other change, before or in the block, this raises BundleError.
        """
        with open_folder(self.folder) as (folder, reachable), ExitStack() as stack:
            files, states = {}, {}
            links = {name: state_at(name, folder, follow=False) for name in names}
            for name in names:
                files[name] = stack.enter_context(open_file(self.folder / name, folder))
                states[name] = self._checked(name, files[name])
            try:
                yield reachable, files
            finally:
                for name, state in states.items():
                    same = FileState.of(files[name]) == state == state_at(name, folder)
                    if not same or state_at(name, folder, follow=False) != links[name]:
                        raise BundleError(
                            f"{self.folder / name} has changed while it was being opened; try again when nothing "
                            "writes to the bundle"
                        )

    def _checked(self, name: str, file: int) -> FileState:
        """The state of an open file, whose content is hashed again if it is another than before."""
        state = FileState.of(file)
        if state != self.states[name]:
            want = self.digest if name == MANIFEST else self.files[name].sha256
            found, state = sha256(self.folder / name, file)
            if found != want:
                raise changed(self.folder / name, want, found)
            self.states[name] = state
        return state


class GraphFile:
    """A graph file of a bundle and the weights that it names, as an engine opens them."""

    def __init__(self, bundle: Bundle, file: str) -> None:
        self.path = bundle.folder / file
        self._bundle = bundle
        self._file = file
        self._kept: dict[str, KeptFile] = {}

    @property
    def identity(self) -> tuple[str, str]:
        """What pins every byte of it: the digest of the bundle, and the name of the file."""
        return self._bundle.digest, self._file

    @property
    def stored_bytes(self) -> int:
        """Bytes of the file and of the weights that it names."""
        names = [self._file, *self._bundle.walked[self._file].weights]
        return sum(self._bundle.files[name].bytes for name in names)

    @contextmanager
    def held(self) -> Iterator[Path]:
        """A path of the graph that an engine can open, in a block. Raises BundleError as `Bundle.opened`."""
        weights = self._bundle.walked[self._file].weights
        with self._bundle.opened(self._file, *weights) as (folder, files):
            self._kept = {name: KeptFile(self._bundle.folder / name, files[name]) for name in weights}
            yield folder / self._file

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """A run of an engine that reads the weights where they lie. Raises BundleError if they change, or have."""
        for name, file in self._kept.items():
            file.check(self._bundle.files[name].sha256)
        try:
            yield
        finally:
            for file in self._kept.values():
                if not file.untouched:
                    raise BundleError(f"{file.path} has changed while it was used; try again when nothing writes to it")
