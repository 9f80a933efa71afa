"""I3D (Carreira and Zisserman 2017) as Kinetics-400 classifier, up to the logits that FVD takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE_PX = 224
FRAMES = 16
CLASSES = 400
MIXED = (
    ("Mixed_3b", 192, (64, 96, 128, 16, 32, 32)),
    ("Mixed_3c", 256, (128, 128, 192, 32, 96, 64)),
    ("Mixed_4b", 480, (192, 96, 208, 16, 48, 64)),
    ("Mixed_4c", 512, (160, 112, 224, 24, 64, 64)),
    ("Mixed_4d", 512, (128, 128, 256, 24, 64, 64)),
    ("Mixed_4e", 512, (112, 144, 288, 32, 64, 64)),
    ("Mixed_4f", 528, (256, 160, 320, 32, 128, 128)),
    ("Mixed_5b", 832, (256, 160, 320, 32, 128, 128)),
    ("Mixed_5c", 832, (384, 192, 384, 48, 128, 128)),
)
"""Names as published, channels that come in, and those of the six convolutions."""
HALVED = {"Mixed_4b": (3, 2), "Mixed_5b": (2, 2)}
"""Kernel and stride, of all three axes, of the pool before a block."""


def same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Zeros around `[B, C, T, h, w]` as TensorFlow pads: the odd one goes behind."""
    pads: list[int] = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        whole = max(k - (size % s if size % s else s), 0)
        pads += [whole // 2, whole - whole // 2]
    return F.pad(x, pads)


def pooled(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """The largest; of what is no less than 0, so the zeros of the padding never win."""
    return F.max_pool3d(same(x, kernel, stride), kernel, stride)


class Unit(nn.Module):
    """A convolution, normalised and rectified: `[B, into, T, h, w] -> [B, out, T / stride, ...]`."""

    def __init__(self, into: int, out: int, size: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(into, out, size, stride, bias=False)
        self.bn = nn.BatchNorm3d(out, 1e-3)
        self.size, self.stride = (size, size, size), (stride, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(same(x, self.size, self.stride))))


class Mixed(nn.Module):
    """Four branches side by side (an Inception block)."""

    def __init__(self, into: int, out: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(into, out[0])
        self.b1a, self.b1b = Unit(into, out[1]), Unit(out[1], out[2], 3)
        self.b2a, self.b2b = Unit(into, out[3]), Unit(out[3], out[4], 3)
        self.b3b = Unit(into, out[5])

    def forward(self, x: Tensor) -> Tensor:
        around = pooled(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(around)], 1)


class Logits(nn.Module):
    """The classifier, a convolution with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


class I3D(nn.Module):
    """uint8 `[B, 16, H, W, 3]` in RGB order, of any size -> logits `[B, 400]`.

    Scaled to -1..1 and to 224 x 224 (bilinear without antialiasing) inside, as StyleGAN-V's file does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, into, out in MIXED:
            self.add_module(name, Mixed(into, out))
        self.logits = Logits()

    def forward(self, frames: Tensor) -> Tensor:
        count, length = frames.shape[:2]
        flat = frames.flatten(0, 1).permute(0, 3, 1, 2).float() * (2 / 255) - 1
        flat = F.interpolate(flat, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False)
        x = flat.reshape(count, length, 3, SIDE_PX, SIDE_PX).transpose(1, 2)
        x = pooled(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = pooled(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name, _, _ in MIXED:
            if name in HALVED:
                size, stride = HALVED[name]
                x = pooled(x, (size,) * 3, (stride,) * 3)
            x = self.get_submodule(name)(x)
        return self.logits(F.avg_pool3d(x, (2, 7, 7), 1)).mean(dim=(2, 3, 4))
