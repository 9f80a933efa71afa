"""Small release folders in the exact layout of the released files, made of the golden parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
WORDS = "a red car drives over the snowy mountain road at night".split()


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


def write_1_0(folder: Path) -> Path:
    """kandinsky_video.pt, kandinsky_video_interpolation.pt, movq.pt, and a configs.json, since they are small."""
    weights = folder / "weights"
    weights.mkdir(parents=True)
    keyframes, unet = _read("v1_0_keyframe_unet")
    interpolation, between = _read("v1_0_interpolation_unet")
    movq, autoencoder = _read("movq_image")
    _, text = _read("v1_1_text")
    projections = {f"t5.{key}": value for key, value in _part(text, "projection_base/").items()}
    null = torch.full((24,), 0.1)
    torch.save({"unet": unet, "projections": projections, "null_embedding": null}, weights / "kandinsky_video.pt")
    torch.save({"unet": between, "null_embedding": null[None]}, weights / "kandinsky_video_interpolation.pt")
    torch.save(autoencoder, weights / "movq.pt")
    configs = {"t2v": keyframes, "interpolation": interpolation, "image_movq": movq}
    (folder / "configs.json").write_text(json.dumps(configs))
    write_text_encoder(folder / "text_encoder")
    return folder


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
