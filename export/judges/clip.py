"""CLIP (Radford et al. 2021) from a folder as Hugging Face's: one graph for pictures, one for sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import CheckpointError
from export.models.quiet import quiet

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def read_clip(folder: Path) -> Any:
    """The model in a folder, from safetensors or a state dict; no code of the folder is run.

    Raises CheckpointError where there is none, or one of another kind.
    """
    from transformers import CLIPModel

    try:
        with quiet():
            return CLIPModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, attn_implementation="eager"
            ).eval()
    except Exception as error:  # a damaged folder raises nearly anything
        raise CheckpointError(
            f"{folder}: expected a folder of CLIP with config.json, model.safetensors and tokenizer.json: {error}"
        ) from error


class ClipImage(nn.Module):
    """uint8 `[N, side, side, 3]` -> unit vectors `[N, D]`."""

    shift: Tensor
    scale: Tensor

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("shift", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(DEVIATION).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        pixels = (frames.permute(0, 3, 1, 2).float() / 255 - self.shift) / self.scale
        seen = self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)
        return seen / seen.norm(dim=1, keepdim=True)


class ClipText(nn.Module):
    """Tokens int64 `[M, L]`, padded behind their end, and where each ends, int64 `[M]` -> unit vectors `[M, D]`."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, ids: Tensor, ends: Tensor) -> Tensor:
        hidden = self.clip.text_model(input_ids=ids).last_hidden_state
        told = self.clip.text_projection(hidden[torch.arange(ids.shape[0]), ends])
        return told / told.norm(dim=1, keepdim=True)
