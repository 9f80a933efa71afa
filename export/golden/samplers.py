"""The released sampling loops around a stand-in network, against the sampler of the runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from export.checkpoints.defaults import INTERPOLATION_1_0, INTERPOLATION_1_1, KEYFRAMES_1_0, KEYFRAMES_1_1
from export.errors import CheckpointError
from export.golden.file import Golden, Row
from export.onnx.parity import errors
from ffrt.bundle import InterpolationConfig, KeyframeConfig
from ffrt.sampling import Array, denoise, drain, guide

LIMIT = 2e-3
SAMPLING: Mapping[str, KeyframeConfig | InterpolationConfig] = {
    "v1_0_keyframes": KEYFRAMES_1_0,
    "v1_0_interpolation": INTERPOLATION_1_0,
    "v1_1_keyframes": KEYFRAMES_1_1,
    "v1_1_interpolation": INTERPOLATION_1_1,
}


def check_samplers(file: str, golden: Golden) -> Iterator[Row]:
    """Every released loop around the stand-in network. Raises CheckpointError where there is none that is known."""
    loops = {name.split("/")[0] for name in golden.others}
    if not loops or not loops <= SAMPLING.keys():
        raise CheckpointError(f"expected the sampling loops {sorted(SAMPLING)}, got {sorted(loops)}")
    for loop in sorted(loops):
        config, noise = SAMPLING[loop], golden.others[f"{loop}/noise"]
        scale = float(golden.others[f"{loop}/guidance"])
        has = f"{loop}/timesteps" in golden.others
        steps = len(golden.others[f"{loop}/timesteps"]) if has else len(noise) - 1
        y = drain(denoise(stand_in(scale), iter(noise), config, steps=steps, sampler="ddpm"))
        largest, relative = errors(golden.others[f"{loop}/y"], y)
        yield Row(file, loop, "sampler", largest, relative, "relative", LIMIT)


def stand_in(scale: float) -> Callable[[Array, float], Array]:
    """The network of the sampling loops, guided."""

    def bent(x: Array, time: float, shown: float) -> Array:
        moved: Array = np.tanh(np.float32(0.6) * x + np.float32(0.0007 * time + 0.25 * shown))
        return moved

    return lambda x, time: guide(bent(x, time, 1), bent(x, time, 0), scale)
