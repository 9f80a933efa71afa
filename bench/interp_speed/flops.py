"""FLOPs of the released 3.9-billion-parameter shape, counted without weights and almost without memory.

The networks stand on PyTorch's meta device; `tests/bench/test_interp_speed.py` shows that its counter and the one that
the other scales use (`bench.harness.flops`, on the ONNX graph) agree to the last operation.
"""

import functools
from typing import Any

from ffrt.stages.interpolate import MIDDLE, Method

GUIDANCE_ROWS = 2
LATENT_SIDE = {512: 64, 256: 32}
INTERVALS = 15

PUBLISHED_TFLOP = {"group": 34.1, "masked_windows": 170.6, "masked_sequence": 138.8}
"""TFLOP per step at 512 px counted on the released code, which repeats the text for every group."""


def layout(method: Method, intervals: int) -> tuple[int, int]:
    """How many rows a network sees, and how many frames or groups a row has."""
    frames = (MIDDLE + 1) * intervals + 1
    return {"group": (1, intervals), "masked": (intervals, MIDDLE + 2), "masked_sequence": (1, frames)}[method]


@functools.cache
def full_flops(method: Method, side_px: int) -> tuple[int, int]:
    """FLOPs of one guided step between 16 keyframes at the released shape, and the parameters of the network."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from export.models.configs import INTERPOLATION_SHAPES, masked_shape
    from export.onnx.demo import untexted

    group = INTERPOLATION_SHAPES["full"]
    config = group if method == "group" else masked_shape(group)
    rows, length = layout(method, INTERVALS)
    side = LATENT_SIDE[side_px]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = untexted(config)
        x = torch.empty(GUIDANCE_ROWS * rows * length, config.num_channels, side, side)
        network(x, torch.empty(GUIDANCE_ROWS * rows), torch.empty(length, dtype=torch.long), torch.empty(length))
    return counter.get_total_flops(), sum(p.numel() for p in network.parameters())


def full_table(designs: dict[Method, str]) -> list[dict[str, Any]]:
    """One row per design and resolution: TFLOP of a step and the ratio to the group design."""
    rows: list[dict[str, Any]] = []
    for side_px in LATENT_SIDE:
        counted = {method: full_flops(method, side_px) for method in designs}
        for method, name in designs.items():
            flops, parameters = counted[method]
            published = PUBLISHED_TFLOP[name] if side_px == 512 else None
            rows.append(
                {
                    "design": name,
                    "side_px": side_px,
                    "tflop": flops / 1e12,
                    "released_code_tflop": published,
                    "ratio": flops / counted["group"][0],
                    "parameters": parameters,
                }
            )
    return rows
