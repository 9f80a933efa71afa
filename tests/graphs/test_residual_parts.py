"""Residual interpolation networks in parts: what runs once has one skip value for all groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bench.datasets.release import TWO_LEVELS
from export.models.configs import PRESETS, UNetConfig, masked_shape
from export.models.limits import Limits
from export.onnx.demo import between
from export.onnx.inputs import draw_inputs, multiples_of
from export.onnx.trace import Traced, trace
from ffrt.families import KANDINSKY_1_0
from graphs.passes.split import split
from graphs.passes.table import apply, names_of
from graphs.store import open_graph, write_graph
from tests.graphs.handmade import Feed, run_parts, same, session_of

GROUP = UNetConfig(16, 16, 32, 32, 20, 12, groups=4, head_dim=16, **TWO_LEVELS)
CONFIG = replace(PRESETS["demo"], residual=True, interpolation=GROUP, masked_interpolation=masked_shape(GROUP))
SHAPES = {"interpolation_unet": GROUP, "masked_interpolation_unet": masked_shape(GROUP)}
ONCE = ("skip_frames", "perturbation")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A network as the exporter writes it, with no weight zero."""
    written: dict[str, Path] = {}

    def plain_(name: str) -> Path:
        if name not in written:
            torch.manual_seed(0)
            module = between(CONFIG, SHAPES[name])
            for parameter in module.requires_grad_(False).parameters():
                parameter.copy_(0.3 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
            signature, limits = KANDINSKY_1_0.contract[name], Limits(GROUP.size_multiple, 8, 32, 1, 180)
            traced = Traced(name, module, draw_inputs(signature, limits, 0), multiples_of(signature, limits))
            written[name] = tmp_path_factory.mktemp("residual") / f"{name}.onnx"
            onnx.save(trace(traced), written[name])
        return written[name]

    return plain_


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_parts_give_the_result_of_the_whole(
    plain: Callable[[str], Path], name: str, provider: str, tmp_path: Path
) -> None:
    names = [each for each in names_of(provider) if each != "fuse_group_norm"]  # the CPU lacks its operator
    parts = split(apply(open_graph(plain(name)), name, provider, names))
    assert len(parts) == 3
    for number, part in enumerate(parts):
        write_graph(part, tmp_path / f"{number}.onnx", half=False)
    *early, step = [session_of(tmp_path / f"{number}.onnx") for number in range(len(parts))]
    whole = session_of(plain(name))
    channels = SHAPES[name].num_channels
    for rows, groups in ((1, 1), (1, 5), (2, 3), (3, 2)):
        rng = np.random.default_rng([rows, groups])
        x = rng.standard_normal((rows * groups, channels, 4, 8)).astype(np.float32)
        x[0, -4:] = x[0, :4] = 0  # blank keyframes
        skip, strength = np.full(groups, 6), np.full(groups, 0.5, np.float32)
        feed: Feed = {"x": x, "time": rng.uniform(0, 999, rows).astype(np.float32)}
        feed |= {"skip_frames": skip, "perturbation": strength}
        once = {**feed, "skip_frames": skip[:1], "perturbation": strength[:1]}
        known: Feed = {}
        for part in early:
            taken = {value.name: {**once, **known}[value.name] for value in part.get_inputs()}
            outputs = [value.name for value in part.get_outputs()]
            known |= dict(zip(outputs, part.run(outputs, taken), strict=True))
        got, _ = run_parts([step], {**feed, **known})
        same(got, whole.run(None, feed)[0], 1e-5)
