"""Arrays in an .npz file as `np.savez` writes it, read as hostile input: sizes first, and nothing executed."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Collection
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 4 << 30
MAX_DIRECTORY_BYTES = 1 << 16
_END_BYTES = 22  # PKWARE APPNOTE 4.3.16, without a comment


def array_names(file: BinaryIO) -> list[str]:
    """The names of the arrays in a file. Raises as `read_arrays`."""
    _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(file: BinaryIO, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Those of the arrays `names` that a file holds. Takes at most twice the memory that the file is long.

    Raises ValueError, BadZipFile or what NumPy raises for anything that `np.savez` would not have written.
    """
    left = _check_directory(file)
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(file) as archive:
        for record in archive.infolist():
            name = record.filename.removesuffix(".npy")
            if name not in names or name in arrays:
                raise ValueError(f"{record.filename[:80]!r} is not expected, or there twice")
            if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
                raise ValueError(f"{record.filename} is compressed")
            left -= record.file_size
            if left < 0:
                raise ValueError("arrays that overlap")
            arrays[name] = _read(archive, record)
    return arrays


def _check_directory(file: BinaryIO) -> int:
    """Refuse a file, or a table of contents, that is too large to be read; returns the bytes of the file."""
    size = file.seek(0, os.SEEK_END)
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes, expected at most {MAX_BYTES}")
    file.seek(max(0, size - _END_BYTES - 20))
    tail = file.read()
    end, before = tail[-_END_BYTES:], tail[:-_END_BYTES]
    plain = end.startswith(b"PK\x05\x06") and end.endswith(b"\0\0") and not before.startswith(b"PK\x06\x07")
    if not plain or int.from_bytes(end[12:16], "little") > MAX_DIRECTORY_BYTES:
        raise ValueError("cut short, or no .npz as numpy writes it")
    return size


def _read(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> NDArray[Any]:
    """One .npy member, never of objects; what its header claims is held to its length before memory is taken."""
    with archive.open(record) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = read(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or size != record.file_size - file.tell():
            raise ValueError(f"{record.filename} claims {dtype} {list(shape)}")
        flat = np.frombuffer(file.read(), dtype)  # at its end the checksum is compared
    return flat.reshape(shape, order="F" if columns_first else "C").copy()
