"""Interpolation starts as if the clean frames were the linear interpolation of their keyframes.

With a for alpha-bar, x for the noised frames and d for what they differ from linear interpolation, that is
``v = d / sqrt(1 - a) - g x`` where ``g = (1 - sqrt(a)) / sqrt(1 - a)``. The first convolution makes d (in the masked
network, which must fetch the keyframes from other frames, the first residual block). The last two residual blocks make
the two terms: each carries its signal to norms whose scale follows the time embedding. Every norm on the way holds
constants beside the signal, so that the signal keeps its size: sampling may leave the noise levels of training, and d,
were it made to a usual size, would carry the error of one step into the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.errors import ConfigError
from export.models.interpolation import UntextedInterpolationUNet
from export.models.layers import Block, ConditionalGroupNorm, GroupConv, ResNetBlock
from export.training.linear_start import (
    CONSTANT,
    bias_of,
    blocks_of,
    carry,
    clear,
    lead_out,
    pairs_of,
    pass_through,
    read,
    shortcut_of,
)

KEYS, MIDDLE = 4, 12
"""Channels of one keyframe, and of the frames between; the interpolation input is left, middle, right."""

HINGES = 12
"""So many numbers of the time embedding rise one after another: what follows time is a sum of them."""

FINEST = 12
"""Below this time index nothing grows any more."""


@torch.no_grad()
def start_interpolation(model: UntextedInterpolationUNet, alpha_bar: Tensor, power: float) -> None:
    """Set the weights in place: v of linearly interpolated frames.

    ``alpha_bar`` ``[1000]`` is the schedule, ``power`` the mean square of a latent. Raises ConfigError where the widths
    are other than those the places are counted for.
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
    first = pairs_of(body.down[0])[0].resnet_in
    blocks = blocks_of(first)
    constants = torch.tensor([22, 23, 30, 31])
    bias_of(body.in_conv)[constants] = CONSTANT * torch.tensor([1.0, -1.0, 1.0, -1.0])
    for conv in (shortcut_of(first), blocks[0].conv):
        conv.weight[:, constants] = 0
    always = F.one_hot(torch.tensor(model.unet.time_embed.linear2.out_features)).float()
    hold(blocks[0].norm, slice(16, 32), 2, always * (1 + 2 * power / CONSTANT**2) ** 0.5, always)

    right, left, total = (narrow_rows(3 * KEYS)[at : at + KEYS] for at in (0, KEYS, 2 * KEYS))
    for hop, block in enumerate(blocks):
        if hop > 0:
            hold(block.norm, slice(30), 1, always * (1 + 5 * power / CONSTANT**2) ** 0.5, always)
        share = 1 - hop / 4
        if hop == 3:
            for channel in range(KEYS):
                for source, part in ((total, 1.0), (right, share), (left, share)):
                    add(block.conv, source[channel], delta + channel, -part)
            group_conv_of(block).merge.zero_()
            continue
        clear(block.conv, range(30))
        bias_of(block.conv)[4:30:5] = CONSTANT
        for channel in range(KEYS):
            for wave in (right, left):
                hand_on(block.conv, (given if hop == 0 else wave)[channel], wave[channel], 1.0)
                if hop > 0:
                    hand_on(block.conv, wave[channel], total[channel], share)
            hand_on(block.conv, (given if hop == 0 else total)[channel], total[channel], 1.0)
        shift(group_conv_of(block), {0: right, 1: total, 2: left})
    lead_out_velocity(model, range(delta, delta + KEYS), [[(c, 1.0)] for c in range(KEYS)], alpha_bar, power)


def lead_out_velocity(
    model: UntextedInterpolationUNet,
    deltas: range,
    noised: list[list[tuple[int, float]]],
    alpha_bar: Tensor,
    power: float,
) -> None:
    """Make ``v = d / sqrt(1 - a) - g x`` at the end: the signals of d, and what sum of signals each x is."""
    body, count = model.unet.body, len(deltas)
    pairs = pairs_of(body.up[-1])
    enter, middle, leave = pairs[0].resnet_out, pairs[-1].resnet_in, pairs[-1].resnet_out
    middle_end, leave_end = blocks_of(middle)[-1].conv, blocks_of(leave)[-1].conv
    widths = (
        blocks_of(enter)[-1].conv.out_channels,
        blocks_of(leave)[0].conv.out_channels,
        body.out_norm.num_channels,
    )
    if body.groups != 8 or widths != (80, 40, 64):
        raise ConfigError(f"wanted 8 groups and a last level of (80, 40, 64) channels, got {body.groups} and {widths}")
    seen = embeddings(model)
    noise = (1 - alpha_bar).sqrt()
    size = alpha_bar * power + 1 - alpha_bar  # mean square of x
    out = [8 * (index // 2) + 2 * (index % 2) for index in range(count)]  # two in a group of 8 with two constants
    lead_out(body, dict(zip(deltas, out, strict=True)), range(-(-count // 2)))
    last = (1 + 2 / CONSTANT**2) ** 0.5  # what v, of mean square 1, takes of itself in the last norm

    clear(shortcut_of(enter), deltas)  # d goes on as pairs alone
    growth = noise.clamp_min(float(noise[FINEST])) ** -0.25  # by four norms in turn
    spread(enter, 50, [[(signal, 1.0)] for signal in deltas])
    lead_through(middle, 50, count, seen, noise.square(), [growth * last**0.25] * 4)
    for source, row in zip(narrow_rows(count), deltas, strict=True):
        add(middle_end, source, row, 1.0)

    ones = torch.ones_like(noise)
    spread(enter, 20, noised)
    lead_through(leave, 20, count, seen, size, [ones, ones, ones, last * (1 - alpha_bar.sqrt()) / noise])
    for index, (source, row) in enumerate(zip(narrow_rows(count), out, strict=True)):
        hand_on(leave_end, source, row, -1.0)
        read(body, index, row, 1.0)


def spread(block: ResNetBlock, first: int, sums: Sequence[Sequence[tuple[int, float]]]) -> None:
    """The shortcut gives sums of signals as pairs from row ``first`` on, four in a group of 10 with two constants."""
    rows = range(first, first + 10 * -(-len(sums) // 4))
    shortcut = shortcut_of(block)
    bias = bias_of(shortcut)
    clear(shortcut, rows)
    for end in rows[9::10]:
        bias[end - 1], bias[end] = CONSTANT, -CONSTANT
    for row, signals in zip(wide_rows(first, len(sums)), sums, strict=True):
        for signal, share in signals:
            shortcut.weight[row, signal] = share
            shortcut.weight[row + 1, signal] = -share


def lead_through(
    block: ResNetBlock, first: int, count: int, seen: Tensor, power: Tensor, factors: Sequence[Tensor]
) -> None:
    """Pairs that were spread from row ``first`` on come to `narrow_rows` behind the last norm.

    Each norm multiplies them by its factor ``[1000]``; they enter the first with mean square ``power`` ``[1000]``.
    """
    wide, narrow = wide_rows(first, count), narrow_rows(count)
    filled = 5 * -(-count // 2)
    for index, (one, factor) in enumerate(zip(blocks_of(block), factors, strict=True)):
        held, constants = (slice(first, first + 10 * -(-count // 4)), 2) if index == 0 else (slice(filled), 1)
        own = (1 + (4 if index == 0 else 5) * power / CONSTANT**2).sqrt()  # what they take of themselves in the norm
        hold(one.norm, held, constants, following(seen, factor * own), following(seen, factor))
        power = power * factor.square()
        group_conv_of(one).merge.zero_()
        if index == 3:  # what the last convolution, which `carry` has cleared, makes of them is the caller's
            continue
        clear(one.conv, range(filled))
        bias_of(one.conv)[4:filled:5] = CONSTANT
        for source, row in zip(wide if index == 0 else narrow, narrow, strict=True):
            hand_on(one.conv, source, row, 1.0)


def group_conv_of(block: Block) -> GroupConv:
    """The convolution over groups of a block of an interpolation network."""
    if block.group_conv is None:
        raise ConfigError("wanted a block with a convolution over groups")
    return block.group_conv


def hold(norm: ConditionalGroupNorm, rows: slice, constants: int, scale: Tensor, shift: Tensor) -> None:
    """Let groups that end in one constant, or in two of opposite sign, pass the norm with their size times `scale`.

    `shift` puts back what the norm takes as their mean. Both are shares `[E + 1]` of the numbers of the time embedding
    and of 1.
    """
    linear, width = norm.linear, norm.linear.out_features // 2
    in_group = width // norm.groups
    mean = CONSTANT / in_group if constants == 1 else 0.0
    deviation = (constants * CONSTANT**2 / in_group - mean**2) ** 0.5
    start, stop, _ = rows.indices(width)
    for at, share, there in ((0, deviation * scale, 1.0), (width, mean * shift, 0.0)):  # scale + 1, then shift
        linear.weight[at + start : at + stop] = share[:-1]
        linear.bias[at + start : at + stop] = share[-1] - there


def wide_rows(first: int, count: int) -> list[int]:
    """Rows of pairs between residual blocks, from ``first`` on: four in a group of 10, before its two constants."""
    return [first + 10 * (index // 4) + 2 * (index % 4) for index in range(count)]


def narrow_rows(count: int) -> list[int]:
    """Rows of pairs inside a residual block: two in a group of 5, before its one constant."""
    return [5 * (index // 2) + 2 * (index % 2) for index in range(count)]


def ends_of(index: int) -> list[tuple[int, float]]:
    """Input channels of the two keyframes that middle channel ``index`` lies between, and their linear shares."""
    frame, channel = divmod(index, KEYS)
    share = (frame + 1) / (MIDDLE // KEYS + 1)
    return [(channel, 1 - share), (KEYS + MIDDLE + channel, share)]


def hand_on(conv: nn.Conv2d, source: int, row: int, share: float) -> None:
    """Add a share of the pair +s, -s behind a SiLU to the pair at ``row``, since silu(s) - silu(-s) = s."""
    add(conv, source, row, share)
    add(conv, source, row + 1, -share)


def shift(group_conv: GroupConv, taps: dict[int, list[int]]) -> None:
    """Pairs at these rows come from the frame before (0), the same (1) or the next (2); constants stay."""
    group_conv.merge.fill_(1)
    group_conv.conv.weight[:30] = 0
    bias_of(group_conv.conv)[:30] = 0
    bias_of(group_conv.conv)[4:30:5] = CONSTANT
    for tap, rows in taps.items():
        for row in [place for first in rows for place in (first, first + 1)]:
            group_conv.conv.weight[row, row, tap, 0] = 1


def add(conv: nn.Conv2d, source: int, row: int, share: float) -> None:
    """Add a share of what the pair +s, -s at ``source`` stands for to a single channel."""
    middle = conv.kernel_size[0] // 2
    conv.weight[row, source : source + 2, middle, middle] += torch.tensor([share, -share])


def embeddings(model: UntextedInterpolationUNet) -> Tensor:
    """What the norms see of each time, and 1, ``[1000, E + 1]``.

    The first numbers are silu(s (t / 1000 - c)) 8 / s, closest where little noise is left; text does not move them.
    """
    model.unet.perturbation_merge.zero_()  # as released: both join the time embedding in training
    model.unet.skip_merge.zero_()
    model.unet.text_pooling.attention.output.weight[:HINGES] = 0
    first, second = model.unet.time_embed.linear1, model.unet.time_embed.linear2
    places = 1.02 * (torch.arange(HINGES + 1) / (HINGES - 1)).square() - 0.02
    slopes = 2 / places.diff()
    first.weight[:HINGES] = 0
    first.weight[:HINGES, model.unet.time_embed.sinusoids // 2 - 1] = 10 * slopes  # sin(t / 10000), a straight line
    first.bias[:HINGES] = -slopes * places[:-1]
    second.weight[:HINGES] = 0
    second.weight[range(HINGES), range(HINGES)] = 8 / slopes
    second.bias[:HINGES] = 0
    times = torch.arange(1000, dtype=torch.float32)
    context, mask = model.null_context(len(times))
    embedding = F.silu(model.unet.text_pooling(model.unet.time_embed(times), context, mask))
    return torch.cat((embedding, torch.ones(len(times), 1)), dim=1)


def following(seen: Tensor, wanted: Tensor) -> Tensor:
    """The shares ``[E + 1]`` whose sum is nearest to ``wanted`` ``[1000]`` at all times."""
    features = seen.double()
    ridge = 1e-6 * len(features) * torch.eye(features.shape[1], dtype=torch.float64)
    shares: Tensor = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted.double())
    return shares.float()
