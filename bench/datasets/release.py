"""Random files in the layout of the 1.0 release, at its size or small."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1 << 24
"""Random numbers that are drawn once and repeated."""
TWO_LEVELS: Mapping[str, Any] = {
    "dim_mult": (1, 2),
    "num_blocks": (2, 2),
    "add_cross_attention": (False, True),
    "add_self_attention": (False, True),
}
"""Levels of a small U-Net."""


def write_release(folder: Path, small: bool, report: Callable[[str], None]) -> dict[str, int]:
    """Random files of the 1.0 layout in `folder`; returns the number of parameters by network."""
    import torch

    from export.checkpoints.names import released_movq_key, released_unet_key
    from export.models.configs import DECODERS, INTERPOLATION_SHAPES, KEYFRAME_SHAPES, MoVQConfig, UNetConfig
    from export.models.interpolation import InterpolationUNet
    from export.models.keyframes import KeyframeUNet
    from export.models.movq import MoVQ

    keyframes, between, movq = KEYFRAME_SHAPES["Conv1dAttn1dBlocks"], INTERPOLATION_SHAPES["full"], DECODERS["image"]
    if small:
        keyframes = UNetConfig(64, 64, 64, 64, **TWO_LEVELS)
        between = UNetConfig(64, 64, 64, 64, 20, 12, **TWO_LEVELS)
        movq = MoVQConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(32,), resolution=256)
    weights = folder / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        networks = {
            "kandinsky_video": (KeyframeUNet(keyframes), released_unet_key),
            "kandinsky_video_interpolation": (InterpolationUNet(between), released_unet_key),
            "movq": (MoVQ(movq), released_movq_key(len(movq.ch_mult))),
        }
        null = torch.empty(keyframes.context_dim)
        projection = {
            "0.weight": torch.empty(keyframes.context_dim, 32),
            "1.weight": null.clone(),
            "1.bias": null.clone(),
        }
        for number, (name, (module, rename)) in enumerate(networks.items()):
            state = dict(rename(key, value) for key, value in module.state_dict().items())
            extra: dict[str, Any] = {"null_embedding": null}
            if name == "kandinsky_video":
                extra["projections"] = {f"t5.{key}": value for key, value in projection.items()}
            report(f"writing {name}.pt")
            save_random(state if name == "movq" else {"unet": state, **extra}, weights / f"{name}.pt", number)
    if small:
        released = {"num_frames": 5, **arguments(keyframes)}
        configs = {"t2v": released, "interpolation": {**arguments(between), "interpolation": True}}
        (folder / "configs.json").write_text(json.dumps({**configs, "image_movq": vars(movq)}))
    write_text_encoder(folder / "text_encoder")
    return {
        name: sum(value.numel() for value in module.state_dict().values()) for name, (module, _) in networks.items()
    }


def arguments(config: Any) -> dict[str, Any]:
    """What the released constructors of 1.0 take."""
    ours = ("noise_augmentation", "motion_score", "temporal", "add_temporal_attention", "add_new_temporal_params")
    return {name: value for name, value in vars(config).items() if name not in ours}


def save_random(state: dict[str, Any], path: Path, seed: int) -> None:
    """Write a state dict of meta tensors with random values as a PyTorch file, without holding it in memory.

    Matrices and filters are normal with deviation 1/sqrt(inputs), all else is near 0.1, merge factors are 0.3.
    """
    import torch

    empty = {name: torch.empty(value.shape, device="cpu") for name, value in flattened(state)}  # takes no memory yet
    with torch.serialization.skip_data():
        torch.save(nested(state, empty), path)
    rng = np.random.default_rng(seed)
    block = rng.standard_normal(BLOCK, np.float32)
    with zipfile.ZipFile(path) as archive, path.open("r+b") as file:
        places = {info.filename.split("/data/")[1]: info for info in archive.infolist() if "/data/" in info.filename}
        for number, (name, value) in enumerate(empty.items()):  # the order in which they are numbered in the file
            info = places[str(number)]
            file.seek(info.header_offset + 26)
            lengths = np.frombuffer(file.read(4), "<u2")
            file.seek(info.header_offset + 30 + int(lengths.sum()))
            for values in random_values(block, name, tuple(value.shape), rng):
                file.write(values.tobytes())


def random_values(
    block: np.ndarray, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """The values of one tensor, a block at a time."""
    count, fan_in = math.prod(shape), math.prod(shape[1:])
    for at in range(0, count, BLOCK):
        part = block[: min(BLOCK, count - at)]
        if name.endswith("merge"):
            yield np.full(part.shape, 0.3, np.float32)
        elif len(shape) > 1:
            yield np.roll(part, int(rng.integers(len(part)))) * np.float32(1 / math.sqrt(fan_in))
        else:
            yield np.float32(0.1) + np.float32(0.02) * part


def flattened(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors of a nested state dict, by their paths."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def nested(state: dict[str, Any], values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The nested state dict with `values`, which are by path, in place of its tensors."""
    return {
        name: nested(value, values, f"{prefix}{name}/") if isinstance(value, dict) else values[f"{prefix}{name}"]
        for name, value in state.items()
    }


def write_text_encoder(folder: Path) -> None:
    """A small T5 encoder: the text encoder's own size is not what is measured here."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5Config, T5EncoderModel

    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    torch.manual_seed(0)
    T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu")).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "car": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
