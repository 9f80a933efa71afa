"""Keyframe U-Net: text -> T keyframes at once (paper section 4.1; released 1.0 `UNet` with `num_frames`)."""

from __future__ import annotations

from torch import Tensor, nn

from export.models.configs import UNetConfig
from export.models.layers import TextPooling, TimeEmbedding
from export.models.unet import Conditioning, UNetBody


class KeyframeUNet(nn.Module):
    """Predicts the noise in `x` `[B*T, 4, h, w]`, frame fastest.

    `time` `[R]`, `context` `[R, L, D]` and `context_mask` `[R, L]` (true = a real token) have one row a
    video (R = B) or one a frame (R = B*T). `temporal_positions` `[T]` says where the frames stand; T is its length.
    With None all that looks along time is skipped and every item is an image, as in text-to-image training.
    `config.temporal` chooses the temporal conditioning (paper Table 1).
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        embed = config.time_embed_dim
        self.time_embed = TimeEmbedding(config.init_channels, embed)
        self.text_pooling = TextPooling(embed, config.context_dim, config.head_dim)
        self.frame_embed = TimeEmbedding(config.init_channels, embed)
        self.body = UNetBody(config, config.temporal)

    def forward(
        self, x: Tensor, time: Tensor, context: Tensor, context_mask: Tensor, temporal_positions: Tensor | None
    ) -> Tensor:
        time_embed = self.text_pooling(self.time_embed(time), context, context_mask)
        if temporal_positions is None:
            return self.body(x, Conditioning(time_embed, context, context_mask, None))
        frames = temporal_positions.shape[0]
        videos = x.unflatten(0, (-1, frames)).shape[0]
        frame_embed = self.frame_embed(temporal_positions).repeat(videos, 1)
        return self.body(x, Conditioning(time_embed, context, context_mask, frames, frame_embed, time_embed))

    def temporal_parameters(self) -> list[nn.Parameter]:
        """What the paper trains on video: all that looks along time and the frame embedding; all else stays frozen."""
        return [p for name, p in self.named_parameters() if "temporal_" in name or name.startswith("frame_embed")]
