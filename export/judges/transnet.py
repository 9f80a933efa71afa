"""TransNetV2 (Souček and Lokoč 2020): how likely a cut follows each frame. Names as in the released weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEIGHT_PX, WIDTH_PX = 27, 48
WINDOW = 100
"""Frames that are looked at together."""
LOOKUP = 101
"""Neighbours whose likeness to a frame is looked at, the frame itself in their middle."""
DILATIONS = (1, 2, 4, 8)
BINS = 512


class Separable(nn.Module):
    """A convolution in space, then a dilated one in time: `[N, into, T, h, w] -> [N, out, T, h, w]`."""

    def __init__(self, into: int, out: int, dilation: int) -> None:
        super().__init__()
        space = nn.Conv3d(into, 2 * out, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(2 * out, out, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False)
        self.layers = nn.ModuleList([space, time])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](x))


class Dilated(nn.Module):
    """Four separable convolutions of growing reach side by side, `[N, into, ...] -> [N, 4 x each, ...]`."""

    def __init__(self, into: int, each: int) -> None:
        super().__init__()
        for dilation in DILATIONS:
            self.add_module(f"Conv3D_{dilation}", Separable(into, each, dilation))
        self.bn = nn.BatchNorm3d(4 * each, 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.cat([self.get_submodule(f"Conv3D_{dilation}")(x) for dilation in DILATIONS], 1))


class Stack(nn.Module):
    """Two of them with a shortcut, then half the height and width."""

    def __init__(self, into: int, each: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([Dilated(into, each), Dilated(4 * each, each)])

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.DDCNN[0](x))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


def neighbours(x: Tensor) -> Tensor:
    """Likeness of unit vectors `[N, T, d]` to their neighbours in time, `[N, T, LOOKUP]`, 0 beyond the ends."""
    reach = LOOKUP // 2
    alike = F.pad(x @ x.transpose(1, 2), (reach, reach))
    times = torch.arange(x.shape[1])[:, None] + torch.arange(LOOKUP)
    return alike.gather(2, times.expand(x.shape[0], -1, -1))


class FrameSimilarity(nn.Module):
    """What the likeness of features to those of the neighbours says, `[N, T, 128]`."""

    def __init__(self, into: int) -> None:
        super().__init__()
        self.projection = nn.Linear(into, 128)
        self.fc = nn.Linear(LOOKUP, 128)

    def forward(self, blocks: list[Tensor]) -> Tensor:
        pooled = torch.cat([x.mean(dim=(3, 4)) for x in blocks], 1).transpose(1, 2)
        return F.relu(self.fc(neighbours(F.normalize(self.projection(pooled), dim=2))))


class ColourHistograms(nn.Module):
    """The same of histograms of colours, eight levels of each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(LOOKUP, 128)

    def forward(self, frames: Tensor) -> Tensor:
        red, green, blue = (frames.long() // 32).flatten(2, 3).unbind(3)
        bins = red * 64 + green * 8 + blue
        counts = torch.zeros(*bins.shape[:2], BINS).scatter_add(2, bins, torch.ones_like(bins, dtype=torch.float32))
        return F.relu(self.fc(neighbours(F.normalize(counts, dim=2))))


class TransNetV2(nn.Module):
    """uint8 `[N, 100, 27, 48, 3]` in RGB order -> probability `[N, 100]` that a cut follows a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.SDDCNN = nn.ModuleList([Stack(3, 16), Stack(64, 32), Stack(128, 64)])
        self.frame_sim_layer = FrameSimilarity(64 + 128 + 256)
        self.color_hist_layer = ColourHistograms()
        self.fc1 = nn.Linear(256 * 3 * 6 + 256, 1024)
        self.cls_layer1 = nn.Linear(1024, 1)
        self.cls_layer2 = nn.Linear(1024, 1)  # every frame of a slow transition; not asked here

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.permute(0, 4, 1, 2, 3).float() / 255
        blocks = []
        for stack in self.SDDCNN:
            x = stack(x)
            blocks.append(x)
        seen = x.permute(0, 2, 3, 4, 1).flatten(2)
        seen = torch.cat([self.color_hist_layer(frames), self.frame_sim_layer(blocks), seen], 2)
        return torch.sigmoid(self.cls_layer1(F.relu(self.fc1(seen)))).squeeze(2)
