"""Released weight files, read where they lie: mapped into memory, tensor by tensor, and no code of theirs is run.

A mapped tensor costs no memory until it is read, but then its pages count as resident until they are given back:
`give_back` does that, so that a file of 16 GB passes through a process of a few hundred megabytes.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from export.checkpoints.archive import MAX_READ_BYTES, damaged
from export.checkpoints.pickled import read_pickled
from export.errors import CheckpointError, MissingKeyError
from ffrt.files import opened

SHOWN = 8
"""Names that a message lists at most."""
PICKLED = (".pt", ".pth", ".bin")
DONTNEED, POPULATE_READ = 4, 22  # madvise(2) on Linux


class Checkpoint(Mapping[str, Tensor]):
    """Names -> tensors of one file, or of one section of a nested one. Nothing is read before it is used.

    Raises MissingKeyError for a key that is not there and CheckpointError for one that holds something else than a
    dense tensor. `stamp` says which version of the file this is: name, size and time of change.
    """

    def __init__(self, path: Path, entries: Mapping[str, Any], sections: tuple[str, ...] = ()) -> None:
        self.path = path
        self.name = " > ".join((path.name, *sections))
        about = path.stat()
        self.size = about.st_size
        self.stamp = f"{self.name} {about.st_size} {about.st_mtime_ns}"
        self._entries = entries
        self._sections = sections

    def __getitem__(self, key: str) -> Tensor:
        value = self._entry(key)
        if isinstance(value, Mapping):
            raise CheckpointError(
                f"{self.name}: {key!r}: expected a tensor, got a section of {len(value)} entries; open it with "
                f".section({key!r})"
            )
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
            got = f"{value.layout} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"{self.name}: {key!r}: expected a dense tensor, got {got}; save tensors only")
        if value.is_quantized or value.numel() * value.element_size() > self.size:
            raise CheckpointError(
                f"{self.name}: {key!r}: expected a dense tensor inside the file of {self.size} bytes, got "
                f"{value.dtype} {list(value.shape)}; get the file again"
            )
        return value.detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def section(self, *names: str) -> Checkpoint:
        """The part of a nested file below `names`: `section("unet")` of `{"unet": {...}, ...}`.

        In a flat one, as safetensors files are, it is what begins with `unet.`.
        """
        found = self
        for name in names:
            flat = {key.removeprefix(f"{name}."): key for key in found if key.startswith(f"{name}.")}
            entries = _Renamed(found._entries, flat) if flat and name not in found._entries else found._entry(name)
            if not isinstance(entries, Mapping):
                raise CheckpointError(
                    f"{found.name}: {name!r}: expected a section of named tensors, got {type(entries).__name__}"
                )
            found = Checkpoint(self.path, named(found.name, entries), (*found._sections, name))
        return found

    def _entry(self, key: str) -> Any:
        try:
            return self._entries[key]
        except KeyError:
            has = listed(list(self._entries))
            raise MissingKeyError(f"{self.name}: no {key!r}; it has {has}; is this the right file?") from None


class _Renamed(Mapping[str, Any]):
    """Entries of another mapping by new names (`names`: new -> old)."""

    def __init__(self, entries: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self._entries, self._names = entries, names

    def __getitem__(self, key: str) -> Any:
        return self._entries[self._names[key]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Safetensors(Mapping[str, Tensor]):
    """Tensors of one file, each made when asked for, as a view of the mapped file."""

    def __init__(self, path: Path) -> None:
        self._file: Any = safe_open(path, framework="pt", device="cpu")
        self._names = dict.fromkeys(self._file.keys())

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._names:
            raise KeyError(key)
        tensor: Tensor = self._file.get_tensor(key)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_checkpoint(path: Path) -> Checkpoint:
    """Map a `.pt`, `.pth`, `.bin` (PyTorch) or `.safetensors` file; a flat one is a mapping of its tensors.

    Raises CheckpointError where the file is missing, cut short, damaged, or a pickle that wants to run code (which is
    not run).
    """
    if not path.exists():
        folder = path.parent
        holds = listed(sorted(file.name for file in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise CheckpointError(f"{path}: no such file; {folder} holds {holds}; put the released file there")
    with opened("weights", path, CheckpointError) as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: only a pointer of git-lfs, without the weights; fetch them with: git lfs pull")
    if path.suffix == ".safetensors":
        if (length := int.from_bytes(start[:8], "little")) > MAX_READ_BYTES:
            raise damaged(path, f"safetensors: header too large: {length} bytes")
        try:
            return Checkpoint(path, _Safetensors(path))
        except (SafetensorError, OSError) as error:
            raise damaged(path, f"safetensors: {error}") from error
    if path.suffix not in PICKLED:
        raise CheckpointError(f"{path}: expected a file ending in {', '.join((*PICKLED, '.safetensors'))}")
    if start.startswith(b"\x80"):
        raise CheckpointError(
            f"{path}: expected PyTorch's zip format, got the one from before PyTorch 1.6, which cannot be mapped; "
            "convert it, which reads it into memory once: "
            "torch.save(torch.load(OLD, weights_only=True, map_location='cpu'), NEW)"
        )
    if not start.startswith(b"PK\x03\x04"):
        raise damaged(path, f"it starts with {start[:8]!r} and is no PyTorch file")
    return Checkpoint(path, named(path.name, read_pickled(path)))


def named(name: str, entries: Any) -> Mapping[str, Any]:
    """The entries, if they are named. Raises CheckpointError."""
    if not isinstance(entries, Mapping):
        raise CheckpointError(f"{name}: expected a dictionary of tensors, got {type(entries).__name__}")
    for key in entries:
        if not isinstance(key, str):
            raise CheckpointError(f"{name}: expected names as keys, got {key!r} ({type(key).__name__})")
    return entries


def listed(names: list[str]) -> str:
    """Names for a message: the first ones, and how many more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    shown = [name[:80] if name.isprintable() else ascii(name)[:80] for name in names[:SHOWN]]
    return f"{', '.join(shown)}{more}" if names else "nothing"


def bring_in(tensor: Tensor) -> None:
    """Read the pages of a mapped tensor now.

    Raises OSError where the file cannot be read or has become shorter: to use such a page would end the process
    (SIGBUS).
    """
    code = advise(tensor, POPULATE_READ)
    if code in (errno.EFAULT, errno.EIO):  # a kernel without this advice says EINVAL
        raise OSError(errno.EIO, "the file cannot be read, or became shorter while it was being read")


def give_back(tensor: Tensor) -> None:
    """Let the pages of a mapped tensor leave memory; they are read again when used again.

    The values must not have been changed in place. Tensors in ordinary memory are left alone.
    """
    advise(tensor, DONTNEED)


@contextmanager
def given_back(path: Path, seconds: float = 0.25) -> Iterator[None]:
    """While this lasts, pages of `path` that this process maps and has not changed leave memory every few moments.

    A session that reads each weight where it lies then needs no more memory than its largest layers.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            for begin, end in unchanged_mappings(path):
                madvise(begin, end, DONTNEED)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def unchanged_mappings(path: Path) -> list[tuple[int, int]]:
    """Where this process maps a file and has no changed page of it (proc_pid_smaps(5))."""
    if sys.platform != "linux":
        return []
    found: list[tuple[int, int]] = []
    place: tuple[int, int] | None = None
    with open("/proc/self/smaps") as maps:
        for line in maps:
            parts = line.rstrip("\n").split(maxsplit=5)
            if "-" in parts[0]:
                begin, end = (int(number, 16) for number in parts[0].split("-"))
                place = (begin, end) if parts[5:] == [str(path.resolve())] else None
            elif parts[0] == "Anonymous:" and parts[1] == "0" and place is not None:
                found.append(place)
    return found


def madvise(begin: int, end: int, advice: int) -> int:
    """Advise the system about addresses, as madvise does; returns 0 or the error number."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(advice))
    return 0 if done == 0 else ctypes.get_errno()


def advise(tensor: Tensor, advice: int) -> int:
    """Advise the system about the pages under a tensor if they are those of a file; returns 0 or the error number."""
    if tensor.numel() == 0 or sys.platform != "linux":
        return 0
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    end = begin + (reach + 1) * tensor.element_size()
    if not lies_in_file(begin, end):  # DONTNEED would set ordinary memory to zero
        return 0
    return madvise(begin // mmap.PAGESIZE * mmap.PAGESIZE, end, advice)


def lies_in_file(begin: int, end: int) -> bool:
    """Whether these addresses are one mapping of a file (proc_pid_maps(5): range, rights, offset, device, inode)."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            addresses, _, _, _, inode = line.split()[:5]
            low, high = (int(number, 16) for number in addresses.split("-"))
            if low <= begin and end <= high:
                return inode != "0"
    return False
