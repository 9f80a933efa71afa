"""GroupNorm that trains fast on a CPU.

PyTorch's own backward takes two thirds of a bfloat16 channels-last training step on a CPU, and in float32 forward and
backward take a sixth of one; these are a handful of elementwise passes. Values and gradients are those of
`torch.nn.functional.group_norm`; everywhere but in training on a CPU that function is what runs, so an exported graph
never sees this file.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _FastBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> Tensor:
        batch, channels = x.shape[:2]
        out, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, x[0, 0].numel(), groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        (grad,) = grads
        batch, channels = x.shape[:2]
        groups, per_group, positions = ctx.groups, channels // ctx.groups, x[0, 0].numel()
        space = tuple(range(2, x.dim()))
        grad_sum = grad.sum(space).float()  # [N, C]
        product_sum = (grad * x).sum(space).float()
        mean_c = mean.float().repeat_interleave(per_group, 1)  # [N, C]
        rstd_c = rstd.float().repeat_interleave(per_group, 1)
        normed_sum = (product_sum - mean_c * grad_sum) * rstd_c  # sum of grad * normalised x
        gamma = torch.ones_like(rstd_c) if weight is None else weight.float().expand_as(rstd_c)
        size = per_group * positions
        group_grad = (gamma * grad_sum).reshape(batch, groups, per_group).sum(2) / size
        group_normed = (gamma * normed_sum).reshape(batch, groups, per_group).sum(2) / size
        slope = -(group_normed.repeat_interleave(per_group, 1)) * rstd_c * rstd_c
        offset = -group_grad.repeat_interleave(per_group, 1) * rstd_c - slope * mean_c
        shape = (batch, channels, *([1] * len(space)))
        grad_x = torch.addcmul(offset.to(x.dtype).reshape(shape), x, slope.to(x.dtype).reshape(shape))
        grad_x.addcmul_(grad, (gamma * rstd_c).to(x.dtype).reshape(shape))
        if weight is None:
            return grad_x, None, None, None, None
        return grad_x, normed_sum.sum(0), grad_sum.sum(0), None, None


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """`[N, C, ...]` -> the same shape; `weight` and `bias` are `[C]` or both None."""
    if x.dtype is torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled():
        normed: Tensor = _FastBackward.apply(x, weight, bias, groups, eps)  # type: ignore[no-untyped-call]
        return normed
    return F.group_norm(x, groups, weight, bias, eps)


class _Modulated(torch.autograd.Function):
    """GroupNorm without weights, times `scale + 1`, plus `shift`, of images whose channels lie last in memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float) -> Tensor:
        pixels = channels_last(x)  # [N, h*w, C]
        size = pixels.shape[1] * (pixels.shape[2] // groups)
        mean = in_groups(over_pixels(pixels), groups) / size  # [N, C]
        square = in_groups(over_pixels(pixels * pixels), groups) / size
        rstd = ((square - mean * mean).clamp_min_(0) + eps).rsqrt()
        gain = rstd * (1 + scale[:, :, 0, 0])
        out = torch.addcmul((shift[:, :, 0, 0] - mean * gain)[:, None], pixels, gain[:, None])
        ctx.save_for_backward(x, scale, mean, rstd, gain)
        ctx.groups, ctx.size = groups, size
        return channels_first(out, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, rstd, gain = ctx.saved_tensors
        pixels, grad = channels_last(x), channels_last(grads[0])
        grad_sum = over_pixels(grad)  # [N, C]
        normed_sum = (over_pixels(grad * pixels) - mean * grad_sum) * rstd  # sum of grad * normalised x
        share = (1 + scale[:, :, 0, 0]) / ctx.size
        slope = -in_groups(share * normed_sum, ctx.groups) * rstd * rstd
        offset = -in_groups(share * grad_sum, ctx.groups) * rstd - slope * mean
        grad_x = torch.addcmul(offset[:, None], pixels, slope[:, None]).addcmul_(grad, gain[:, None])
        return channels_first(grad_x, x), normed_sum[:, :, None, None], grad_sum[:, :, None, None], None, None


def channels_last(x: Tensor) -> Tensor:
    """`[N, C, h, w]` -> `[N, h*w, C]`, a view where channels lie last in memory."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2] * x.shape[3], x.shape[1])


def channels_first(pixels: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`channels_last`, of the shape of `like`."""
    batch, channels, height, width = like.shape
    return pixels.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def over_pixels(pixels: Tensor) -> Tensor:
    """Sum of `[N, h*w, C]` over the pixels, `[N, C]`."""
    return pixels.sum(1)


def in_groups(values: Tensor, groups: int) -> Tensor:
    """Sum of `[N, C]` over the channels of each group, given to every one of them."""
    return values.reshape(len(values), groups, -1).sum(2).repeat_interleave(values.shape[1] // groups, 1)


def modulated_group_norm(x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, training: bool) -> Tensor:
    """`group_norm(x) (scale + 1) + shift` of `[N, C, h, w]`; `scale` and `shift` are `[N, C, 1, 1]`."""
    learns = training and torch.is_grad_enabled() and x.device.type == "cpu" and x.dtype is torch.float32
    if learns and x.is_contiguous(memory_format=torch.channels_last):
        normed: Tensor = _Modulated.apply(x, scale, shift, groups, eps)  # type: ignore[no-untyped-call]
        return normed
    return group_norm(x, groups, None, None, eps) * (scale + 1) + shift
