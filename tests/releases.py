"""Small release folders in the exact layout of the released files: 1.1 of golden parameters, 1.0 of random ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.checkpoints.configs import interpolation_config, keyframe_config, movq_config
from export.checkpoints.names import Rename, released_movq_key, released_unet_key
from export.models.interpolation import InterpolationUNet
from export.models.keyframes import KeyframeUNet
from export.models.movq import MoVQ
from ffrt.bundle import Bundle, open_bundle

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
WORDS = ["a", "red", "car", "drives", "over", "the", "snowy", "mountain", "road", "at", "night"]


def _read(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        parameters = {k.removeprefix("param/"): torch.from_numpy(file[k]) for k in file.files if k.startswith("param/")}
        return json.loads(bytes(file["config"])), parameters


def _part(parameters: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value.clone() for key, value in parameters.items() if key.startswith(prefix)}


def write_text_encoder(folder: Path) -> Path:
    """A T5 encoder of two layers with a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True)
    config, parameters = _read("v1_1_text")
    (folder / "config.json").write_text(json.dumps(config["t5"]))
    torch.save(_part(parameters, "t5/"), folder / "pytorch_model.bin")
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


SMALL_UNET = {
    "model_channels": 16,
    "init_channels": 16,
    "time_embed_dim": 32,
    "context_dim": 24,
    "groups": 8,
    "head_dim": 8,
    "dim_mult": [1],
    "num_blocks": [2],
    "add_cross_attention": [True],
    "add_self_attention": [True],
}
SMALL_MOVQ = {
    "double_z": False,
    "z_channels": 4,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}


def write_1_0(folder: Path) -> Path:
    """kandinsky_video.pt, kandinsky_video_interpolation.pt, movq.pt, and a configs.json, since they are small."""
    weights = folder / "weights"
    weights.mkdir(parents=True)
    keyframes = {**SMALL_UNET, "num_channels": 4, "out_channels": 4, "num_frames": 5}
    between = {**SMALL_UNET, "num_channels": 20, "out_channels": 12, "interpolation": True}
    unet = _random(KeyframeUNet(keyframe_config(keyframes)), released_unet_key, 0)
    inner = _random(InterpolationUNet(interpolation_config(between)), released_unet_key, 1)
    _, text = _read("v1_1_text")
    projections = {f"t5.{key}": value for key, value in _part(text, "projection_base/").items()}
    null = torch.full((24,), 0.1)
    torch.save({"unet": unet, "projections": projections, "null_embedding": null}, weights / "kandinsky_video.pt")
    torch.save({"unet": inner, "null_embedding": null[None]}, weights / "kandinsky_video_interpolation.pt")
    torch.save(_random(MoVQ(movq_config(SMALL_MOVQ)), released_movq_key(4), 2), weights / "movq.pt")
    configs = {"t2v": keyframes, "interpolation": between, "image_movq": SMALL_MOVQ}
    (folder / "configs.json").write_text(json.dumps(configs))
    write_text_encoder(folder / "text_encoder")
    return folder


def _random(module: nn.Module, rename: Rename, seed: int) -> dict[str, Tensor]:
    """A state dict by released names, nothing in it zero."""
    torch.manual_seed(seed)
    state = {key: value + 0.05 * torch.randn_like(value) for key, value in module.state_dict().items()}
    return dict(rename(key, value) for key, value in state.items())


def write_1_1(folder: Path) -> Path:
    """t2v.pt, interpolation.pt, t5_projections.pt, movq.pt, video_movq.pt and configs.json."""
    folder.mkdir(parents=True)
    config, parameters = _read("pipeline_v1_1_text")
    _, text = _read("v1_1_text")
    nulls = (parameters[name] for name in ("null_embedding", "interpolation_null_embedding"))
    for file, prefix, null in zip(("t2v", "interpolation"), ("unet/", "interpolation/"), nulls, strict=True):
        torch.save({"unet": _part(parameters, prefix), "null_embedding": null.clone()}, folder / f"{file}.pt")
    names = ("projection_base", "projection_interpolation")
    torch.save({name: _part(text, f"{name}/") for name in names}, folder / "t5_projections.pt")
    for name in ("movq", "video_movq"):
        torch.save(_part(parameters, f"{name}/"), folder / f"{name}.pt")
    sections = ("t2v", "interpolation", "image_movq", "video_movq")
    configs = {name: {"configs": config[name]} for name in sections}
    encoder = {"weights_path": "google/flan-ul2", "tokens_length": 128, "context_dim": 24}
    (folder / "configs.json").write_text(json.dumps({**configs, "text_encoder": encoder}))
    write_text_encoder(folder / "text_encoder")
    return folder


REPORTED = 'status=$1; shift; "$@"; echo $? > "$status"'
"""A command whose exit status goes into a file."""


def start_export(version: str, folder: Path) -> subprocess.Popen[bytes]:
    """Export a small release as a user would: it becomes `bundle` in `folder`, its output goes to `log`.

    `status` holds its exit status once it is done.
    """
    files = {"1.0": write_1_0, "1.1": write_1_1}[version](folder / "files")
    command = ["-m", "export", f"kandinsky-video-{version}", "--weights", files, "--out", folder / "bundle"]
    paths = os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["sh", "-c", REPORTED, "sh", folder / "status", sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def exported(folder: Path) -> Bundle:
    """The bundle of an export that some process of this run started, once it is done; fails with the end of its log."""
    end = time.monotonic() + 1200
    while not (status := folder / "status").exists() or not status.read_text():
        assert time.monotonic() < end, f"{folder}: no export in 20 minutes"
        time.sleep(0.5)
    assert status.read_text().strip() == "0", (folder / "log").read_text(encoding="utf-8")[-3000:]
    return open_bundle(folder / "bundle")
