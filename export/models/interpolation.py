"""Group interpolation U-Net: three frames between two keyframes in one pass (paper section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.models.configs import UNetConfig
from export.models.layers import TextPooling, TimeEmbedding
from export.models.unet import Conditioning, UNetBody

SKIP_VALUES = 20  # rows of the skip-frame table in the released model


class _GroupUNet(nn.Module):
    """What both releases have; they differ in where the text joins the other embeddings."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        embed = config.time_embed_dim
        self.time_embed = TimeEmbedding(config.init_channels, embed)
        self.text_pooling = TextPooling(embed, config.context_dim, config.head_dim)
        self.perturbation_embed = TimeEmbedding(config.init_channels, embed)
        self.perturbation_merge = nn.Parameter(torch.zeros(1))
        self.skip_embed = nn.Embedding(SKIP_VALUES, embed)
        self.skip_merge = nn.Parameter(torch.zeros(1))
        self.body = UNetBody(config, "groups")

    def merged(self, x: Tensor, rows: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """`rows` `[R, E]` with the embeddings of the keyframes' noise and the frame rate: `[B, G, E]`."""
        groups = skip_frames.shape[0]
        videos = x.unflatten(0, (-1, groups)).shape[0]
        per_video = rows.unflatten(0, (videos, -1))  # [B, 1 or G, E]
        disturbed = self.perturbation_embed(perturbation).unflatten(0, (-1, groups))  # [1 or B, G, E]
        time_embed = (1 - self.perturbation_merge) * per_video + self.perturbation_merge * disturbed
        return time_embed + self.skip_merge * self.skip_embed(skip_frames)


class InterpolationUNet(_GroupUNet):
    """Predicts v for the middle of `x` `[B*G, 20, h, w]` = left 4, noised 3 x 4, right 4; group fastest.

    `time` `[R]`; `context` `[R, L, D]`, `context_mask` `[R, L]`; `skip_frames` `[G]` (frames left out
    between neighbours of the finished clip, 3 for 2 -> 8 fps and 1 for 8 -> 30); `perturbation` `[G]` or
    `[B*G]`, the noise level of the keyframes (0 when sampling). G is the length of `skip_frames`; the groups of one
    video see each other through the convolutions along G.
    """

    def forward(
        self, x: Tensor, time: Tensor, context: Tensor, context_mask: Tensor, skip_frames: Tensor, perturbation: Tensor
    ) -> Tensor:
        rows = self.text_pooling(self.time_embed(time), context, context_mask)  # [R, E]
        time_embed = self.merged(x, rows, skip_frames, perturbation).flatten(0, 1)
        return self.body(x, Conditioning(time_embed, context, context_mask, skip_frames.shape[0]))


class TextedInterpolationUNet(_GroupUNet):
    """The 1.1 release: shown the text, and the text joins last (released `unet_interpolation.py`).

    Inputs as above; `temporal_mask` `[B]` scales what the groups of each video take from each other: 1 with the
    keyframes given, 0 without. `config.add_temporal_attention` adds attention over the groups behind each
    self-attention, `config.add_new_temporal_params` group convolutions behind every resampling and at both ends.
    """

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        context_mask: Tensor,
        skip_frames: Tensor,
        perturbation: Tensor,
        temporal_mask: Tensor,
    ) -> Tensor:
        merged = self.merged(x, self.time_embed(time), skip_frames, perturbation)  # [B, G, E]
        text = self.text_pooling.answer(context, context_mask).unflatten(0, (merged.shape[0], -1))  # [B, 1 or G, E]
        time_embed = (merged + text).flatten(0, 1)
        conditioning = Conditioning(
            time_embed, context, context_mask, frames=skip_frames.shape[0], temporal_mask=temporal_mask
        )
        return self.body(x, conditioning)


class UntextedInterpolationUNet(nn.Module):
    """The 1.0 release never shows text to this model: its context is always the null token, here a constant."""

    def __init__(self, unet: InterpolationUNet, null_embedding: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.null_embedding = nn.Parameter(null_embedding)

    def forward(self, x: Tensor, time: Tensor, skip_frames: Tensor, perturbation: Tensor) -> Tensor:
        """`time` `[B]`, `skip_frames` `[G]`, `perturbation` `[G]` (or `[B*G]` in training)."""
        context, mask = self.null_context(time.shape[0])
        prediction: Tensor = self.unet(x, time, context, mask, skip_frames, perturbation)
        return prediction

    def null_context(self, rows: int) -> tuple[Tensor, Tensor]:
        """Context `[R, 2, D]` and mask `[R, 2]`: one token and one pad, as released."""
        null = self.null_embedding[None, None, :].expand(rows, 1, -1)
        real = torch.ones(rows, 1, dtype=torch.bool, device=null.device)
        return torch.cat((null, torch.zeros_like(null)), dim=1), torch.cat((real, ~real), dim=1)
