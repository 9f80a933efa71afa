"""The header of a safetensors file: which tensor lies where. The tensors follow it raw, one after the other."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

CODES = {
    torch.float16: "F16",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ITEM_SIZES = {code: dtype.itemsize for dtype, code in CODES.items()}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in its file: its safetensors dtype, the first byte and the number of bytes."""

    code: str
    offset: int
    length: int


def header_of(
    tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str], length: int | None = None
) -> bytes:
    """The head of a safetensors file whose tensors (dtype, shape) follow in this order, padded to `length`."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for key, (code, shape) in tensors.items():
        end = offset + math.prod(shape) * ITEM_SIZES[code]
        table[key] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8 if length is None else length - 8 - len(text))
    return struct.pack("<Q", len(text)) + text


def places_in(path: Path) -> dict[str, Place]:
    """Where every tensor of a safetensors file lies, by name."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: Place(
            entry["dtype"], 8 + length + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }
