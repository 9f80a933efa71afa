"""The data folder: who holds it, what files lie in it, and how one comes there whole.

```
DATA/lock             held by the server that is alive
     server           its name for others, the same in all its lives
     jobs.sqlite
     files/ID.mp4     and .webm, .gif, .webp (thumbnail), .sprite.webp
     checkpoints/ID.npz
     references/ID    a picture that a client sent
     scratch/place-0  of a worker, removed at every start
```

Every name is made of a job's id, which is checked, and of nothing else that a client sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ffrt.files import shown
from ffrt.output.whole_file import sync
from ffrt.serve.errors import ServeError

ID = re.compile(r"video_[0-9a-f]{32}")
FOLDERS = ("files", "checkpoints", "references", "scratch")
PART = ".part"
"""What a file's name ends with until it is whole."""


class Data:
    """The folder of one server, which holds its lock until `close`. Raises ServeError if another server does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in FOLDERS:
                (folder / name).mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ServeError(f"data: {shown(folder)!r} cannot be used ({error}); give another folder") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 100, 0).decode(errors="replace").strip()
            os.close(self._lock)
            who = holder if holder else "which starts"
            raise ServeError(
                f"data: {shown(folder)!r} is held by another server ({who}); end it, or give another folder"
            ) from error
        with contextlib.suppress(OSError):  # a full disk; the name is only told
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"process {os.getpid()}".encode(), 0)

    @property
    def database(self) -> Path:
        """The file of the table."""
        path = self.folder / "jobs.sqlite"
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return path

    @property
    def server(self) -> str:
        """A name of this folder's server that no other has, drawn when it is asked for first. Raises ServeError."""
        path = self.folder / "server"
        try:
            if not path.exists():
                self.publish({path: secrets.token_hex(16).encode()})
            return path.read_text("ascii")
        except (OSError, ValueError) as error:
            raise ServeError(f"data: {shown(path)!r} cannot be used ({error}); remove it") from error

    @property
    def scratch(self) -> Path:
        """Where workers make files."""
        return self.folder / "scratch"

    def close(self) -> None:
        """Let another server have the folder."""
        os.close(self._lock)

    def file(self, id: str, suffix: str) -> Path:
        """A file that a client may fetch; `suffix` is `.mp4`, `.webp` and the like."""
        return self.folder / "files" / f"{_checked(id)}{suffix}"

    def checkpoint(self, id: str) -> Path:
        """The end of a job's last finished stage."""
        return self.folder / "checkpoints" / f"{_checked(id)}.npz"

    def reference(self, id: str) -> Path:
        """The picture that a client sent for a job."""
        return self.folder / "references" / _checked(id)

    def publish(self, contents: Mapping[Path, bytes]) -> None:
        """Write files: each is in its place when it is whole and on the disk, and all are when this returns.

        Raises OSError; what was half written is gone.
        """
        for path, content in contents.items():
            part = path.with_name(path.name + PART)
            try:
                with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, path)
            except OSError:
                with contextlib.suppress(OSError):
                    part.unlink()
                raise
        for folder in {path.parent for path in contents}:
            sync(folder)

    def read(self, path: Path) -> bytes | None:
        """What a file holds; None if there is none, or it cannot be read."""
        try:
            return path.read_bytes()
        except OSError:
            return None

    def forget_work(self, id: str) -> None:
        """Remove what a job needed only until its end."""
        for path in (self.checkpoint(id), self.reference(id)):
            with contextlib.suppress(OSError):
                path.unlink()

    def forget_files(self, id: str) -> None:
        """Remove what a client could fetch."""
        for path in (self.folder / "files").glob(f"{_checked(id)}.*"):
            with contextlib.suppress(OSError):
                path.unlink()

    def forget(self, id: str) -> None:
        """Remove every file of a job."""
        self.forget_work(id)
        self.forget_files(id)

    def sweep(self, with_files: Collection[str], with_work: Collection[str]) -> list[str]:
        """Remove what a killed server left: half files, and files of jobs that do not have any; their names.

        `with_files` are the completed jobs, `with_work` those that will run.
        """
        gone = []
        for folder, kept in (("files", with_files), ("checkpoints", with_work), ("references", with_work)):
            for path in self._files(folder):
                if path.name.endswith(PART) or path.name.split(".")[0] not in kept:
                    path.unlink(missing_ok=True)
                    gone.append(path.name)
        for path in (self.folder / "scratch").glob("place-*"):
            shutil.rmtree(path, ignore_errors=True)
        return gone

    def bytes_of_files(self) -> dict[str, int]:
        """What the files of each job take, by its id."""
        taken: dict[str, int] = {}
        for path in self._files("files"):
            with contextlib.suppress(OSError):
                id = path.name.split(".")[0]
                taken[id] = taken.get(id, 0) + path.stat().st_size
        return taken

    def free(self) -> tuple[int, int]:
        """Free and all bytes of the disk. Raises OSError."""
        disk = shutil.disk_usage(self.folder)
        return disk.free, disk.total

    def _files(self, folder: str) -> Iterator[Path]:
        """Those of jobs: a folder that was named by mistake may hold others in its `files` or `checkpoints`."""
        for path in list((self.folder / folder).iterdir()):
            is_folder = path.is_dir() and not path.is_symlink()
            if ID.fullmatch(path.name.split(".")[0]) is not None and not is_folder:
                yield path


def sha256(content: bytes) -> str:
    """The digest that tells whether a file came whole."""
    return hashlib.sha256(content).hexdigest()


def _checked(id: str) -> str:
    if ID.fullmatch(id) is None:
        raise ServeError(f"expected the id of a video, got {id!r:.80}")
    return id
