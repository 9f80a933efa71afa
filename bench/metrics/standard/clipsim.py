"""CLIPSIM (Wu et al. 2021): how like its caption a video is to CLIP, mean over frames, then over videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.base import Frames
from bench.metrics.intervals import mean_interval
from bench.metrics.networks.catalogue import CLIP
from bench.metrics.networks.network import NetworkError, Opened, batches, opened
from bench.metrics.networks.pictures import middle_square
from bench.metrics.videos import Videos

BATCH = 8


def clipsim(videos: Videos, captions: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """Mean cosine of every frame to the caption of its video, and all that it depends on, for a record.

    Captions that CLIP cannot hold are cut and counted. Raises NetworkError without the folder, or for one that lacks
    parts of CLIP.
    """
    network = opened(CLIP, folder)
    assert folder is not None
    told, cut = sentence_vectors(network, folder, captions)
    side = side_of(folder)
    scores = [
        float(np.mean(vectors(network, clip, side) @ one)) for clip, one in zip(videos.clips(), told, strict=True)
    ]
    found = mean_interval(scores)
    return {
        "name": network.title,
        "protocol": "mean over all frames, then over videos",
        "value": found["mean"],
        "low": found["low"],
        "high": found["high"],
        "clips": [found["clips"]],
        "captions_cut": cut,
        "side_px": side,
        **network.record,
    }


def vectors(network: Opened, frames: Frames, side: int) -> NDArray[np.float64]:
    """Unit vectors `[N, D]` of frames uint8 `[N, H, W, 3]`."""
    square = middle_square(frames, side)
    found = [network("clip-image", frames=square[part]) for part in batches(len(square), BATCH)]
    return np.concatenate(found).astype(np.float64)


def sentence_vectors(network: Opened, folder: Path, captions: Sequence[str]) -> tuple[NDArray[np.float64], int]:
    """Unit vectors `[M, D]` of captions, and how many of them were cut. Raises NetworkError without a tokenizer."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises its own
        raise NetworkError(f"{folder}: expected tokenizer.json of CLIP: {error}") from error
    length = int(config_of(folder).get("text_config", {}).get("max_position_embeddings", 77))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    found, cut = [], 0
    for caption in captions:
        ids = tokenizer.encode(caption).ids
        if len(ids) > length:
            cut += 1
            ids = [*ids[: length - 1], ids[-1]]
        found.append(network("clip-text", ids=np.array([ids]), ends=np.array([len(ids) - 1]))[0])
    return np.array(found, np.float64), cut


def side_of(folder: Path) -> int:
    """The side in px of the pictures that this CLIP sees."""
    return int(config_of(folder).get("vision_config", {}).get("image_size", 224))


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises NetworkError where it is none."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NetworkError(f"{folder}: expected config.json of CLIP: {error}") from error
    if not isinstance(found, dict):
        raise NetworkError(f"{folder}: expected config.json of CLIP, got a {type(found).__name__}")
    return found
