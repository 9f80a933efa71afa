"""Where training of the interpolation U-Net starts: at the linear part of the answer.

The paper starts from a text-to-image model that already knows how to carry a latent from end to end. A small U-Net with
random weights spends most of its training on just that and never gets precise, so here the shortcuts carry every input
number through and the residual branches add nothing. Everything is trained from there; the architecture is untouched.

With a for alpha-bar and d for what the noised frames differ from linear interpolation of the keyframes,
``v = (sqrt(a) d - (1 - sqrt(a)) linear) / sqrt(1 - a)``. The first convolution makes d, the last norm brings it to size
1 at any noise level, and the last convolution reads ``d / rms(d) - linear``: what is left to learn is when to trust
which half, and all that is not linear.
"""

from __future__ import annotations

import torch
from torch import nn

from export.interpolation_unet import InterpolationUNet
from export.layers import AttentionBlock, ResNetBlock
from export.unet import UNetBody

KEYS, MIDDLE = 4, 12
"""Channels of one keyframe, and of the frames between; the interpolation input is left, middle, right."""

CONSTANT = 8.0
"""Two constants of this size in a group of the last norm, far above the signal, make its scale all but fixed."""


@torch.no_grad()
def start_interpolation(unet: InterpolationUNet) -> None:
    """Set the weights in place: v = d / rms(d) - linear. Raises ValueError where the widths are too small for it."""
    body = unet.body
    per_group = body.out_norm.num_channels // body.groups
    if per_group != 2 * KEYS or body.groups < 6:
        raise ValueError(f"wanted 6 or more groups of {2 * KEYS}, got {body.groups} of {per_group}")
    carry(body, 2 * KEYS + MIDDLE)
    for index in range(MIDDLE):
        for signal, share in ends_of(index):
            body.in_conv.weight[KEYS + index, signal, 1, 1] = -share
    rows = {KEYS + index: 2 * index for index in range(MIDDLE)}  # d: three groups, a frame each
    for place, signal in enumerate([*range(KEYS), *range(KEYS + MIDDLE, 2 * KEYS + MIDDLE)]):
        rows[signal] = 2 * MIDDLE + (place // 3) * per_group + 2 * (place % 3)  # keyframes: three with constants
    read_out(body, rows, range(3, 6), per_group)
    for index in range(MIDDLE):
        for signal, share in [(KEYS + index, 1.0), *((end, -part) for end, part in ends_of(index))]:
            read(body, index, rows[signal], share)


def ends_of(index: int) -> list[tuple[int, float]]:
    """Input channels of the two keyframes that middle channel ``index`` lies between, and their linear shares."""
    frame, channel = divmod(index, KEYS)
    share = (frame + 1) / (MIDDLE // KEYS + 1)
    return [(channel, 1 - share), (KEYS + MIDDLE + channel, share)]


def carry(body: UNetBody, signals: int) -> None:
    """The first channels of every shortcut are the first channels in, through the first halving and back."""
    first_down, last_up = body.down[0], body.up[-1]
    down = first_down.pairs[-1].resnet_out.shortcut_down
    up = last_up.pairs[0].resnet_in.shortcut_up
    width = down.out_channels
    if width < 4 * signals:
        raise ValueError(f"wanted {4 * signals} or more channels after the first halving, got {width}")
    for module in body.modules():
        if isinstance(module, ResNetBlock):
            silence(module.blocks[-1].conv)
        if isinstance(module, AttentionBlock):
            nn.init.zeros_(module.attention.output.weight)
            nn.init.zeros_(module.feed_forward.conv2.weight)
    pass_through(body.in_conv, signals)
    for pair in [*first_down.pairs, *last_up.pairs]:
        for block in (pair.resnet_in, pair.resnet_out):
            if block.shortcut is not None:
                pass_through(block.shortcut, signals)
    down.weight[: 4 * signals] = 0
    down.bias[: 4 * signals] = 0
    up.weight[:, :signals] = 0
    up.bias[:signals] = 0
    skip = up.in_channels - width  # the skip connection is the second half of the joined channels
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        for signal in range(signals):
            down.weight[place * signals + signal, signal, row, column] = 1
            up.weight[skip + place * signals + signal, signal, row, column] = 1


def silence(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def pass_through(conv: nn.Conv2d, signals: int) -> None:
    """The first channels out are the first channels in; the others keep their random weights."""
    middle = conv.kernel_size[0] // 2
    conv.weight[:signals] = 0
    if conv.bias is not None:
        conv.bias[:signals] = 0
    for signal in range(signals):
        conv.weight[signal, signal, middle, middle] = 1


def read_out(body: UNetBody, rows: dict[int, int], fixed: range, per_group: int) -> None:
    """Each signal enters the last norm as +s and -s at its row, to leave SiLU whole, since silu(s) - silu(-s) = s.

    The groups ``fixed`` end in two constants that keep their signals at their own size.
    """
    shortcut = body.up[-1].pairs[-1].resnet_out.shortcut
    if shortcut is None:  # as many channels as before: an identity to write into
        raise ValueError("wanted a U-Net whose last block changes its width")
    for signal, row in rows.items():
        shortcut.weight[row : row + 2] = 0
        shortcut.bias[row : row + 2] = 0
        shortcut.weight[row, signal], shortcut.weight[row + 1, signal] = 1, -1
    for group in fixed:
        last = (group + 1) * per_group
        shortcut.weight[last - 2 : last] = 0
        shortcut.bias[last - 2], shortcut.bias[last - 1] = CONSTANT, -CONSTANT
        body.out_norm.weight[last - per_group : last] = CONSTANT * (2 / per_group) ** 0.5
    silence(body.out_conv)


def read(body: UNetBody, out: int, row: int, share: float) -> None:
    """Add a share of the signal at ``row`` to channel ``out``."""
    body.out_conv.weight[out, row, 1, 1] = share
    body.out_conv.weight[out, row + 1, 1, 1] = -share
