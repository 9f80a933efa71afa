"""DISTS (Ding et al. 2020): structure and texture of two pictures in the features of VGG16, with learned weights."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
CHANNELS = (3, 64, 128, 256, 512, 512)
"""Of what is compared: the picture itself and the last features of each stage."""
TINY = 1e-6


def halved(x: Tensor) -> Tensor:
    """L2 pooling `[N, C, h, w] -> [N, C, h / 2, w / 2]` with a Hann window of 3 x 3."""
    row = torch.from_numpy(np.hanning(5)[1:-1].copy()).float()
    window = torch.outer(row, row)
    kernel = (window / window.sum()).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


class Dists(nn.Module):
    """`frames` and `truth`, uint8 `[N, H, W, 3]` -> distance `[N]`, 0 for equal ones. Pictures are not resized."""

    alpha: Tensor
    beta: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(stage)) for stage in STAGES
        )
        for name in ("alpha", "beta"):
            self.register_buffer(name, torch.ones(1, sum(CHANNELS), 1, 1))
        self.register_buffer("shift", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1), persistent=False)

    def features(self, frames: Tensor) -> list[Tensor]:
        """The picture and the features of five stages, each `[N, C, h, w]`."""
        picture = frames.permute(0, 3, 1, 2).float() / 255
        x, found = (picture - self.shift) / self.scale, [picture]
        for index, stage in enumerate(self.stages):
            x = halved(x) if index else x
            for convolution in stage.children():
                x = F.relu(convolution(x))
            found.append(x)
        return found

    def forward(self, frames: Tensor, truth: Tensor) -> Tensor:
        whole = self.alpha.sum() + self.beta.sum()
        weights = zip((self.alpha / whole).split(CHANNELS, 1), (self.beta / whole).split(CHANNELS, 1), strict=True)
        alike = torch.zeros(())
        for x, y, (alpha, beta) in zip(self.features(frames), self.features(truth), weights, strict=True):
            mean_x, mean_y = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
            spread_x, spread_y = ((a - m).square().mean((2, 3), keepdim=True) for a, m in ((x, mean_x), (y, mean_y)))
            shared = (x * y).mean((2, 3), keepdim=True) - mean_x * mean_y
            texture = (2 * mean_x * mean_y + TINY) / (mean_x**2 + mean_y**2 + TINY)
            structure = (2 * shared + TINY) / (spread_x + spread_y + TINY)
            alike = alike + (alpha * texture + beta * structure).sum((1, 2, 3))
        return 1 - alike
