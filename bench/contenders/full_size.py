"""The bundles of `bench.cuda_run` and `bench.device_memory`: random weights at the released size, or tiny ones.

A part has a bundle of its own, in which only its network is not the demo's, so that parts are built side by side and
one alone can be measured.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.contenders.work import Scale, Stage
from bench.datasets.release import TWO_LEVELS
from export.checkpoints.defaults import INTERPOLATION_1_0, KEYFRAMES_1_0
from export.models.configs import DECODERS, INTERPOLATION_SHAPES, KEYFRAME_SHAPES, MoVQConfig, TextConfig, UNetConfig
from export.models.keyframes import KeyframeUNet
from export.models.limits import Limits
from export.models.movq import MoVQDecoder
from export.models.text import TextEncoder
from export.onnx.demo import untexted
from export.onnx.random import Draw, write_random_graph
from ffrt.bundle import Bundle, list_files, open_bundle, why_no_bundle, write_manifest
from ffrt.families import OPTIONAL_GRAPHS
from ffrt.output.whole_folder import whole_folder
from graphs.passes.table import INT8_TEXT

Part = Literal["keyframes", "interpolation", "decode", "text"]

GRAPHS: Mapping[Part, str] = {
    "keyframes": "keyframe_unet",
    "interpolation": "interpolation_unet",
    "decode": "movq_decoder",
    "text": "text_encoder",
}
STAGES: Mapping[Part, Stage] = {
    "keyframes": "keyframe_step",
    "interpolation": "interpolation_step",
    "decode": "decode_frame",
    "text": "text",
}
BUILD = "from bench.contenders.full_size import build\nbuild(argument)\n"
"""A body for `bench.harness.run.child`."""
TOKENS = 77


@dataclass(frozen=True)
class Shapes:
    """The networks of a scale and the latent side that they run at."""

    keyframes: UNetConfig
    interpolation: UNetConfig
    decoder: MoVQConfig
    text: TextConfig
    side: int

    def work(self, name: str) -> Scale:
        """The work of a scale: keyframes and groups of the 1.0 release, both guidance rows."""
        return Scale(
            name,
            self.side,
            KEYFRAMES_1_0.num_frames,
            (TOKENS, self.keyframes.context_dim),
            KEYFRAMES_1_0.guidance_scale,
            INTERPOLATION_1_0.guidance_scale,
        )


_TINY = UNetConfig(32, 32, 64, 64, groups=8, head_dim=32, **TWO_LEVELS)
SHAPES: Mapping[str, Shapes] = {
    "full": Shapes(
        KEYFRAME_SHAPES["Conv1dAttn1dBlocks"],
        INTERPOLATION_SHAPES["full"],
        DECODERS["image"],
        TextConfig(
            "t5",
            {
                **{"vocab_size": 32128, "d_model": 4096, "d_kv": 256, "d_ff": 16384, "num_layers": 32, "num_heads": 16},
                "feed_forward_proj": "gated-silu",
            },
            4096,
        ),
        64,
    ),
    "tiny": Shapes(
        _TINY,
        replace(_TINY, num_channels=20, out_channels=12),
        MoVQConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(32,), resolution=256),
        TextConfig(
            "t5",
            {
                **{"vocab_size": 64, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
                "feed_forward_proj": "gated-gelu",
            },
            64,
        ),
        8,
    ),
}
"""512 pixels of the released networks (4.14 and 3.87 billion parameters, 0.16 in the decoder, 8.7 in Flan-UL2's
encoder), and 64 of tiny ones."""


def network(part: Part, shapes: Shapes) -> nn.Module:
    """The network of a part on the meta device, without weights."""
    with torch.device("meta"):
        if part == "keyframes":
            return KeyframeUNet(shapes.keyframes)
        if part == "text":
            return TextEncoder(shapes.text)
        return untexted(shapes.interpolation) if part == "interpolation" else MoVQDecoder(shapes.decoder)


def numbers(seed: int, device: str) -> Draw:
    """Random numbers of PyTorch, drawn on `device`."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(count: int, fan_in: int | None) -> NDArray[np.float16]:
        values = torch.empty(count, device=device)
        if fan_in is None:
            values.uniform_(0.05, 0.15, generator=generator)
        else:
            values.normal_(0, 1 / math.sqrt(fan_in), generator=generator)
        drawn: NDArray[np.float16] = values.half().cpu().numpy()
        return drawn

    return draw


def load_network(part: Part, shapes: Shapes, weights: Path, device: str, half: bool) -> nn.Module:
    """The network of a part with the weights of its bundle on `device`, float16 with `half`, else float32."""
    from safetensors.torch import load_file

    module = network(part, shapes)
    state = load_file(weights, device=device)
    if not half:
        state = {name: tensor.float() for name, tensor in state.items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def write_part(part: Part, shapes: Shapes, demo: Bundle, out: Path, device: str) -> Bundle:
    """Write the bundle of a part: its weights, its exported graph and the demo's others.

    `out` appears when it is whole.
    """
    graph = GRAPHS[part]
    left_out = {graph, *OPTIONAL_GRAPHS}
    with whole_folder(out, why_no_bundle) as beside:
        for file in demo.files:
            if Path(file).stem not in left_out:
                shutil.copyfile(demo.path(file), beside / file)
        config = shapes.interpolation if part == "interpolation" else shapes.keyframes
        downscale = shapes.decoder.downscale
        limits = Limits(
            config.size_multiple, downscale, config.context_dim, shapes.text.vocab_size, KEYFRAMES_1_0.position_range
        )
        spec = write_random_graph(
            graph, network(part, shapes), limits, beside, numbers(list(GRAPHS).index(part), device)
        )
        kept = {name: one for name, one in demo.graphs.items() if name not in left_out}
        side = shapes.side * downscale
        multiple = downscale * max(config.size_multiple, demo.video.size_multiple // demo.video.downscale)
        manifest = replace(
            demo.manifest,
            name=out.name,
            files=list_files(beside),
            graphs={**kept, graph: spec},
            video=replace(demo.video, height=side, width=side, size_multiple=multiple),
            keyframes=KEYFRAMES_1_0,
            interpolation=INTERPOLATION_1_0,
        )
        write_manifest(beside, manifest)
    return open_bundle(out)


def build(argument: Mapping[str, Any]) -> None:
    """Write the plain and the optimised bundle of a part unless they exist, the text encoder's with 8-bit weights.

    Meant for a process of its own. `argument`: `part`, `scale`, `folder` (of the bundles), `demo`, `provider`.
    """
    from graphs.optimise import Dtype, optimise

    part, shapes = argument["part"], SHAPES[argument["scale"]]
    folder, provider = Path(argument["folder"]), argument["provider"]
    plain = folder / f"{part}-plain"
    if not plain.is_dir():
        device = "cuda" if provider == "cuda" and torch.cuda.is_available() else "cpu"
        write_part(part, shapes, open_bundle(Path(argument["demo"])), plain, device)
    optimised = folder / f"{part}-{provider}"
    if not optimised.is_dir():  # not verified: random networks have no video, and the run compares with eager itself
        dtype: Dtype = "float16" if provider == "cuda" else "float32"
        also = [INT8_TEXT] if part == "text" else []
        optimise(open_bundle(plain), optimised, provider=provider, dtype=dtype, also=also, verify=False)
