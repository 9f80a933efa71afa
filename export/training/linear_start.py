"""Where training of the U-Nets starts: at the linear part of the answer.

The paper starts from a text-to-image model that already knows how to carry a latent from end to end. A small U-Net with
random weights spends most of its training on just that and never gets precise, so here the shortcuts carry every input
number through and the residual branches add nothing. Everything is trained from there; the architecture is untouched.

Keyframes: the answer starts as a multiple of ``x``, which is the noise where all is noise. Interpolation: as nothing,
added to linear blending (`export.training.interpolation.start`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from export.errors import ConfigError
from export.models.keyframes import KeyframeUNet
from export.models.layers import AttentionBlock, Block, ResNetBlock
from export.models.unet import Level, Pair, UNetBody

CONSTANT = 8.0
"""Constants of this size in a group of a norm, far above the signal, keep what else is in the group at its own size."""

K = TypeVar("K", bound=nn.Module)


@torch.no_grad()
def start_keyframes(unet: KeyframeUNet) -> None:
    """Set the weights in place: v = 0.6 x, near the best multiple at most levels for latents of power 0.2 to 0.4.

    Raises ConfigError where the widths cannot hold 2 x 2 input cells.
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
    first_down, last_up = pairs_of(body.down[0]), pairs_of(body.up[-1])
    down = first_down[-1].resnet_out.shortcut_down
    up = last_up[0].resnet_in.shortcut_up
    if down is None or up is None:
        raise ConfigError("wanted a U-Net of two levels or more")
    width = down.out_channels
    if width < 4 * signals:
        raise ConfigError(f"wanted {4 * signals} or more channels after the first halving, got {width}")
    for module in body.modules():
        if isinstance(module, ResNetBlock):
            last = blocks_of(module)[-1].conv
            clear(last, range(last.out_channels))
        if isinstance(module, AttentionBlock):
            nn.init.zeros_(module.attention.output.weight)
            nn.init.zeros_(module.feed_forward.conv2.weight)
    for pair in [*first_down, *last_up]:
        for block in (pair.resnet_in, pair.resnet_out):
            if block.shortcut is not None:
                pass_through(block.shortcut, signals)
    clear(down, range(4 * signals))
    up.weight[:, :signals] = 0
    bias_of(up)[:signals] = 0
    skip = up.in_channels - width  # the skip connection is the second half of the joined channels
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        for signal in range(signals):
            down.weight[place * signals + signal, signal, row, column] = 1
            up.weight[skip + place * signals + signal, signal, row, column] = 1


def of_kind(kind: type[K], modules: Iterable[nn.Module]) -> list[K]:
    """The modules, all of which are of this class: PyTorch's lists do not say so."""
    found = list(modules)
    chosen = [module for module in found if isinstance(module, kind)]
    if len(chosen) != len(found):
        raise ConfigError(f"expected modules of {kind.__name__}, got {[type(module).__name__ for module in found]}")
    return chosen


def pairs_of(level: nn.Module) -> list[Pair]:
    """The pairs of residual blocks of a level."""
    return of_kind(Pair, of_kind(Level, [level])[0].pairs)


def blocks_of(block: ResNetBlock) -> list[Block]:
    """The four blocks of a residual block."""
    return of_kind(Block, block.blocks)


def shortcut_of(block: ResNetBlock) -> nn.Conv2d:
    """The convolution of its shortcut. Raises ConfigError where the shortcut is an identity."""
    if block.shortcut is None:
        raise ConfigError("wanted a residual block that changes its width, to write into its shortcut")
    return block.shortcut


def bias_of(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """The bias of a layer that has one."""
    if layer.bias is None:
        raise ConfigError("wanted a convolution with a bias")
    return layer.bias


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
    shortcut, per_group = shortcut_of(pairs_of(body.up[-1])[-1].resnet_out), body.out_norm.num_channels // body.groups
    bias = bias_of(shortcut)
    for group in fixed:
        last = (group + 1) * per_group
        clear(shortcut, range(last - per_group, last))
        bias[last - 2], bias[last - 1] = CONSTANT, -CONSTANT
        body.out_norm.weight[last - per_group : last] = CONSTANT * (2 / per_group) ** 0.5
    for signal, row in rows.items():
        shortcut.weight[row, signal], shortcut.weight[row + 1, signal] = 1, -1
    clear(body.out_conv, range(body.out_conv.out_channels))


def read(body: UNetBody, out: int, row: int, share: float) -> None:
    """Add a share of the signal at ``row`` to channel ``out``."""
    body.out_conv.weight[out, row, 1, 1] = share
    body.out_conv.weight[out, row + 1, 1, 1] = -share
