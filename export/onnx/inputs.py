"""Random inputs for any graph of the contract: what it is traced with, and what it is compared with PyTorch on."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from export.models.limits import Limits
from ffrt.families import Signature, TensorSpec


def sizes_of(limits: Limits, number: int) -> dict[str, int]:
    """The size of every axis in round `number`; each round has others, and the first has no axis of size one."""
    h, w = 2 * limits.cell * (1 + number), 2 * limits.cell * (2 + number % 2)
    rows, frames, groups = 2 if number == 0 else 1 + number % 2, 3 + 2 * number, 2 + 3 * number
    pixels = {"H": h * limits.downscale, "W": w * limits.downscale}
    return {
        "B": rows,
        "N": rows,
        "T": frames,
        "G": groups,
        "F": groups,
        "L": 6 + 5 * number,
        "D": limits.context_dim,
        "h": h,
        "w": w,
        **pixels,
    }


def draw_inputs(signature: Signature, limits: Limits, number: int) -> tuple[Tensor, ...]:
    """Inputs of a graph in the order of its contract, the same for the same `number`."""
    generator = torch.Generator().manual_seed(number)
    sizes = sizes_of(limits, number)
    shapes = ([axis_size(axis, sizes) for axis in spec.shape] for spec in signature[0])
    return tuple(draw(spec, shape, limits, sizes, generator) for spec, shape in zip(signature[0], shapes, strict=True))


def axis_size(axis: int | str, sizes: Mapping[str, int]) -> int:
    """The size of one axis: a number, a letter, or a product of letters."""
    return axis if isinstance(axis, int) else math.prod(sizes[letter] for letter in axis.split("*"))


def draw(
    spec: TensorSpec, shape: list[int], limits: Limits, sizes: Mapping[str, int], generator: torch.Generator
) -> Tensor:
    """One input: numbers of the kind that its name promises."""

    def whole(low: int, high: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    match spec.name:
        case "input_ids":
            drawn = whole(0, limits.vocab_size)
        case "attention_mask" | "context_mask":  # real tokens first, at least one
            kept = torch.randint(1, shape[1] + 1, shape[:1], generator=generator)
            mask = torch.arange(shape[1])[None, :] < kept[:, None]
            drawn = mask if spec.dtype == "bool" else mask.long()
        case "time":
            drawn = torch.randint(0, 1000, (1,), generator=generator).float().expand(shape)
        case "temporal_positions":
            drawn = torch.arange(shape[0]) * (limits.position_range // shape[0])
        case "skip_frames":
            drawn = torch.randint(1, 13, (1,), generator=generator).expand(shape)
        case "perturbation":
            drawn = torch.zeros(shape)
        case "temporal_mask":  # the conditional row first, as guidance has it
            drawn = torch.tensor([1.0, 0.0])[: shape[0]] if shape[0] <= 2 else torch.ones(shape)
        case "noise_augmentation":
            drawn = whole(0, 250)
        case "motion_score":
            drawn = whole(0, 101)
        case "image" | "latent":
            drawn = torch.rand(shape, generator=generator) * 2 - 1
        case _:
            drawn = torch.randn(shape, generator=generator)
    return drawn


def multiples_of(signature: Signature, limits: Limits) -> dict[str, int]:
    """The multiples of a graph's axes, as `export.onnx.trace.Traced` takes them: of a U-Net's latent, or of pixels."""
    names = {spec.name for spec in signature[0]}
    if "time" in names:
        return dict.fromkeys(("h", "w"), limits.cell)
    return dict.fromkeys(("H", "W"), limits.downscale) if "image" in names else {}
