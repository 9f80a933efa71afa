"""Where training of the interpolation U-Net starts: near linear interpolation of the two keyframes.

The paper starts from a text-to-image model that already knows how to carry a latent from end to end. A small U-Net with
random weights spends most of its training on just that, so here the shortcuts are set to carry every number through and
the residual branches to add nothing. With a for alpha-bar and d for what the noised frames differ from linear
interpolation, v = (sqrt(a) d - (1 - sqrt(a)) linear) / sqrt(1 - a). The first convolution makes d, the last norm brings
it to size 1 at any noise level, and the last convolution reads ``d / rms(d) - linear``: what is left to learn is when to
trust which half, and all that is not linear. Everything is trained from there; the architecture is untouched.
"""

from __future__ import annotations

import torch
from torch import nn

from export.interpolation_unet import InterpolationUNet
from export.layers import AttentionBlock, ResNetBlock

KEYS, MIDDLE = 4, 12
"""Channels of one keyframe, and of the frames between; the input is left, middle, right."""

CONSTANT = 8.0
"""Two constants of this size in a group of the last norm, far above the signal, make its scale all but fixed."""


@torch.no_grad()
def start_linear(unet: InterpolationUNet) -> None:
    """Set the weights in place. Raises ValueError where the widths cannot hold all inputs of 2 x 2 cells."""
    body = unet.body
    signals = 2 * KEYS + MIDDLE
    first_down, last_up = body.down[0], body.up[-1]
    width = first_down.pairs[-1].resnet_out.shortcut_down.out_channels
    per_group = body.out_norm.num_channels // body.groups
    if width < 4 * signals or per_group != 2 * KEYS or body.groups < 6:
        raise ValueError(f"wanted width >= {4 * signals} and 6 groups of {2 * KEYS}, got {width} and {per_group}")
    for module in unet.modules():
        if isinstance(module, ResNetBlock):
            silence(module.blocks[-1].conv)
        if isinstance(module, AttentionBlock):
            nn.init.zeros_(module.attention.output.weight)
            nn.init.zeros_(module.feed_forward.conv2.weight)
    pass_through(body.in_conv, signals)
    for index in range(MIDDLE):
        for signal, share in ends_of(index):
            body.in_conv.weight[KEYS + index, signal, 1, 1] = -share
    for pair in [*first_down.pairs, *last_up.pairs]:
        for block in (pair.resnet_in, pair.resnet_out):
            if block.shortcut is not None:
                pass_through(block.shortcut, signals)
    down = first_down.pairs[-1].resnet_out.shortcut_down
    up = last_up.pairs[0].resnet_in.shortcut_up
    silence(down)
    up.weight[:, :signals] = 0
    up.bias[:signals] = 0
    skip = up.in_channels - width  # the skip connection is the second half of the joined channels
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        for signal in range(signals):
            down.weight[place * signals + signal, signal, row, column] = 1
            up.weight[skip + place * signals + signal, signal, row, column] = 1
    read_out(unet, last_up.pairs[-1].resnet_out.shortcut, per_group)


def ends_of(index: int) -> list[tuple[int, float]]:
    """Input channels of the two keyframes that middle channel ``index`` lies between, and their linear shares."""
    frame, channel = divmod(index, KEYS)
    share = (frame + 1) / (MIDDLE // KEYS + 1)
    return [(channel, 1 - share), (KEYS + MIDDLE + channel, share)]


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


def read_out(unet: InterpolationUNet, shortcut: nn.Conv2d, per_group: int) -> None:
    """Each signal enters the last norm as +s and -s and leaves SiLU whole, since silu(s) - silu(-s) = s.

    d fills the first three groups, a frame each; the keyframes share the next three with constants that keep their
    size.
    """
    body = unet.body
    rows = {KEYS + index: 2 * index for index in range(MIDDLE)}
    for place, signal in enumerate([*range(KEYS), *range(KEYS + MIDDLE, 2 * KEYS + MIDDLE)]):
        rows[signal] = 2 * MIDDLE + (place // 3) * per_group + 2 * (place % 3)
    used = 2 * MIDDLE + 3 * per_group
    shortcut.weight[:used] = 0
    shortcut.bias[:used] = 0
    for signal, row in rows.items():
        shortcut.weight[row, signal], shortcut.weight[row + 1, signal] = 1, -1
    for last in range(2 * MIDDLE + per_group, used + 1, per_group):
        shortcut.bias[last - 2], shortcut.bias[last - 1] = CONSTANT, -CONSTANT
    body.out_norm.weight[2 * MIDDLE : used] = CONSTANT * (2 / per_group) ** 0.5
    silence(body.out_conv)
    for index in range(MIDDLE):
        for signal, share in [(KEYS + index, 1.0), *((end, -part) for end, part in ends_of(index))]:
            body.out_conv.weight[index, rows[signal], 1, 1] = share
            body.out_conv.weight[index, rows[signal] + 1, 1, 1] = -share
