"""Keyframe U-Net of Kandinsky Video 1.1: text and a first frame -> T keyframes, or text -> the first frame itself.

Source: released `kandinsky_video/model/unet.py`.
"""

from __future__ import annotations

from torch import Tensor, nn

from export.models.configs import UNetConfig
from export.models.layers import TextPooling, TimeEmbedding
from export.models.unet import Conditioning, UNetBody


class ImageKeyframeUNet(nn.Module):
    """Predicts the noise in `x` `[B*T, 9, h, w]` = noised 4, first frame 4, its mask 1; frame fastest.

    `time` `[R]`, `context` `[R, L, D]` and `context_mask` `[R, L]` (true = a real token) have one row a
    video (R = B) or one a frame (R = B*T); so have `noise_augmentation` `[R']`, the noise level of the given
    frame, and `motion_score` `[R']`. `temporal_positions` `[T]` says where the frames stand; T is its length.

    Unlike in 1.0 all temporal norms see one sum: time, text, position, noise level and motion. `image_in_conv` takes
    the place of the first convolution for single images; `FirstFrameUNet` is that use of the same weights.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        embed = config.time_embed_dim
        self.time_embed = TimeEmbedding(config.init_channels, embed)
        self.text_pooling = TextPooling(embed, config.context_dim, config.head_dim)
        self.frame_embed = TimeEmbedding(config.init_channels, embed)
        self.noise_embed = TimeEmbedding(config.init_channels, embed) if config.noise_augmentation else None
        self.motion_embed = TimeEmbedding(config.init_channels, embed) if config.motion_score else None
        self.image_in_conv = nn.Conv2d(config.num_channels, config.init_channels, 3, padding=1)
        self.body = UNetBody(config, config.temporal)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        context_mask: Tensor,
        temporal_positions: Tensor,
        noise_augmentation: Tensor,
        motion_score: Tensor,
    ) -> Tensor:
        frames = temporal_positions.shape[0]
        videos = x.unflatten(0, (-1, frames)).shape[0]
        time_embed = self.text_pooling(self.time_embed(time), context, context_mask)
        summed = self.frame_embed(temporal_positions) + time_embed.unflatten(0, (videos, -1))  # [B, T, E]
        for embed, number in ((self.noise_embed, noise_augmentation), (self.motion_embed, motion_score)):
            if embed is not None:
                summed = summed + embed(number).unflatten(0, (videos, -1))
        everything = summed.flatten(0, 1)
        return self.body(x, Conditioning(time_embed, context, context_mask, frames, everything, everything))


class FirstFrameUNet(nn.Module):
    """The same weights as text-to-image: no look along time, and the convolution for images in front.

    It holds modules of `unet`, so its state dict is a part of that one's: same tensors, same names, no prefix.
    """

    def __init__(self, unet: ImageKeyframeUNet) -> None:
        super().__init__()
        self.time_embed = unet.time_embed
        self.text_pooling = unet.text_pooling
        self.image_in_conv = unet.image_in_conv
        self.body = unet.body

    def forward(self, x: Tensor, time: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """`x` `[B, 9, h, w]`, whose last 5 channels are zero, `time` `[B]` -> `[B, 4, h, w]`."""
        time_embed = self.text_pooling(self.time_embed(time), context, context_mask)
        conditioning = Conditioning(time_embed, context, context_mask, None)
        image: Tensor = self.body.levels(self.image_in_conv(x), conditioning)
        return image
