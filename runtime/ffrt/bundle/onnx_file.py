"""An ONNX file, walked and judged before any engine opens it.

A graph file comes from outside, and engines trust it: external data may name any file, or an address in memory; a
function that calls another one twice, thirty deep, never opens; a provider's compiled blob is code. So its protobuf is
walked here, field by field and with bounds, and whatever a bundle has no use for is refused (`onnx_fields`). Payloads
are skipped by their length: the time is that of the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ffrt.bundle.onnx_fields import BYTES, FIXED32, FIXED64, MESSAGES, VARINT
from ffrt.errors import BundleError

MAX_GRAPH_BYTES = 64 << 20
"""Of a graph file, whose weights lie elsewhere; the demo's largest has 0.8 MB."""
MAX_NODES = 200_000
MAX_SIZE = 1 << 40
"""Of one axis of a tensor that is stored."""
MAX_OPERATOR_SET = 1000
"""ONNX is at 26 after nine years. OpenVINO tries every version below the one it is given, and never ends at 2^40."""
MAX_DEPTH = 32
"""Messages within messages; a graph in a node in a graph is four of them."""
DOMAINS = (b"", b"ai.onnx", b"ai.onnx.ml", b"com.microsoft")
"""Whose operators a graph may use; all others come with a library."""
REFUSED_OPERATORS = (b"EPContext", b"PythonOp", b"PythonOpGrad", b"ATen")
"""Operators that run what is not in the graph: a provider's compiled blob, Python, PyTorch."""
WEIGHTS_SUFFIX = ".safetensors"
EXTERNAL_KEYS = (b"location", b"offset", b"length")

_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128}
_BITS |= {16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}
"""Bits of an element, by TensorProto.DataType; strings have no size."""
_STRING = 8
_FLOATS = (1, 10, 16)
"""float32, float16 and bfloat16."""
_DATA = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_ENTRY = "StringStringEntryProto"
_AGAIN = "get the bundle again"
_VARINT_BYTES = 10
_MAX_RANK = 32
_MAX_DIGITS = 18
_WANTED = {
    _ENTRY: {"key", "value"},
    "OperatorSetIdProto": {"version"},
    "NodeProto": {"op_type", "domain"},
    "TensorProto": {"dims", "data_type", "name", "external_data", "data_location", *_DATA},
}
"""The fields whose values are looked at."""
_WIDTHS = {BYTES: -1, VARINT: 0, FIXED32: 4, FIXED64: 8}
_RULES = {
    kind: {
        tag: (
            _WIDTHS[tag & 7],
            0 if field.repeated else 1 << (tag >> 3),
            field.name if field.name in _WANTED.get(kind, ()) else "",
            field.message,
        )
        for tag, field in fields.items()
    }
    for kind, fields in MESSAGES.items()
}
"""Of each tag of a message: the bytes of its value, or 0 for a varint and -1 for a length that comes first; a bit if it
comes once; its name if it is looked at; the message that it holds."""

Span = tuple[int, int]
"""From one byte to another."""
Found = list[tuple[str, int, int]]
"""Fields of a message as they came: a name and its bytes from, to; of a varint its value and -1."""


@dataclass(frozen=True)
class Walked:
    """What a graph file says of itself: its `size` in bytes, and the files of its `weights`, each once.

    `stored` are the bytes of those weights, `unpacked` with every float as a float32. `width` is the smallest number
    of channels that a 3x3 convolution keeps, None without one: the channels of the values of full height and width.
    """

    size: int
    weights: tuple[str, ...]
    stored: int = 0
    unpacked: int = 0
    width: int | None = None


def check_graph(path: Path, data: bytes, weights: Mapping[str, int]) -> Walked:
    """Walk the graph file `path`, which holds `data`.

    `weights` are the sizes in bytes of those that it may name. Raises BundleError, which names the file and the byte,
    for a file that is no ONNX graph or holds what a bundle may not.
    """
    if len(data) > MAX_GRAPH_BYTES:
        raise BundleError(f"{path}: expected a graph of at most {MAX_GRAPH_BYTES} bytes, got {len(data)}")
    walk = _Walk(path, data, weights)
    try:
        walk.message("ModelProto", 0, len(data), 0)
    except IndexError:
        walk.refuse(len(data), "a whole file", "one that ends in the middle of a field")
    if not walk.graphs:
        walk.refuse(len(data), "a graph", "a file without one")
    return Walked(len(data), tuple(walk.named), walk.stored, walk.unpacked, min(walk.widths, default=None))


class _Walk:
    """One pass over one file."""

    def __init__(self, path: Path, data: bytes, weights: Mapping[str, int]) -> None:
        self.graphs = 0
        self.named: dict[str, None] = {}
        self.widths: set[int] = set()
        self.stored = self.unpacked = 0
        self._nodes = 0
        self._path = path
        self._data = data
        self._weights = weights
        self._checks: Mapping[str, Callable[[Found, int], None]] = {
            "OperatorSetIdProto": self._operator_set,
            "GraphProto": self._graph,
            "NodeProto": self._node,
            "TensorProto": self._tensor,
        }

    def refuse(self, at: int, expected: str, got: str) -> NoReturn:
        """Raise the error about byte `at`."""
        raise BundleError(f"{self._path}, byte {at}: expected {expected}, got {got}; {_AGAIN}")

    def message(self, kind: str, at: int, end: int, depth: int) -> Found:
        """Walk the message `kind` between two bytes; returns the fields that are wanted of it."""
        data, rules, check = self._data, _RULES[kind], self._checks.get(kind)
        if depth > MAX_DEPTH:
            self.refuse(at, f"at most {MAX_DEPTH} messages within each other", "more")
        begin, seen = at, 0
        found: Found = []
        while at < end:
            start = at
            tag = data[at]
            at += 1
            if tag > 0x7F:
                tag += (data[at] << 7) - 0x80
                at += 1
            if tag not in rules:
                self._refuse_tag(kind, tag, start)
            width, once, wanted, inner = rules[tag]
            if once & seen:
                self.refuse(start, f"field {tag >> 3} of {kind} once", "it twice")
            seen |= once
            value = width
            if width <= 0:
                value = data[at]
                at += 1
                if value > 0x7F:
                    value, at = self._varint(at - 1)
            stop = at + value if width else at
            if stop > end:
                self.refuse(start, f"{kind} that ends at byte {end}", f"field {tag >> 3} of it, up to byte {stop}")
            if inner:
                self.message(inner, at, stop, depth + 1)
            if wanted:
                found.append((wanted, at, stop) if width else (wanted, value, -1))
            at = stop
        if check is not None:
            check(found, begin)
        return found

    def _varint(self, at: int) -> tuple[int, int]:
        """The unsigned number at a byte, and the byte behind it."""
        value = 0
        for index in range(_VARINT_BYTES):
            byte = self._data[at + index]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value, at + index + 1
        self.refuse(at, f"a number of at most {_VARINT_BYTES} bytes", "a longer one")

    def _refuse_tag(self, kind: str, tag: int, at: int) -> NoReturn:
        known = sorted({field.name for field in MESSAGES[kind].values()})
        self.refuse(at, f"a field of {kind} that bundles use, of {known}", f"number {tag >> 3} of wire type {tag & 7}")

    def _operator_set(self, found: Found, at: int) -> None:
        version = found[0][1] if found else 0
        if not 1 <= version <= MAX_OPERATOR_SET:
            self.refuse(at, f"an operator set from 1 to {MAX_OPERATOR_SET}", str(version))

    def _graph(self, found: Found, at: int) -> None:
        self.graphs += 1

    def _node(self, found: Found, at: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self.refuse(at, f"at most {MAX_NODES} nodes", "more")
        for name, begin, end in found:
            text = self._data[begin:end]
            if name == "domain" and text not in DOMAINS:
                self.refuse(begin, f"an operator of {[d.decode() for d in DOMAINS]}", f"one of {text[:80]!r}")
            if name == "op_type" and text in REFUSED_OPERATORS:
                self.refuse(begin, "an operator that runs nothing from elsewhere", text.decode())

    def _tensor(self, found: Found, at: int) -> None:
        """Hold a tensor to one place for its data, with as many bytes as its dimensions say."""
        dims: list[int] = []
        entries, held = [], []
        dtype = where = stored = 0
        label = (0, 0)
        for name, begin, end in found:
            if name == "dims":
                dims += self._numbers(begin, end)
            elif name == "data_type":
                dtype = begin
            elif name == "name":
                label = (begin, end)
            elif name == "external_data":
                entries.append((begin, end))
            elif name == "data_location":
                where = begin
            else:
                held.append(name)
                stored += end - begin if name == "raw_data" else max(end - begin, 1)
        if len(dims) > _MAX_RANK or (dims and max(dims) > MAX_SIZE):
            self._refuse_tensor(at, label, f"at most {_MAX_RANK} sizes up to {MAX_SIZE}", f"{dims}"[:200])
        if dtype not in _BITS and dtype != _STRING:
            self._refuse_tensor(at, label, "a dtype that ONNX has", str(dtype))
        count = math.prod(dims)
        size = -(-count * _BITS.get(dtype, 0) // 8)
        kinds = set(held)
        if where > 1 or len(kinds) + where > 1 or (where == 0 and entries):
            got = f"{sorted(kinds)}, data_location {where} and {len(entries)} entries"
            self._refuse_tensor(at, label, "one place for its data", got)
        if where == 1:
            self._external(label, size, entries, at)
            self._weigh(dims, dtype, size)
            return
        exact = "raw_data" in kinds and dtype != _STRING
        if (stored != size) if exact else (count > 2 * stored):  # two elements of 4 bits may be one number
            self._refuse_tensor(at, label, f"the {count} elements that its sizes say", f"{stored} bytes")

    def _weigh(self, dims: list[int], dtype: int, size: int) -> None:
        """Count a tensor of `size` bytes that lies in a file of weights."""
        self.stored += size
        self.unpacked += 4 * math.prod(dims) if dtype in _FLOATS else size
        if len(dims) == 4 and dims[0] == dims[1] and dims[2:] == [3, 3]:
            self.widths.add(dims[0])

    def _external(self, label: Span, size: int, entries: list[Span], at: int) -> None:
        """Hold external data to a listed file, a place inside it and `size` bytes; keep the file's name."""
        found: dict[bytes, bytes] = {}
        for begin, end in entries:
            one = {name: self._data[start:stop] for name, start, stop in self.message(_ENTRY, begin, end, 0)}
            key = one.get("key", b"")
            if key in found or key not in EXTERNAL_KEYS:
                self._refuse_tensor(begin, label, f"each of {_words(EXTERNAL_KEYS)} once", f"{_words([key])}")
            found[key] = one.get("value", b"")
        if len(found) != len(EXTERNAL_KEYS):
            self._refuse_tensor(at, label, f"each of {_words(EXTERNAL_KEYS)}", f"{_words(found)}")
        location = found[b"location"].decode("utf-8", "replace")
        if location not in self._weights:
            self._refuse_tensor(at, label, f"its data in one of {sorted(self._weights)}", f"{location[:200]!r}")
        numbers = (found[b"offset"], found[b"length"])
        if not all(text.isdigit() and len(text) <= _MAX_DIGITS for text in numbers):
            self._refuse_tensor(at, label, "whole numbers as offset and length", f"{_words(numbers)}")
        offset, length = map(int, numbers)
        whole = self._weights[location]
        if length != size or offset + length > whole:
            wanted = f"{size} bytes inside {location}, which has {whole}"
            self._refuse_tensor(at, label, wanted, f"{length} from byte {offset} on")
        self.named[location] = None

    def _refuse_tensor(self, at: int, label: Span, expected: str, got: str) -> NoReturn:
        """Raise the error about the tensor whose name is at `label`."""
        name = self._data[slice(*label)][:80].decode("utf-8", "replace")
        raise BundleError(f"{self._path}, tensor {name!r} at byte {at}: expected {expected}, got {got}; {_AGAIN}")

    def _numbers(self, at: int, end: int) -> list[int]:
        """The numbers of one field: `at` itself, or those packed into the bytes up to `end`."""
        if end < 0:
            return [at]
        if end - at > _MAX_RANK * _VARINT_BYTES:
            self.refuse(at, f"at most {_MAX_RANK} sizes", f"{end - at} bytes of them")
        numbers = []
        while at < end:
            number, at = self._varint(at)
            numbers.append(number)
        if at != end:
            self.refuse(at, "sizes that end with their field", "one that goes on")
        return numbers


def _words(keys: Iterable[bytes]) -> list[str]:
    return [key[:80].decode("utf-8", "replace") for key in keys]
