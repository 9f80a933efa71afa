"""EfficientNet-Lite0 (Tan and Le 2019, the variant without squeeze and swish), up to its pooled features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SIDE_PX = 224
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
"""Blocks, kernel, stride of the first block, expansion and channels of each stage; a last block follows."""
LAST = (1, 3, 1, 6, 320)
FEATURES = 1280
EPSILON = 1e-3


class SamePadded(nn.Conv2d):
    """A convolution that pads as TensorFlow does: with a stride of 2 nothing or less on the left and above."""

    def forward(self, x: Tensor) -> Tensor:
        size, stride = self.kernel_size[0], self.stride[0]
        whole = size - stride if stride > 1 else size - 1
        return super().forward(F.pad(x, [whole // 2, whole - whole // 2] * 2))


class Block(nn.Module):
    """An inverted bottleneck `[N, into, h, w] -> [N, out, h / stride, w / stride]`; names as in the released file."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = into * expansion
        if expansion != 1:
            self._expand_conv = SamePadded(into, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, EPSILON)
        self._depthwise_conv = SamePadded(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, EPSILON)
        self._project_conv = SamePadded(inner, out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out, EPSILON)
        self.expands, self.keeps = expansion != 1, stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        made = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(wide)))))
        return made + x if self.keeps else made


class EfficientNetLite0(nn.Module):
    """uint8 `[N, 224, 224, 3]` in RGB order -> the 1280 pooled features `[N, 1280]` before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SamePadded(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, EPSILON)
        blocks, into = [], 32
        for count, kernel, stride, expansion, out in (*STAGES, LAST):
            for index in range(count):
                blocks.append(Block(into, out, kernel, stride if index == 0 else 1, expansion))
                into = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SamePadded(into, FEATURES, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(FEATURES, EPSILON)
        self._fc = nn.Linear(FEATURES, 1000)

    def features(self, frames: Tensor) -> Tensor:
        """The pooled features."""
        x = (frames.permute(0, 3, 1, 2).float() - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    def forward(self, frames: Tensor) -> Tensor:
        return self.features(frames)
