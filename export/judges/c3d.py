"""C3D (Tran et al. 2015), fine-tuned on UCF-101 by TGAN2 (Saito et al. 2020): the classifier of the video IS."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE_PX = 112
FRAMES = 16
CLASSES = 101
CHANNELS = (3, 64, 128, 256, 256, 512, 512, 512, 512)
LAYERS = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
HALVED = ("conv2a", "conv3b", "conv4b", "conv5b")
"""After these, time, height and width are halved; after conv1a only the latter two. Odd sizes are rounded up."""


class C3D(nn.Module):
    """uint8 `[B, 16, H, W, 3]` in RGB order, of any size -> probabilities `[B, 101]`.

    `pre` turns -1..1 in RGB into about -128..128 in BGR, and `mean` is what is added then: 128 less the mean clip.
    """

    pre: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, into, out in zip(LAYERS, CHANNELS[:-1], CHANNELS[1:], strict=True):
            self.add_module(name, nn.Conv3d(into, out, 3, padding=1))
        self.fc6 = nn.Linear(512 * 4 * 4, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, CLASSES)
        self.register_buffer("pre", 128 * torch.eye(3).flip(0).reshape(3, 3, 1, 1, 1))
        self.register_buffer("mean", torch.zeros(3, FRAMES, SIDE_PX, SIDE_PX))

    def forward(self, frames: Tensor) -> Tensor:
        count, length = frames.shape[:2]
        flat = frames.flatten(0, 1).permute(0, 3, 1, 2).float() * (2 / 255) - 1
        flat = F.interpolate(flat, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=True)
        x = flat.reshape(count, length, 3, SIDE_PX, SIDE_PX).transpose(1, 2)
        x = F.conv3d(x, self.pre) + self.mean
        for name in LAYERS:
            x = F.relu(self.get_submodule(name)(x))
            if name == "conv1a":
                x = F.max_pool3d(x, (1, 2, 2), ceil_mode=True)
            elif name in HALVED:
                x = F.max_pool3d(x, 2, ceil_mode=True)
        x = F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))
        return self.fc8(x).softmax(dim=1)
