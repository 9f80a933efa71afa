"""Published weights of judges into our modules: no code of a file is ever run, and no tensor is left over.

A TorchScript file is a program, and PyTorch's interpreter is no sandbox: its operators map and write files. So only the
tensors are read, by the machine that reads state dicts too, and our own module computes with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.checkpoints.archive import open_archive
from export.checkpoints.pickled import Machine, Name
from export.errors import CheckpointError

SCRIPT = "__torch__."
COUNTERS = "num_batches_tracked"
LISTS = {f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor")}


class _Script(Machine):
    """Reads the objects of a TorchScript file as dictionaries of their attributes."""

    def do(self, name: str, argument: Any) -> None:
        """One operation; an object is made without asking its class."""
        if name == "NEWOBJ":
            self.stack.append(self.call())
        else:
            super().do(name, argument)

    def call(self) -> Any:
        """An empty dictionary for an object of the script, a list for one of its lists; else as in a state dict."""
        arguments, function = self.stack[-1], self.stack[-2]
        if isinstance(function, Name) and arguments == () and function.name.startswith(SCRIPT):
            del self.stack[-2:]
            return {}
        if isinstance(function, Name) and function.name in LISTS and isinstance(arguments, tuple):
            del self.stack[-2:]
            return arguments[0]
        return super().call()

    def state(self) -> None:
        """The attributes of the object that is topmost."""
        state = self.pop()
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict):
            raise TypeError("attributes of what is no object")
        self.stack[-1].update(state)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a TorchScript file or of a state dict, by name, in their order in the file.

    Raises CheckpointError where it is neither, is damaged, or wants anything else of its reader.
    """
    archive, pickle = open_archive(path)
    tree = _Script(archive).run(pickle)
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: expected a module or a state dict, got a {type(tree).__name__}")
    for inner in ("state_dict", "model"):
        if isinstance(tree.get(inner), dict) and not any(isinstance(value, Tensor) for value in tree.values()):
            tree = tree[inner]
    found: dict[str, Tensor] = {}
    ahead, seen = [("", tree)], {id(tree)}
    while ahead:
        prefix, inner = ahead.pop()
        modules = []
        for key, value in inner.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{key}"] = value
            elif isinstance(value, dict) and id(value) not in seen:  # a module may hold itself
                seen.add(id(value))
                modules.append((f"{prefix}{key}.", value))
        ahead += modules[::-1]
    return found


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, optional: Set[str] = frozenset()) -> nn.Module:
    """The module with the file's tensors: by name where the names are ours, else by order among equals.

    Ports of a network name its layers differently, but list them in the same order. Equals have one shape, and vectors
    the same last name besides. Raises CheckpointError unless every tensor finds its place; `optional` ones may lack.
    """
    wanted = {name: value for name, value in module.state_dict().items() if not name.endswith(COUNTERS)}
    given = {name: value for name, value in tensors.items() if not name.endswith(COUNTERS)}
    if not wanted.keys() - optional <= given.keys() <= wanted.keys():
        given = _by_order(wanted, given, path, optional)
    for name, value in given.items():
        if value.numel() != wanted[name].numel() or _kind(name, value) != _kind(name, wanted[name]):
            raise CheckpointError(f"{path}: {name}: expected {list(wanted[name].shape)}, got {list(value.shape)}")
    filled = {name: value.float().reshape(wanted[name].shape) for name, value in given.items()}
    module.load_state_dict({**module.state_dict(), **filled})
    return module.eval()


def _by_order(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path, optional: Set[str]
) -> dict[str, Tensor]:
    ours, theirs = _kinds(wanted), _kinds(given)
    found: dict[str, Tensor] = {}
    for kind in {**ours, **theirs}:
        names, others = ours.get(kind, []), theirs.get(kind, [])
        if len(names) != len(others) and not (not others and set(names) <= optional):
            raise CheckpointError(
                f"{path}: expected {len(names)} tensors like {names[:1]} {list(kind[1])}, got {len(others)}, "
                f"{others[:2]}; this is another network"
            )
        found |= {name: given[other] for name, other in zip(names, others, strict=False)}
    return found


def _kinds(tensors: Mapping[str, Tensor]) -> dict[tuple[str, tuple[int, ...]], list[str]]:
    found: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name, value in tensors.items():
        found[_kind(name, value)].append(name)
    return dict(found)


def _kind(name: str, value: Tensor) -> tuple[str, tuple[int, ...]]:
    """What makes two tensors equals: the shape without leading ones, and of vectors the last part of the name."""
    shape = tuple(value.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return (name.rsplit(".", maxsplit=1)[-1] if len(shape) == 1 else "", shape)


def read_state(path: Path) -> Mapping[str, Tensor]:
    """A state dict in any of PyTorch's formats, the old ones too. Raises CheckpointError for what is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly anything
        raise CheckpointError(f"{path}: expected a state dict of PyTorch: {error}; get it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict of PyTorch, got something else")
    return state


def numbered(pairs: Sequence[tuple[Any, Any]]) -> list[tuple[Tensor, Tensor]]:
    """Kernels `[k, k, in, out]` and biases of numpy as PyTorch has them."""
    return [
        (torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()), torch.from_numpy(bias.copy())) for kernel, bias in pairs
    ]
