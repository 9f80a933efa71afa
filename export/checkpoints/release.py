"""The parts of a released checkpoint folder: which network each file holds, and which graphs are made of it.

1.0 has no configuration file and one shape; a `configs.json` beside the weights, in the form that 1.1 has, may say
otherwise. Files lie in the folder or in `weights/` below it, as the hub has them, as .pt or .safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from export.checkpoints.configs import (
    image_keyframe_config,
    interpolation_config,
    keyframe_config,
    movq_config,
    texted_interpolation_config,
)
from export.checkpoints.defaults import INTERPOLATION_1_0, INTERPOLATION_1_1, KEYFRAMES_1_0, KEYFRAMES_1_1
from export.checkpoints.file import Checkpoint, open_checkpoint
from export.checkpoints.hugging_face import (
    Places,
    encoder_state,
    open_weights,
)
from export.checkpoints.names import Rename, movq_key, unet_key
from export.checkpoints.stream import planned
from export.checkpoints.text_config import MAX_CONFIG_BYTES, read_config, read_json
from export.errors import CheckpointError
from export.models.configs import DECODERS, INTERPOLATION_SHAPES, KEYFRAME_SHAPES, MoVQConfig, UNetConfig
from export.models.image_keyframes import FirstFrameUNet, ImageKeyframeUNet
from export.models.interpolation import InterpolationUNet, TextedInterpolationUNet, UntextedInterpolationUNet
from export.models.keyframes import KeyframeUNet
from export.models.limits import Limits
from export.models.movq import MoVQ
from export.models.text import empty_text_encoder
from ffrt.bundle import InterpolationConfig, KeyframeConfig
from ffrt.families import KANDINSKY_1_0, KANDINSKY_1_1, Family

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """One file of weights of a bundle, and the graphs that read it.

    The module is on the meta device; `source` and `rename` (as in export.checkpoints.names) say where its values come
    from, `stamp` which version of the files that is.
    """

    module: nn.Module
    source: Mapping[str, Tensor]
    rename: Rename
    stamp: str
    graphs: Mapping[str, nn.Module]


@dataclass(frozen=True)
class Release:
    """All parts of a bundle by the name of their weights, and what its manifest says."""

    name: str
    family: Family
    parts: Mapping[str, Part]
    keyframes: KeyframeConfig
    interpolation: InterpolationConfig
    limits: Limits
    max_tokens: int
    movq: MoVQConfig
    text_folder: Path


def open_1_0(folder: Path, text_folder: Path) -> Release:
    """Open kandinsky_video, kandinsky_video_interpolation and movq of Kandinsky Video 1.0; no weight is read.

    Raises CheckpointError, which names file, key, wanted and got, for files that are missing, damaged or do not fit.
    """
    base, between, movq_file = (
        _open(folder, name) for name in ("kandinsky_video", "kandinsky_video_interpolation", "movq")
    )
    keyframes, interpolation = KEYFRAME_SHAPES["Conv1dAttn1dBlocks"], INTERPOLATION_SHAPES["full"]
    movq, frames = DECODERS["image"], KEYFRAMES_1_0.num_frames
    if _configs_file(folder).is_file():
        keyframes = _configured(folder, "t2v", keyframe_config)
        interpolation = _configured(folder, "interpolation", interpolation_config)
        movq = _configured(folder, "image_movq", movq_config)
        frames = _configured(folder, "t2v", lambda arguments: int(arguments["num_frames"]))
    unet = _empty(folder, "t2v", lambda: KeyframeUNet(keyframes))
    untexted = _empty(
        folder,
        "interpolation",
        lambda: UntextedInterpolationUNet(InterpolationUNet(interpolation), torch.empty(interpolation.context_dim)),
    )
    inner = between.section("unet")
    nulls = {"null_embedding": between["null_embedding"].reshape(-1)}
    source = Places({**{f"unet/{key}": (inner, key) for key in inner}, "null_embedding": (nulls, "null_embedding")})
    text, vocabulary, tokens = _text(
        text_folder, keyframes.context_dim, base.section("projections"), base["null_embedding"], None
    )
    parts = {
        "text_encoder": text,
        "keyframe_unet": Part(unet, base.section("unet"), unet_key, base.stamp, {"keyframe_unet": unet}),
        "interpolation_unet": Part(untexted, source, _inside, between.stamp, {"interpolation_unet": untexted}),
        **_movq_parts(folder, "image_movq", movq_file, movq, {"encoder": "movq_encoder", "decoder": "movq_decoder"}),
    }
    limits = _limits(keyframes, interpolation, movq, vocabulary, KEYFRAMES_1_0.position_range)
    sampled = replace(KEYFRAMES_1_0, num_frames=frames)
    return _checked(
        Release(
            "kandinsky-video-1.0", KANDINSKY_1_0, parts, sampled, INTERPOLATION_1_0, limits, tokens, movq, text_folder
        )
    )


def open_1_1(folder: Path, text_folder: Path) -> Release:
    """Open t2v, interpolation, t5_projections, movq, video_movq and configs.json of Kandinsky Video 1.1, as above."""
    base, between, projections, image_file, video_file = (
        _open(folder, name) for name in ("t2v", "interpolation", "t5_projections", "movq", "video_movq")
    )
    keyframes = _configured(folder, "t2v", image_keyframe_config)
    interpolation = _configured(folder, "interpolation", texted_interpolation_config)
    image_movq = _configured(folder, "image_movq", movq_config)
    video_movq = _configured(folder, "video_movq", movq_config)
    unet = _empty(folder, "t2v", lambda: ImageKeyframeUNet(keyframes))
    texted = _empty(folder, "interpolation", lambda: TextedInterpolationUNet(interpolation))
    first = _empty(folder, "t2v", lambda: FirstFrameUNet(unet))
    text, vocabulary, tokens = _text(
        text_folder,
        keyframes.context_dim,
        projections.section("projection_base"),
        base["null_embedding"],
        between["null_embedding"],
    )
    graphs = {"keyframe_unet": unet, "image_unet": first}
    parts = {
        "text_encoder": text,
        "keyframe_unet": Part(unet, base.section("unet"), unet_key, base.stamp, graphs),
        "interpolation_unet": Part(
            texted, between.section("unet"), unet_key, between.stamp, {"interpolation_unet": texted}
        ),
        **_movq_parts(
            folder, "image_movq", image_file, image_movq, {"encoder": "movq_encoder", "decoder": "image_decoder"}
        ),
        **_movq_parts(folder, "video_movq", video_file, video_movq, {"decoder": "movq_decoder"}),
    }
    limits = _limits(keyframes, interpolation, image_movq, vocabulary, KEYFRAMES_1_1.position_range)
    return _checked(
        Release(
            "kandinsky-video-1.1",
            KANDINSKY_1_1,
            parts,
            KEYFRAMES_1_1,
            INTERPOLATION_1_1,
            limits,
            tokens,
            video_movq,
            text_folder,
        )
    )


RELEASES: Mapping[str, Callable[[Path, Path], Release]] = {
    "kandinsky-video-1.0": open_1_0,
    "kandinsky-video-1.1": open_1_1,
}


def _open(folder: Path, name: str) -> Checkpoint:
    places = [
        inside / f"{name}{ending}" for inside in (folder, folder / "weights") for ending in (".pt", ".safetensors")
    ]
    return open_checkpoint(next((path for path in places if path.is_file()), places[0]))


def _configs_file(folder: Path) -> Path:
    inside = folder / "weights" / "configs.json"
    return inside if inside.is_file() else folder / "configs.json"


def _configured(folder: Path, name: str, build: Callable[[Mapping[str, Any]], Config]) -> Config:
    """A network's configuration from configs.json, where its arguments lie under "configs" or directly."""
    path = _configs_file(folder)
    values = read_json(path, MAX_CONFIG_BYTES)
    arguments = values.get(name)
    if isinstance(arguments, dict) and isinstance(arguments.get("configs"), dict):
        arguments = arguments["configs"]
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{path}: {name}: expected the arguments of a network, got {arguments!r:.80}")
    try:
        return build(arguments)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {name}: {error}") from error


def _empty(folder: Path, name: str, build: Callable[[], Network]) -> Network:
    """A network without weights. Raises CheckpointError naming the configuration whose sizes do not fit each other."""
    try:
        with torch.device("meta"):
            return build()
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{_configs_file(folder)}: {name}: {error}") from error


def _text(
    folder: Path, context_dim: int, projection: Mapping[str, Tensor], null: Tensor, between: Tensor | None
) -> tuple[Part, int, int]:
    """The part of the text encoder, the size of its vocabulary and the most tokens it takes."""
    config = read_config(folder, context_dim)
    source = encoder_state(config, open_weights(folder), projection, null, between)
    module, _ = empty_text_encoder(config, between is not None)
    files = [(path.name, path.stat()) for path in folder.iterdir() if path.is_file()]  # a link may lead nowhere
    about = sorted((name, status.st_size, status.st_mtime_ns) for name, status in files)
    part = Part(module, source, lambda key, tensor: (key, tensor), f"{folder.name} {about}", {"text_encoder": module})
    return part, config.vocab_size, config.max_tokens


def _movq_parts(
    folder: Path, name: str, file: Checkpoint, config: MoVQConfig, graphs: Mapping[str, str]
) -> dict[str, Part]:
    """The halves of a MoVQ file that are wanted, half -> graph; the file must hold both, as released."""
    rename = movq_key(len(config.ch_mult))
    whole = _empty(folder, name, lambda: MoVQ(config))
    planned(whole, file, rename, torch.float16, file.name)
    ours = {key: rename(key, file[key])[0] for key in file}

    def half_of(half: str) -> Rename:
        return lambda key, tensor: (ours[key].removeprefix(f"{half}."), rename(key, tensor)[1])

    found = {}
    for half, graph in graphs.items():
        module = whole.get_submodule(half)
        source = Places({key: (file, key) for key, name in ours.items() if name.startswith(f"{half}.")})
        found[graph] = Part(module, source, half_of(half), file.stamp, {graph: module})
    return found


def _inside(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """The interpolation U-Net of 1.0 inside our module, which holds the null embedding beside it."""
    if not key.startswith("unet/"):
        return key, tensor
    name, value = unet_key(key.removeprefix("unet/"), tensor)
    return f"unet.{name}", value


def _limits(
    keyframes: UNetConfig, interpolation: UNetConfig, movq: MoVQConfig, vocabulary: int, positions: int
) -> Limits:
    return Limits(
        cell=max(keyframes.size_multiple, interpolation.size_multiple),
        downscale=movq.downscale,
        context_dim=keyframes.context_dim,
        vocab_size=vocabulary,
        position_range=positions,
    )


def _checked(release: Release) -> Release:
    """The release, if every key and shape of every part fits its module."""
    for name, part in release.parts.items():
        origin = part.source.name if isinstance(part.source, Checkpoint) else name
        planned(part.module, part.source, part.rename, torch.float16, origin)
    return release
