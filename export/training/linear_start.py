"""Where training of the U-Nets starts: at the linear part of the answer.

The paper starts from a text-to-image model that already knows how to carry a latent from end to end. A small U-Net with
random weights spends most of its training on just that and never gets precise, so here the shortcuts carry every input
number through and the residual branches add nothing. Everything is trained from there; the architecture is untouched.

Keyframes: the answer starts as a multiple of ``x``, which is the noise where all is noise. Interpolation:
`export.training.interpolation_start`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from export.errors import ConfigError
from export.models.keyframes import KeyframeUNet
from export.models.layers import AttentionBlock, ResNetBlock
from export.models.unet import UNetBody

CONSTANT = 8.0
"""Constants of this size in a group of a norm, far above the signal, keep what else is in the group at its own size."""


@torch.no_grad()
def start_keyframes(unet: KeyframeUNet) -> None:
    """Set the weights in place: v = 0.6 x, near the best multiple at most levels for latents of power 0.2 to 0.4.

    Raises ValueError where the widths cannot hold 2 x 2 input cells.
    """
    body = unet.body
    signals, per_group = body.in_conv.in_channels, body.out_norm.num_channels // body.groups
    if per_group < 4 or body.groups < signals:
        raise ConfigError(f"wanted {signals} groups of 4 or more, got {body.groups} of {per_group}")
    carry(body, signals)
    pass_through(body.in_conv, signals)
    rows = {signal: signal * per_group for signal in range(signals)}
    lead_out(body, rows, range(signals))
    for signal, row in rows.items():
        read(body, signal, row, 0.6)


def carry(body: UNetBody, signals: int) -> None:
    """The first channels of every shortcut are the first channels in, through the first halving and back."""
    first_down, last_up = body.down[0], body.up[-1]
    down = first_down.pairs[-1].resnet_out.shortcut_down
    up = last_up.pairs[0].resnet_in.shortcut_up
    width = down.out_channels
    if width < 4 * signals:
        raise ConfigError(f"wanted {4 * signals} or more channels after the first halving, got {width}")
    for module in body.modules():
        if isinstance(module, ResNetBlock):
            clear(module.blocks[-1].conv, range(module.blocks[-1].conv.out_channels))
        if isinstance(module, AttentionBlock):
            nn.init.zeros_(module.attention.output.weight)
            nn.init.zeros_(module.feed_forward.conv2.weight)
    for pair in [*first_down.pairs, *last_up.pairs]:
        for block in (pair.resnet_in, pair.resnet_out):
            if block.shortcut is not None:
                pass_through(block.shortcut, signals)
    clear(down, range(4 * signals))
    up.weight[:, :signals] = 0
    up.bias[:signals] = 0
    skip = up.in_channels - width  # the skip connection is the second half of the joined channels
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        for signal in range(signals):
            down.weight[place * signals + signal, signal, row, column] = 1
            up.weight[skip + place * signals + signal, signal, row, column] = 1


def clear(conv: nn.Conv2d, rows: Iterable[int]) -> None:
    """These channels out are zero."""
    chosen = list(rows)
    conv.weight[chosen] = 0
    if conv.bias is not None:
        conv.bias[chosen] = 0


def pass_through(conv: nn.Conv2d, signals: int) -> None:
    """The first channels out are the first channels in; the others keep their random weights."""
    middle = conv.kernel_size[0] // 2
    clear(conv, range(signals))
    for signal in range(signals):
        conv.weight[signal, signal, middle, middle] = 1


def lead_out(body: UNetBody, rows: dict[int, int], fixed: range) -> None:
    """Each signal enters the last norm as the pair +s, -s at its row.

    The groups ``fixed`` end in two constants that keep what is in them at its own size.
    """
    shortcut, per_group = body.up[-1].pairs[-1].resnet_out.shortcut, body.out_norm.num_channels // body.groups
    if shortcut is None:  # as many channels as before: an identity to write into
        raise ConfigError("wanted a U-Net whose last block changes its width")
    for group in fixed:
        last = (group + 1) * per_group
        clear(shortcut, range(last - per_group, last))
        shortcut.bias[last - 2], shortcut.bias[last - 1] = CONSTANT, -CONSTANT
        body.out_norm.weight[last - per_group : last] = CONSTANT * (2 / per_group) ** 0.5
    for signal, row in rows.items():
        shortcut.weight[row, signal], shortcut.weight[row + 1, signal] = 1, -1
    clear(body.out_conv, range(body.out_conv.out_channels))


def read(body: UNetBody, out: int, row: int, share: float) -> None:
    """Add a share of the signal at ``row`` to channel ``out``."""
    body.out_conv.weight[out, row, 1, 1] = share
    body.out_conv.weight[out, row + 1, 1, 1] = -share
