"""The zip around a PyTorch file: its members, whose sizes are checked before memory is taken, and their bytes."""

from __future__ import annotations

import io
import mmap
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from export.errors import CheckpointError
from ffrt.files import opened

MAX_READ_BYTES = 8 << 20
"""Of a zip's table of contents, with some 100 bytes for each tensor, a pickle, and the header of a safetensors file."""
MAP_NORESERVE = 0x4000  # mmap(2) on Linux: a private mapping may be larger than memory


@dataclass(frozen=True)
class Archive:
    """A mapped zip: where each member begins and its length, by its name below the folder that PyTorch makes."""

    path: Path
    mapped: mmap.mmap
    members: dict[str, tuple[int, int]]

    def numbers(self, name: str, dtype: torch.dtype, count: int) -> Tensor:
        """The first `count` numbers of a member, as one row in the mapped file."""
        if name not in self.members:
            raise damaged(self.path, f"it has no {name[:80]}")
        begin, length = self.members[name]
        if count * dtype.itemsize > length:
            raise damaged(self.path, f"{name[:80]} has {length} bytes, too few for {count} numbers of {dtype}")
        if count == 0:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(self.mapped, dtype=dtype, count=count, offset=begin)


def open_archive(path: Path) -> tuple[Archive, bytes]:
    """A PyTorch file, mapped, and its pickle, whose checksum is compared.

    Raises CheckpointError where the zip is damaged, compressed or not of PyTorch, and where it claims more than the
    file has or more than a file of weights needs.
    """
    with opened("weights", path, CheckpointError) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with _Limited(file.fileno(), closefd=False) as limited, zipfile.ZipFile(limited) as archive:
                records = _records(archive, path)
                pickle = archive.read(records["data.pkl"])
                order = archive.read(records["byteorder"]) if "byteorder" in records else b"little"
            members = {name: _place(file, record, size) for name, record in records.items()}
            flags, rights = mmap.MAP_PRIVATE | MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            mapped = mmap.mmap(file.fileno(), size, flags, rights)
        except CheckpointError:
            raise
        except Exception as error:  # a damaged directory raises nearly anything
            raise damaged(path, f"zip: {str(error)[:200]}") from error
    if order != b"little":
        raise CheckpointError(f"{path}: expected little-endian numbers, got {order[:20]!r}; save it on a usual machine")
    return Archive(path, mapped, members), pickle


def damaged(path: Path, why: str) -> CheckpointError:
    """The error for a file that is cut short or damaged."""
    return CheckpointError(
        f"{path}: cut short or damaged: {path.stat().st_size} bytes; {why}; compare size and digest with the release's "
        "and get it again"
    )


class _Limited(io.FileIO):
    """A file of which no more is read at once than is needed: zipfile reads a table of contents whole."""

    def read(self, size: int | None = -1) -> bytes:
        """As usual. Raises ValueError for more than MAX_READ_BYTES."""
        most = MAX_READ_BYTES + 1
        data = super().read(most if size is None or size < 0 else min(size, most))
        if len(data) == most:
            raise ValueError(f"it has a table of contents, or a pickle, of more than {MAX_READ_BYTES} bytes")
        return data


def _records(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members by their name below the one folder that holds them all, without the programs of TorchScript."""
    found: dict[str, zipfile.ZipInfo] = {}
    for record in archive.infolist():
        if record.filename.partition("/")[2].startswith("code/"):
            continue
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise CheckpointError(
                f"{path}: {record.filename[:80]} is compressed and cannot be mapped; save it with torch.save"
            )
        folder, _, name = record.filename.partition("/")
        if name in found or folder != archive.infolist()[0].filename.partition("/")[0]:
            raise ValueError(f"{record.filename[:80]!r} is there twice, or in a folder of its own")
        found[name] = record
    if "data.pkl" not in found:
        raise ValueError("it holds no data.pkl")
    return found


def _place(file: io.BufferedReader, record: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """Where a stored member begins and its length (PKWARE APPNOTE 4.3.7)."""
    file.seek(record.header_offset)
    header = file.read(30)
    begin = (
        record.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    )
    if header[:4] != b"PK\x03\x04" or begin + record.file_size > size:
        raise ValueError(f"{record.filename[:80]} ends behind the end of the file")
    return begin, record.file_size
