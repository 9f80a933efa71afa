"""Trained weights: float16 safetensors, one file a network. A bundle carries them as they are."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from export.checkpoints.file import open_checkpoint
from export.checkpoints.names import text_key
from export.checkpoints.safetensors import places_in
from export.errors import CheckpointError
from ffrt.output.whole_file import whole_file

WEIGHTS = Path("runs/weights")


def save_half(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict as float16, whole or not at all. Raises CheckpointError on a value float16 cannot hold."""
    half = {}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.half()).all()):
            raise CheckpointError(f"{name} does not fit float16; largest value {float(tensor.abs().max()):.3g}")
        half[name] = (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
    with whole_file(path) as part:
        save_file(half, part)
        part.chmod(0o644)  # the library makes it the owner's alone, and the bundle is for everybody


def load_half(module: nn.Module, path: Path) -> nn.Module:
    """Fill a module, strictly, with the float32 values of a float16 file; returns it in evaluation mode.

    Raises CheckpointError with the command that trains the file where it is missing, and where keys or shapes differ.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; train it: python -m export.training {path.stem}")
    stored = open_checkpoint(path)
    state = {text_key(name): value.float() if value.is_floating_point() else value for name, value in stored.items()}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}; is this the file of this model?") from error
    return module.eval()


def copy_half(module: nn.Module, path: Path, out: Path) -> None:
    """The file of a module that `load_half` filled: byte for byte, or with today's names where it has older ones."""
    if places_in(path).keys() == module.state_dict().keys():
        shutil.copyfile(path, out)
    else:
        save_half(module.state_dict(), out)
