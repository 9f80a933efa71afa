"""Where training of the U-Nets starts: at the linear part of the answer.

The paper starts from a text-to-image model that already knows how to carry a latent from end to end. A small U-Net with
random weights spends most of its training on just that and never gets precise, so here the shortcuts carry every input
number through and the residual branches add nothing. Everything is trained from there; the architecture is untouched.

Keyframes: the answer starts as ``x``, which is the noise where all is noise.

Interpolation: the answer starts as if the clean frames were the linear interpolation of their keyframes. With a for
alpha-bar, x for the noised frames and d for what they differ from linear interpolation, that is
``v = d / sqrt(1 - a) - g x`` where ``g = (1 - sqrt(a)) / sqrt(1 - a)``. The first convolution makes d, and the last
norm brings it to size 1 at any noise level. The last residual block makes ``g x``: it carries x to its own last norm,
whose scale follows the time embedding and is fitted to g by least squares.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.interpolation_unet import UntextedInterpolationUNet
from export.keyframe_unet import KeyframeUNet
from export.layers import AttentionBlock, GroupConv, ResNetBlock
from export.unet import UNetBody

KEYS, MIDDLE = 4, 12
"""Channels of one keyframe, and of the frames between; the interpolation input is left, middle, right."""

CONSTANT = 8.0
"""Two constants of this size in a group of the last norm, far above the signal, make its scale all but fixed."""

HINGES = 12
"""So many numbers of the time embedding rise one after another: what follows time is a sum of them."""


@torch.no_grad()
def start_keyframes(unet: KeyframeUNet) -> None:
    """Set the weights in place: v = 0.6 x, near the best multiple at most levels for latents of power 0.2 to 0.4.

    Raises ValueError where the widths cannot hold 2 x 2 input cells.
    """
    body = unet.body
    signals, per_group = body.in_conv.in_channels, body.out_norm.num_channels // body.groups
    if per_group < 4 or body.groups < signals:
        raise ValueError(f"wanted {signals} groups of 4 or more, got {body.groups} of {per_group}")
    carry(body, signals)
    pass_through(body.in_conv, signals)
    rows = {signal: signal * per_group for signal in range(signals)}
    lead_out(body, rows, range(signals))
    for signal, row in rows.items():
        read(body, signal, row, 0.6)


@torch.no_grad()
def start_interpolation(model: UntextedInterpolationUNet, alpha_bar: Tensor, power: float) -> None:
    """Set the weights in place: v of linearly interpolated frames.

    ``alpha_bar`` ``[1000]`` is the schedule, ``power`` the mean square of a latent. Raises ValueError as above.
    """
    body = model.unet.body
    carry(body, 2 * KEYS + MIDDLE)
    pass_through(body.in_conv, 2 * KEYS + MIDDLE)
    for index in range(MIDDLE):
        for signal, share in ends_of(index):
            body.in_conv.weight[KEYS + index, signal, 1, 1] = -share
    noised = [[(KEYS + index, 1.0), *ends_of(index)] for index in range(MIDDLE)]  # d and the linear part
    lead_out_velocity(model, range(KEYS, KEYS + MIDDLE), noised, alpha_bar, power)


@torch.no_grad()
def start_masked(model: UntextedInterpolationUNet, alpha_bar: Tensor, power: float) -> None:
    """The same for masked interpolation, whose input is, frame by frame, x 4, given 4 and mask 1.

    The four convolutions over time in the first residual block hand the given frames on, a frame at a time and both
    ways, and add up the share that each has on its way: the linear part at every missing frame, a given one as it is.
    """
    body = model.unet.body
    delta = 2 * KEYS + 1
    carry(body, delta + KEYS)
    pass_through(body.in_conv, delta)
    clear(body.in_conv, range(delta, 32))
    given = [16 + 8 * (channel // 2) + 2 * (channel % 2) for channel in range(KEYS)]  # two in a group with constants
    for channel, row in enumerate(given):
        body.in_conv.weight[delta + channel, channel, 1, 1] = 1
        body.in_conv.weight[row, KEYS + channel, 1, 1] = 1
        body.in_conv.weight[row + 1, KEYS + channel, 1, 1] = -1
    first = body.down[0].pairs[0].resnet_in
    constants = torch.tensor([22, 23, 30, 31])
    body.in_conv.bias[constants] = CONSTANT * torch.tensor([1.0, -1.0, 1.0, -1.0])
    for conv in (first.shortcut, first.blocks[0].conv):
        conv.weight[:, constants] = 0
    first.blocks[0].norm.linear.bias[16:32] = CONSTANT / 2 - 1  # a group of 8 with two constants: what is in it stays

    right, left, total = (narrow_rows(3 * KEYS)[at : at + KEYS] for at in (0, KEYS, 2 * KEYS))
    for hop, block in enumerate(first.blocks):
        width = block.norm.linear.out_features // 2
        if hop > 0:
            block.norm.linear.bias[:30] = 0.4 * CONSTANT - 1  # a group of 5 with one constant: what is in it stays
            block.norm.linear.bias[width : width + 30] = CONSTANT / 5
        share = 1 - hop / 4
        if hop == 3:
            for channel in range(KEYS):
                row = delta + channel
                clear(block.conv, [row])
                for source, part in ((total, 1.0), (right, share), (left, share)):
                    block.conv.weight[row, source[channel], 0, 0] = -part
                    block.conv.weight[row, source[channel] + 1, 0, 0] = part
            block.group_conv.merge.zero_()
            continue
        clear(block.conv, range(30))
        block.conv.bias[4:30:5] = CONSTANT
        for channel in range(KEYS):
            for wave in (right, left):
                hand_on(block.conv, (given if hop == 0 else wave)[channel], wave[channel], 1.0)
                if hop > 0:
                    hand_on(block.conv, wave[channel], total[channel], share)
            hand_on(block.conv, (given if hop == 0 else total)[channel], total[channel], 1.0)
        shift(block.group_conv, {0: right, 1: total, 2: left})
    lead_out_velocity(model, range(delta, delta + KEYS), [[(c, 1.0)] for c in range(KEYS)], alpha_bar, power)


def lead_out_velocity(
    model: UntextedInterpolationUNet, deltas: range, noised: list[list[tuple[int, float]]], alpha_bar: Tensor,
    power: float,
) -> None:  # fmt: skip
    """Read ``v = d / sqrt(1 - a) - g x`` at the end: the signals of d, and what sum of signals each x is."""
    body, count = model.unet.body, len(deltas)
    enter, leave = body.up[-1].pairs[0].resnet_out, body.up[-1].pairs[-1].resnet_out
    widths = (enter.blocks[-1].conv.out_channels, leave.blocks[0].conv.out_channels, body.out_norm.num_channels)
    if body.groups != 8 or widths != (80, 40, 64):
        raise ValueError(f"wanted 8 groups and a last level of (80, 40, 64) channels, got {body.groups} and {widths}")
    lead_out(body, {signal: 2 * index for index, signal in enumerate(deltas)}, range(3, 3 + -(-count // 3)))
    gated = [24 + 8 * (index // 3) + 2 * (index % 3) for index in range(count)]  # g x: three in a group with constants
    for index, row in enumerate(gated):
        clear(leave.shortcut, [row, row + 1])
        read(body, index, 2 * index, 1.0)
        read(body, index, row, -1.0)
    whole = [20 + 10 * (index // 4) + 2 * (index % 4) for index in range(count)]  # x: four in a group of 10
    clear(enter.shortcut, range(20, 20 + 10 * -(-count // 4)))
    for row, signals in zip(whole, noised, strict=True):
        for signal, share in signals:
            enter.shortcut.weight[row, signal] = share
            enter.shortcut.weight[row + 1, signal] = -share
    narrow = narrow_rows(count)
    filled = 5 * -(-count // 2)
    for block, before, after in zip(leave.blocks, (whole, narrow, narrow, narrow), (*[narrow] * 3, gated), strict=True):
        block.group_conv.merge.zero_()
        clear(block.conv, range(64) if after is gated else range(filled))
        for source, row in zip(before, after, strict=True):
            hand_on(block.conv, source, row, 1.0)
    size = (alpha_bar * power + 1 - alpha_bar).sqrt()  # of x; 4 channels of 5 are not 0
    gate = (1 - alpha_bar.sqrt()) / (1 - alpha_bar).sqrt() * size * 0.8**0.5
    follow_time(model, leave.blocks[-1].norm.linear, filled, gate)


def narrow_rows(count: int) -> list[int]:
    """Rows of pairs inside a residual block: two in a group of 5, whose last channel is free."""
    return [5 * (index // 2) + 2 * (index % 2) for index in range(count)]


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


def hand_on(conv: nn.Conv2d, source: int, row: int, share: float) -> None:
    """Add a share of the pair +s, -s behind a SiLU to the pair at ``row``, since silu(s) - silu(-s) = s."""
    middle = conv.kernel_size[0] // 2
    conv.weight[row : row + 2, source : source + 2, middle, middle] += torch.tensor([[share, -share], [-share, share]])


def shift(group_conv: GroupConv, taps: dict[int, list[int]]) -> None:
    """Pairs at these rows come from the frame before (0), the same (1) or the next (2); constants stay."""
    group_conv.merge.fill_(1)
    group_conv.conv.weight[:30] = 0
    group_conv.conv.bias[:30] = 0
    group_conv.conv.bias[4:30:5] = CONSTANT
    for tap, rows in taps.items():
        for row in [place for first in rows for place in (first, first + 1)]:
            group_conv.conv.weight[row, row, tap, 0] = 1


def lead_out(body: UNetBody, rows: dict[int, int], fixed: range) -> None:
    """Each signal enters the last norm as the pair +s, -s at its row.

    The groups ``fixed`` end in two constants that keep what is in them at its own size.
    """
    shortcut, per_group = body.up[-1].pairs[-1].resnet_out.shortcut, body.out_norm.num_channels // body.groups
    if shortcut is None:  # as many channels as before: an identity to write into
        raise ValueError("wanted a U-Net whose last block changes its width")
    for signal, row in rows.items():
        clear(shortcut, [row, row + 1])
        shortcut.weight[row, signal], shortcut.weight[row + 1, signal] = 1, -1
    for group in fixed:
        last = (group + 1) * per_group
        clear(shortcut, [last - 2, last - 1])
        shortcut.bias[last - 2], shortcut.bias[last - 1] = CONSTANT, -CONSTANT
        body.out_norm.weight[last - per_group : last] = CONSTANT * (2 / per_group) ** 0.5
    clear(body.out_conv, range(body.out_conv.out_channels))


def read(body: UNetBody, out: int, row: int, share: float) -> None:
    """Add a share of the signal at ``row`` to channel ``out``."""
    body.out_conv.weight[out, row, 1, 1] = share
    body.out_conv.weight[out, row + 1, 1, 1] = -share


def follow_time(model: UntextedInterpolationUNet, linear: nn.Linear, channels: int, wanted: Tensor) -> None:
    """The first channels of a conditional norm are scaled by ``wanted`` ``[1000]`` at each time."""
    model.unet.perturbation_merge.zero_()  # as released: both join the time embedding in training
    model.unet.skip_merge.zero_()
    rise_in_turn(model)
    times = torch.arange(len(wanted), dtype=torch.float32)
    context, mask = model.null_context(len(times))
    embedding = F.silu(model.unet.text_pooling(model.unet.time_embed(times), context, mask))
    features = torch.cat((embedding, torch.ones(len(times), 1)), dim=1).double()
    ridge = 1e-4 * len(times) * torch.eye(features.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(features.T @ features + ridge, features.T @ (wanted.double() - 1)).float()
    linear.weight[:channels], linear.bias[:channels] = solved[:-1], solved[-1]


def rise_in_turn(model: UntextedInterpolationUNet) -> None:
    """The first numbers of the time embedding are silu(8 (t / 1000 - c)), c from -0.3 to 1; text does not move them."""
    time_embed, slope = model.unet.time_embed, 8.0
    slowest = time_embed.sinusoids // 2 - 1  # sin(t / 10000), a straight line
    clear_rows(time_embed.linear1, HINGES)
    time_embed.linear1.weight[:HINGES, slowest] = 10 * slope
    time_embed.linear1.bias[:HINGES] = -slope * torch.linspace(-0.3, 1, HINGES)
    clear_rows(time_embed.linear2, HINGES)
    time_embed.linear2.weight[range(HINGES), range(HINGES)] = 1
    model.unet.text_pooling.attention.output.weight[:HINGES] = 0


def clear_rows(linear: nn.Linear, rows: int) -> None:
    """The first numbers out are zero."""
    linear.weight[:rows] = 0
    linear.bias[:rows] = 0
