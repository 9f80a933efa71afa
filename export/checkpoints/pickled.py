"""PyTorch's zip files (`.pt`, `.pth`, `.bin`), read without running their pickle.

`data.pkl` inside is a program for a stack machine. A weight file needs little of it: dictionaries with names, plain
values, and calls that rebuild a dense tensor from its bytes. That much is done here, on values that nothing is ever
called on; whatever else the program asks for is refused. So it can neither run code nor build what never ends, and it
takes no more memory than its own length allows. Tensors are views of the mapped file.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from export.checkpoints.archive import Archive, damaged, open_archive
from export.errors import CheckpointError

MAX_OPERATIONS = 1 << 20
"""A tensor takes about 40."""
MAX_TENSORS = 1 << 16
MAX_AXES = 16
MAX_NAME = 200
STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}


@dataclass(frozen=True)
class Name:
    """A function or class that the pickle names. It is not looked up."""

    name: str


class _Mark:
    """Where a group of values begins on the stack."""


MARK = _Mark()


def read_pickled(path: Path) -> Any:
    """What PyTorch's own zip file holds: dictionaries, plain values and tensors, mapped.

    Raises CheckpointError where it is damaged, wants to call anything but the rebuilding of a dense tensor, or is
    larger than a file of weights can be.
    """
    archive, pickle = open_archive(path)
    return Machine(archive).run(pickle)


class Machine:
    """The stack machine of pickle, as far as a weight file needs it."""

    def __init__(self, archive: Archive) -> None:
        self.path, self.archive = archive.path, archive
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}
        self.tensors = 0

    def run(self, pickle: bytes) -> Any:
        """The value that is left at the end."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # a text with an odd escape, which is refused
                for count, (operation, argument, _) in enumerate(pickletools.genops(pickle)):
                    if count > MAX_OPERATIONS:
                        self.refuse(f"expected at most {MAX_OPERATIONS} operations of pickle")
                    self.do(operation.name, argument)
            return self.pop()
        except CheckpointError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
            raise damaged(self.path, f"data.pkl: {type(error).__name__}: {str(error)[:200]}") from error

    def do(self, name: str, argument: Any) -> None:
        """One operation."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            self.refuse(f"expected what a state dict needs, got the operation {name} of pickle")

    def refuse(self, why: str) -> NoReturn:
        """Raise CheckpointError with the reason."""
        raise CheckpointError(f"{self.path}: {why}; get the file from its release, or save a plain state dict")

    def pop(self) -> Any:
        """The topmost value."""
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a group without a value")
        return value

    def group(self) -> list[Any]:
        """The values down to the last mark."""
        values = []
        while (value := self.stack.pop()) is not MARK:
            values.append(value)
        return values[::-1]

    def put(self, place: int) -> None:
        """Remember the topmost value."""
        if self.stack[-1] is MARK:
            raise ValueError("a mark cannot be remembered")
        self.memo[place] = self.stack[-1]

    def fill(self, pairs: list[Any]) -> None:
        """Set items of the dictionary that is topmost now."""
        entries = self.stack[-1]
        if not isinstance(entries, dict):
            raise TypeError(f"items of a {type(entries).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str) and not (type(key) is int and 0 <= key < 1 << 31):  # no hash of these is dear
                self.refuse(f"expected names as keys, got a {type(key).__name__}")
            if key in entries:
                raise ValueError("a key is there twice")
            entries[key] = value

    def extend(self, values: list[Any]) -> None:
        """Append to the list that is topmost now."""
        if not isinstance(self.stack[-1], list):
            raise TypeError(f"values for a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(values)

    def call(self) -> Any:
        """What a call of the topmost name with the topmost arguments gives."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise TypeError(f"a call of a {type(function).__name__} with a {type(arguments).__name__}")
        if function.name == "collections.OrderedDict" and arguments == ():
            return {}
        if function.name == "torch._utils._rebuild_tensor_v2":
            return self.tensor(*arguments[:4])
        if function.name == "torch._utils._rebuild_parameter" and isinstance(arguments[0], Tensor):
            return arguments[0]
        if function.name.startswith("torch."):
            self.refuse(f"expected dense tensors on the CPU, got a call of {function.name}")
        self.refuse(
            f"expected tensors and nothing else, got a pickle that wants to run {function.name}; it was not run"
        )

    def name(self, name: str) -> None:
        """Put the name of a function or class on the stack."""
        if len(name) > MAX_NAME:
            raise ValueError(f"a name of {len(name)} letters")
        self.stack.append(Name(name))

    def join(self) -> None:
        """Put the name on the stack whose module and own name are topmost."""
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str) or len(module) > MAX_NAME:
            raise TypeError("a name that is no text")
        self.name(f"{module}.{name[: MAX_NAME + 1]}")

    def state(self) -> None:
        """Attributes of the dictionary that is topmost: a state dict has versions there, which are left out."""
        state = self.pop()
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict):
            self.refuse(f"expected tensors and nothing else, got attributes of a {type(self.stack[-1]).__name__}")

    def storage(self) -> Tensor:
        """The numbers that a persistent id names, as one row: `("storage", type, key, device, count)`."""
        kind, of, key, _, count = self.pop()
        if kind != "storage" or not isinstance(of, Name) or not isinstance(key, str) or not _is_size(count):
            raise TypeError("a persistent id that is no storage")
        if of.name not in STORAGES:
            self.refuse(f"expected one of {', '.join(STORAGES)} for numbers, got {of.name}")
        dtype = STORAGES[of.name]
        if key not in self.storages:
            self.storages[key] = self.archive.numbers(f"data/{key}", dtype, count)
        found = self.storages[key]
        if found.dtype != dtype or len(found) != count:
            raise ValueError(f"storage {key[:80]!r} with two types or lengths")
        return found

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
        """A view of a storage that does not leave it."""
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            self.refuse(f"expected at most {MAX_TENSORS} tensors")
        if not isinstance(storage, Tensor) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise TypeError("a tensor without a storage, or without axes")
        if len(shape) != len(strides) or len(shape) > MAX_AXES:
            raise ValueError(f"a tensor of {len(shape)} axes and {len(strides)} strides")
        if not all(map(_is_size, (offset, *shape, *strides))) or math.prod(shape) >= 1 << 62:
            raise ValueError("a tensor of impossible shape")
        reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if 0 not in shape and reach >= len(storage):
            raise ValueError(f"a tensor {list(shape)} that ends behind its storage of {len(storage)}")
        return storage.as_strided(shape, strides, 0 if 0 in shape else offset)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _tuple(count: int) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple([machine.pop() for _ in range(count)][::-1]))


_CONSTANTS: Mapping[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "MARK": MARK,
}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_OPERATIONS: Mapping[str, Callable[[Machine, Any], None]] = {
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.group())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEM": lambda machine, _: machine.fill([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.fill(machine.group()),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.group()),
    "BINPUT": lambda machine, place: machine.put(place),
    "LONG_BINPUT": lambda machine, place: machine.put(place),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "GLOBAL": lambda machine, name: machine.name(name.replace(" ", ".")),
    "STACK_GLOBAL": lambda machine, _: machine.join(),
    "REDUCE": lambda machine, _: machine.stack.append(machine.call()),
    "BUILD": lambda machine, _: machine.state(),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.storage()),
}
