"""A PyTorch module of full size whose weights stay on disk: each layer's become float32 just for its own forward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.checkpoints.file import bring_in, give_back, listed, open_checkpoint
from export.checkpoints.stream import chunks
from export.errors import CheckpointError

SMALL = 1 << 20
"""Bytes of a float32 tensor that is kept in memory: a merge factor, a null embedding, the scale of a norm. These are
also what a module reads outside of its owner's forward."""


def on_disk(module: nn.Module, weights: Path, small: int = SMALL) -> nn.Module:
    """Let a module on the meta device run on the CPU in float32 with the weights of `weights` (safetensors).

    Tensors over `small` bytes exist only while the forward of the module that owns them runs: a larger one must not
    be used from outside. Numbers are bit by bit those of the ordinary module after `requires_grad_(False)` (a product
    goes another way in PyTorch where a weight wants a gradient). Returns the module in evaluation mode; raises
    CheckpointError where file and module differ.
    """
    stored = open_checkpoint(weights)
    state = module.state_dict()
    missing, left = [key for key in state if key not in stored], [key for key in stored if key not in state]
    if missing or left:
        raise CheckpointError(f"{weights.name}: missing {listed(missing)}; left over {listed(left)}; export it again")
    for prefix, owner in module.named_modules():
        large: dict[str, str] = {}
        for name, tensor in [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]:
            key = f"{prefix}.{name}" if prefix else name
            if key not in state:
                if tensor.is_meta:
                    raise CheckpointError(f"{key}: a buffer that is not in the state dict cannot be on the meta device")
                continue
            if stored[key].shape != tensor.shape:
                raise CheckpointError(
                    f"{weights.name}: {key}: expected shape {list(tensor.shape)}, got {list(stored[key].shape)}"
                )
            if tensor.numel() * torch.float32.itemsize <= small:
                place(owner, name, in_memory(stored[key]))
            else:
                large[name] = key
        if large:
            stream_in_forward(owner, stored, large)
    return module.eval()


def stream_in_forward(owner: nn.Module, stored: Mapping[str, Tensor], large: Mapping[str, str]) -> None:
    """Before each forward bring the tensors `large` (name -> key) of this module in, and drop them after it."""
    absent = {name: getattr(owner, name) for name in large}

    def bring(_owner: nn.Module, _inputs: Any) -> None:
        for name, key in large.items():
            place(owner, name, in_memory(stored[key]))

    def drop(_owner: nn.Module, _inputs: Any, _outputs: Any) -> None:
        for name, tensor in absent.items():
            setattr(owner, name, tensor)

    owner.register_forward_pre_hook(bring)
    owner.register_forward_hook(drop, always_call=True)


def place(owner: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor where a parameter or a buffer of this name is."""
    was_parameter = isinstance(getattr(owner, name), nn.Parameter)
    setattr(owner, name, nn.Parameter(value, requires_grad=False) if was_parameter else value)


def in_memory(mapped: Tensor) -> Tensor:
    """A copy in ordinary memory, float32 where it is floating point; the pages of the file are given back."""
    copy = torch.empty(mapped.shape, dtype=torch.float32 if mapped.is_floating_point() else mapped.dtype)
    for target, chunk in zip(chunks(copy), chunks(mapped), strict=True):
        bring_in(chunk)
        target.copy_(chunk)
        give_back(chunk)
    return copy
