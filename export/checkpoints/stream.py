"""Checkpoint -> bundle weights, a chunk at a time: a file of 16 GB needs no more memory than one of 16 MB.

What is written is `NAME.safetensors` of the bundle format. It grows as `NAME.safetensors.part` beside, so that an
export that was killed goes on at the last whole tensor, and appears when it is whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from export.checkpoints.file import Checkpoint, bring_in, give_back, listed
from export.checkpoints.names import Rename
from export.checkpoints.safetensors import CODES, ITEM_SIZES, header_of
from export.errors import BusyError, CheckpointError, DiskFullError

CHUNK = 1 << 22
"""Numbers that are in memory at a time: 16 MB of float32 and their float16."""
SETTLE = 1 << 26
"""Bytes after which what is written is brought to the disk and leaves the page cache, which would take all free memory
otherwise; that is faster, too, than one large sync at the end."""
Report = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the expected file: our key, the key it comes from, safetensors dtype and shape."""

    key: str
    released: str
    code: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * ITEM_SIZES[self.code]


def stream_weights(
    module: nn.Module,
    source: Mapping[str, Tensor],
    rename: Rename,
    out: Path,
    dtype: Literal["float16", "float32"],
    report: Report,
    stamp: str = "",
) -> None:
    """Write the state dict of `module` (it may be on the meta device) with the values of `source` to `out`.

    Floating-point tensors become `dtype`, others stay. Tensors lie in the order of the state dict, wider numbers
    first, so that each lies aligned. `rename` gives a view and is called twice for each tensor. An earlier part is
    continued if it is of the same file and names: `stamp` says which version `source` is, where it is no
    Checkpoint, and without one every run starts anew.

    Raises CheckpointError, before anything is written, where keys are missing, left over or double or shapes differ,
    and where a value does not fit `dtype`; DiskFullError where the disk is full and BusyError where another
    process writes the same file. After a full disk, Ctrl-C or a kill the part stays.
    """
    origin = source.name if isinstance(source, Checkpoint) else f"the source of {out.stem}"
    if isinstance(source, Checkpoint) and stamp == "":
        stamp = source.stamp
    entries = planned(module, source, rename, getattr(torch, dtype), origin)
    layout = {entry.key: (entry.code, entry.shape) for entry in entries}
    version = hashlib.sha256(json.dumps([stamp, [[entry.key, entry.released] for entry in entries]]).encode())
    header = header_of(layout, {"source": version.hexdigest()})
    total = sum(entry.size for entry in entries)
    part = out.with_name(f"{out.name}.part")
    check_space(out, len(header) + total - (part.stat().st_size if part.exists() else 0))
    with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as file:
        lock(file, part)
        whole = whole_tensors(file, header, entries) if stamp else 0
        done = sum(entry.size for entry in entries[:whole])
        try:
            if whole == 0:
                file.truncate(0)
                file.seek(0)
                write_all(file, header)
            file.truncate(len(header) + done)
            file.seek(len(header) + done)
            report(done, total)
            settled = done
            for entry in entries[whole:]:
                _, tensor = rename(entry.released, source[entry.released])
                for numbers in converted(tensor, entry, f"{origin}: {entry.released!r}"):
                    write_all(file, numbers.numpy().data)
                    done += numbers.nbytes
                    if done - settled >= SETTLE:
                        settle(file)
                        settled = done
                    report(done, total)
            file.seek(0)
            write_all(file, header_of(layout, {}, len(header)))  # the same bundle from every copy of a checkpoint
            settle(file)
        except CheckpointError:
            part.unlink()
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"the disk is full after {done} of {total} bytes of {part}; make room and start the same export "
                    "again: it goes on from there",
                ) from error
            raise
        os.replace(part, out)


def planned(
    module: nn.Module, source: Mapping[str, Tensor], rename: Rename, dtype: torch.dtype, origin: str
) -> list[Entry]:
    """What is to be written, from names and shapes alone. Raises CheckpointError where source and module differ."""
    expected = module.state_dict()
    found: dict[str, Entry] = {}
    for released in source:
        ours, tensor = rename(released, source[released])
        if ours in found:
            raise CheckpointError(
                f"{origin}: {found[ours].released!r} and {released!r} both become {ours!r}; expected one of them"
            )
        kept = dtype if tensor.is_floating_point() else tensor.dtype
        if kept not in CODES:
            raise CheckpointError(f"{origin}: {released!r}: expected real numbers, got {tensor.dtype}")
        found[ours] = Entry(ours, released, CODES[kept], tuple(tensor.shape))
    missing = [key for key in expected if key not in found]
    left = [entry.released for key, entry in found.items() if key not in expected]
    if missing or left:
        raise CheckpointError(
            f"{origin} does not fit this configuration: {len(missing)} keys missing ({listed(missing)}), "
            f"{len(left)} left over ({listed(left)}); is this the file of this model, and the configuration the file's?"
        )
    for key, tensor in expected.items():
        entry = found[key]
        if entry.shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{origin}: {entry.released!r} ({key}): expected shape {list(tensor.shape)}, got {list(entry.shape)}; "
                "is the configuration that of this file?"
            )
        if tensor.is_floating_point() != entry.code.startswith("F"):
            raise CheckpointError(f"{origin}: {entry.released!r} ({key}): expected {tensor.dtype}, got {entry.code}")
    return sorted((found[key] for key in expected), key=lambda entry: -ITEM_SIZES[entry.code])


def whole_tensors(file: io.FileIO, header: bytes, entries: Sequence[Entry]) -> int:
    """How many tensors an earlier part holds in full; 0 if it is of another source or another layout."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size < len(header) or file.read(len(header)) != header:
        return 0
    end = len(header)
    for count, entry in enumerate(entries):
        end += entry.size
        if end > size:
            return count
    return len(entries)


def converted(tensor: Tensor, entry: Entry, origin: str) -> Iterator[Tensor]:
    """The numbers in the dtype of the file, a chunk at a time; pages of a mapped file are given back after use.

    Raises CheckpointError where a value is not finite, or not in this dtype.
    """
    dtype = next(dtype for dtype, code in CODES.items() if code == entry.code)
    for chunk in chunks(tensor):
        try:
            bring_in(chunk)
        except OSError as error:
            raise CheckpointError(f"{origin}: {error.strerror}; get the file again") from error
        numbers = chunk.to(dtype).reshape(-1)
        if dtype.is_floating_point and numbers.numel() and not all(map(math.isfinite, numbers.aminmax())):
            raise CheckpointError(f"{origin}: {unfit(tensor, dtype)}")
        yield numbers
        give_back(chunk)


def chunks(tensor: Tensor) -> Iterator[Tensor]:
    """Consecutive pieces of about CHUNK numbers, in row-major order."""
    if tensor.is_contiguous():
        yield from tensor.reshape(-1).split(CHUNK)
    else:
        yield from tensor.split(max(1, CHUNK // max(1, tensor[0].numel())))


def unfit(tensor: Tensor, dtype: torch.dtype) -> str:
    """Why a tensor cannot be written in this dtype."""
    largest = 0.0
    for chunk in chunks(tensor):
        if not bool(torch.isfinite(chunk).all()):
            return "holds numbers that are not finite; get the file again"
        largest = max(largest, float(chunk.abs().max()))
        give_back(chunk)
    return (
        f"{str(dtype).removeprefix('torch.')} holds at most {torch.finfo(dtype).max:.6g}, the largest value is "
        f"{largest:.6g}; export with --dtype fp32"
    )


def write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    """Write every byte: an unbuffered file may take fewer at a time."""
    left = memoryview(data)
    left = left.cast("B") if left.nbytes else left
    while left.nbytes:
        left = left[file.write(left) :]


def settle(file: io.FileIO) -> None:
    """Bring what was written to the disk and out of the page cache."""
    os.fdatasync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def lock(file: io.FileIO, part: Path) -> None:
    """Raises BusyError where another process has the part, or has just finished it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat())
    except BlockingIOError:
        mine = False
    if not mine:
        raise BusyError(f"another export is writing {part}; wait for it, or end it")


def check_space(out: Path, needed: int) -> None:
    """Raise DiskFullError where the disk has less than `needed` bytes free."""
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise DiskFullError(
            f"{out}: expected {needed} bytes of free disk, got {free}; make room or choose another --out"
        )
