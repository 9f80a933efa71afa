"""Keyframes -> the frames between, T -> 4T-3: group interpolation (paper section 3.3), and the masked interpolation
that it is measured against (section 10; Blattmann et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ffrt.bundle import InterpolationConfig, InterpolationPass
from ffrt.errors import RequestError
from ffrt.graph import Graph
from ffrt.sampler import Array, Denoised, denoise, guide_rows

MIDDLE = 3
"""Frames that one pass puts between two neighbours."""

Method = Literal["group", "masked", "masked_sequence"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How the frames of a pass share forward passes of the network: three between two keyframes; windows of five, two of
them given; or all frames, old and new, in one."""

Prompt = tuple[Array, NDArray[np.bool_]]
"""Text context [B, L, D] and its mask [B, L]."""

GRAPHS: dict[Method, str] = {
    "group": "interpolation_unet",
    "masked": "masked_interpolation_unet",
    "masked_sequence": "masked_interpolation_unet",
}


def method_of(value: object, graphs: Collection[str]) -> Method:
    """A way to interpolate for which the bundle has the graph."""
    if not isinstance(value, str) or value not in METHODS:
        raise RequestError(f"method: expected one of {list(METHODS)}, got {value!r:.200}")
    if GRAPHS[value] not in graphs:
        has = [method for method in METHODS if GRAPHS[method] in graphs]
        raise RequestError(f"method: {value!r} needs the graph {GRAPHS[value]}; this bundle has what {has} needs")
    return value


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
    graph: Graph,
    config: InterpolationConfig,
    one_pass: InterpolationPass,
    latents: Array,
    noise: Iterator[Array],
    *,
    method: Method,
    prompt: Prompt | None,
    num_inference_steps: int,
    guidance_scale: float,
    sampler: str,
) -> Generator[Denoised, None, Array]:
    """Denoise the frames between latents [T, 4, h, w], all of them in one batch; returns [4T-3, 4, h, w].

    `noise` yields float32 of `noise_shape`, which is also what every yield holds. The unconditional row, left out with
    guidance 0, sees zeros in place of the given frames. `prompt` is for a network that sees text: context [2, L, D] and
    mask [2, L], the conditional row first; the other row then runs without its temporal layers, as released in 1.1.
    """
    rows = 1 if guidance_scale == 0 else 2
    given = np.concatenate([latents[None], np.zeros_like(latents[None])][:rows])  # [B, T, 4, h, w]
    feed = graph_feed(method, given, one_pass.skip_frames)
    told: dict[str, NDArray[np.generic]] = {}
    if prompt is not None:
        context, mask = prompt
        told = {
            "context": context[:rows],
            "context_mask": mask[:rows],
            "temporal_mask": np.array([1, 0][:rows], np.float32),
        }

    def predict(x: Array, time: float) -> Array:
        prediction: Array = graph({**feed(np.concatenate([x] * rows), time), **told})["prediction"]
        return guide_rows(prediction.reshape(rows * len(x), *x.shape[1:]), guidance_scale)

    x = yield from denoise(predict, noise, config, steps=num_inference_steps, sampler=sampler)
    return merge(method, latents, x)


Feed = Callable[[Array, float], dict[str, NDArray[np.generic]]]
"""What is denoised, for B rows [B*items, frames*4, h, w], and the time -> the inputs of the graph."""


def graph_feed(method: Method, given: Array, skip_frames: int) -> Feed:
    """How the network of `method` is fed one denoising step after the other.

    `given` float32 [B, T, 4, h, w] are the known frames of B rows: clips, or the two rows of guidance.
    """
    if method == "group":
        condition, times = _group_condition(given), len(given)
    elif method == "masked":
        condition, times = _masked_condition(np.stack([given[:, :-1], given[:, 1:]], axis=2))
    else:
        condition, times = _masked_condition(given[:, None])
    before, after = condition
    frames = len(before) // times

    def feed(x: Array, time: float) -> dict[str, NDArray[np.generic]]:
        seen = x.reshape(len(before), -1, *given.shape[3:])
        return {
            "x": np.concatenate([before, seen, after], axis=1),
            "time": np.full(times, time, np.float32),
            "skip_frames": np.full(frames, skip_frames, np.int64),
            "perturbation": np.zeros(frames, np.float32),
        }

    return feed


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
