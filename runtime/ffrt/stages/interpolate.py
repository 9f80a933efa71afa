"""Keyframes -> the frames between them, T -> 4T-3.

Group interpolation (paper section 3.3), and the masked interpolation that it is measured against (section 10; Blattmann
et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ffrt.backend.session import Session
from ffrt.bundle import InterpolationConfig, InterpolationPass
from ffrt.checks import describe
from ffrt.errors import RequestError
from ffrt.sampling import Array, Denoised, Sampling, guidance_weights
from ffrt.stages.denoising import DeviceNetwork, Network, Prompt, denoise_network
from ffrt.stages.model_input import ModelInput, with_guidance

MIDDLE = 3
"""Frames that one pass puts between two neighbours."""

WINDOW_GROUPS = 16
HALO_GROUPS = 2
"""Window size in groups, and the minimum number on each side that serve only as context.

Layers over time cross groups, so a cut is felt. A halo of 2 groups keeps the relative RMS of the new latents of the
demo near 5e-4 of what all groups at once give (`tests/runtime/stages/test_windows.py` holds it below 1e-3)."""

Method = Literal["group", "masked", "masked_sequence"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How the frames of a pass share forward passes of the network: three between two keyframes; windows of five, two of
them given; or all frames, old and new, in one."""

GRAPHS: dict[Method, str] = {
    "group": "interpolation_unet",
    "masked": "masked_interpolation_unet",
    "masked_sequence": "masked_interpolation_unet",
}


def method_of(value: object, graphs: Collection[str]) -> Method:
    """A method whose graph the bundle has."""
    if not isinstance(value, str) or value not in METHODS:
        raise RequestError(f"method: expected one of {list(METHODS)}, got {describe(value)}")
    if GRAPHS[value] not in graphs:
        has = [method for method in METHODS if GRAPHS[method] in graphs]
        raise RequestError(f"method: {value!r} needs the graph {GRAPHS[value]}; this bundle has what {has} needs")
    return value


def windows(groups: int, window: int | None, halo: int) -> list[tuple[slice, slice]]:
    """How `groups` are seen `window` at a time: pairs (groups that the network sees, those of them it predicts for).

    All windows have the same size and lie evenly; every group but those at the ends has at least `halo` neighbours on
    either side in its window. None, or no more groups than that, is one window of all.
    Raises RequestError unless `window` is more than twice the `halo`.
    """
    if window is not None and not 0 <= 2 * halo < window:
        raise RequestError(f"window: expected more than 2 halos of {halo} groups, got {window}")
    if window is None or groups <= window:
        return [(slice(0, groups), slice(0, groups))]
    count = -(-(groups - 2 * halo) // (window - 2 * halo))
    starts = [i * (groups - window) // (count - 1) for i in range(count)]
    edges = [(before + window + after) // 2 for before, after in pairwise(starts)]
    cores = zip([0, *edges], [*edges, groups], strict=True)
    return [(slice(start, start + window), slice(*core)) for start, core in zip(starts, cores, strict=True)]


def noise_shape(method: Method, latents: tuple[int, ...]) -> tuple[int, int, int, int]:
    """What is denoised for latents of shape [T, 4, h, w]: [items, frames * 4, h, w], frame slower than channel.

    "group": T-1 times three frames; "masked": T-1 times five; "masked_sequence": once all 4T-3.
    """
    count, channels, h, w = latents
    intervals = count - 1
    items, frames = {
        "group": (intervals, MIDDLE),
        "masked": (intervals, MIDDLE + 2),
        "masked_sequence": (1, (MIDDLE + 1) * intervals + 1),
    }[method]
    return items, frames * channels, h, w


def merge(method: Method, latents: Array, x: Array) -> Array:
    """Latents [T, 4, h, w] and what was denoised (`noise_shape`) -> [4T-3, 4, h, w]; the given frames stay."""
    frame, intervals = latents.shape[1:], len(latents) - 1
    frames = x.reshape(len(x), -1, *frame)
    if method == "masked_sequence":
        inner = frames[0, :-1].reshape(intervals, MIDDLE + 1, *frame)[:, 1:]
    else:
        inner = frames if method == "group" else frames[:, 1:-1]
    starts = np.concatenate([latents[:-1, None], inner], axis=1).reshape(-1, *frame)  # [4G, 4, h, w]
    return np.concatenate([starts, latents[-1:]])


def interpolation_steps(
    network: Network | DeviceNetwork,
    config: InterpolationConfig,
    one_pass: InterpolationPass,
    latents: Array,
    noise: Iterator[Array],
    sampling: Sampling,
    *,
    method: Method = "group",
    prompt: Prompt | None = None,
    window: int | None = WINDOW_GROUPS,
    halo: int = HALO_GROUPS,
    update: Session | None = None,
    keep_rows: bool = False,
) -> Generator[Denoised, None, Array]:
    """Denoise the frames between latents [T, 4, h, w]; returns [4T-3, 4, h, w].

    `noise` yields float32 of `noise_shape`, which is also the shape of every yield. The unconditional row, left out
    with guidance 0, sees zeros in place of the given frames. `prompt` is for a network that reads text: context
    [2, L, D] and mask [2, L]; its unconditional row then runs without its temporal layers, as released in 1.1.

    "group" sees at most `window` groups at a time (`windows`; None: all), stitched in every step, so that memory does
    not grow with the video. `update` as in `ffrt.stages.denoising.denoise_network`, and `keep_rows` as in
    `ffrt.stages.model_input.with_guidance`.
    """
    look = partial(_inputs, method, latents, one_pass.skip_frames, prompt, window, halo)
    inputs = with_guidance(sampling, guidance_weights(sampling.guidance_scale), look, keep_rows)
    x = yield from denoise_network(network, update, inputs, noise, config, sampling)
    return merge(method, latents, x)


def _inputs(
    method: Method,
    latents: Array,
    skip_frames: int,
    prompt: Prompt | None,
    window: int | None,
    halo: int,
    rows: NDArray[np.intp],
    weights: NDArray[np.float32],
) -> list[ModelInput]:
    """What the network sees in turn, for these `rows` of guidance and their weights."""
    items = noise_shape(method, latents.shape)[0]
    cut = windows(items, window, halo) if method == "group" else [(slice(0, items), slice(0, items))]
    inputs = []
    for seen, core in cut:
        frames = latents[seen.start : seen.stop + 1] if method == "group" else latents
        one = window_input(method, frames, skip_frames, prompt, rows, weights)
        inner = slice(core.start - seen.start, core.stop - seen.start)
        whole = len(cut) == 1 and len(one.before) == len(rows) * items
        inputs.append(one if whole else replace(one, items=seen, core=inner))
    return inputs


def window_input(
    method: Method,
    latents: Array,
    skip_frames: int,
    prompt: Prompt | None,
    rows: NDArray[np.intp],
    weights: NDArray[np.float32],
) -> ModelInput:
    """What the network sees of the given latents [n, 4, h, w] of a window, for these `rows` of guidance."""
    given = np.stack([latents, np.zeros_like(latents)])[rows]  # [B, n, 4, h, w]
    text: dict[str, NDArray[np.generic]] = {}
    if prompt is not None:
        context, mask = prompt
        text = {
            "context": context[rows],
            "context_mask": mask[rows],
            "temporal_mask": np.array([1, 0], np.float32)[rows],
        }
    before, after, times, count = condition(method, given)
    return ModelInput(weights, before, after, partial(_conditioning, times, count, skip_frames, text))


def _conditioning(
    times: int, frames: int, skip_frames: int, text: Mapping[str, NDArray[Any]], time: float
) -> dict[str, NDArray[Any]]:
    """The inputs of an interpolation network besides `x`, for `times` rows of `frames` items each."""
    return {
        "time": np.full(times, time, np.float32),
        "skip_frames": np.full(frames, skip_frames, np.int64),
        "perturbation": np.zeros(frames, np.float32),
        **text,
    }


Feed = Callable[[Array, float], dict[str, NDArray[np.generic]]]
"""What is denoised, for B rows [B*items, frames*4, h, w], and the time -> the inputs of the graph."""


def graph_feed(method: Method, given: Array, skip_frames: int) -> Feed:
    """How the network of `method` is fed one denoising step after the other.

    `given` float32 [B, T, 4, h, w] are the known frames of B rows: clips, or the two rows of guidance.
    """
    before, after, times, frames = condition(method, given)

    def feed(x: Array, time: float) -> dict[str, NDArray[np.generic]]:
        seen = x.reshape(len(before), -1, *given.shape[3:])
        return {
            "x": np.concatenate([before, seen, after], axis=1),
            **_conditioning(times, frames, skip_frames, {}, time),
        }

    return feed


def condition(method: Method, given: Array) -> tuple[Array, Array, int, int]:
    """What the network of `method` sees before and after the noised channels, for how many rows and items a row."""
    if method == "group":
        (before, after), times = _group_condition(given), len(given)
    elif method == "masked":
        (before, after), times = _masked_condition(np.stack([given[:, :-1], given[:, 1:]], axis=2))
    else:
        (before, after), times = _masked_condition(given[:, None])
    return before, after, times, len(before) // times


def _group_condition(given: Array) -> tuple[Array, Array]:
    """Left and right keyframe of every group, each [B*G, 4, h, w]."""
    left, right = (ends.reshape(-1, *given.shape[2:]) for ends in (given[:, :-1], given[:, 1:]))
    return left, right


def _masked_condition(known: Array) -> tuple[tuple[Array, Array], int]:
    """Nothing before, and after what is noised the given frame or zeros, and the mask: [B*W*F, 5, h, w].

    `known` [B, W, n, 4, h, w] are the given frames of every window; a window has F = 4n-3 frames.
    """
    rows, windows, count, channels, h, w = known.shape
    frames = (MIDDLE + 1) * (count - 1) + 1
    condition = np.zeros((rows, windows, frames, channels + 1, h, w), np.float32)
    condition[:, :, :: MIDDLE + 1, :channels] = known
    condition[:, :, :: MIDDLE + 1, channels] = 1
    condition = condition.reshape(-1, channels + 1, h, w)
    return (condition[:, :0], condition), rows * windows
