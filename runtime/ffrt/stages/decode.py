"""Latents <-> frames: the MoVQ decoder and encoder, run in chunks so that memory does not grow with the video."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ffrt.checks import describe
from ffrt.errors import RequestError
from ffrt.stages.denoising import Network

CHUNK_FRAMES = 4
MAX_SIDE_PX = 4096


def check_side(name: str, size: object, multiple: int) -> int:
    """A legal height or width in pixels; raises RequestError with the nearest legal values for any other `size`."""
    limit = MAX_SIDE_PX // multiple * multiple
    if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or not multiple <= size <= limit:
        raise RequestError(
            f"{name}: expected a multiple of {multiple} from {multiple} to {limit} pixels, got {describe(size)}"
        )
    size = operator.index(size)
    if size % multiple:
        below = size // multiple * multiple
        raise RequestError(
            f"{name}: expected a multiple of {multiple} pixels, got {size}; "
            f"the nearest are {below} and {below + multiple}"
        )
    return size


def clip_frames(count: int) -> int:
    """Clip length for the temporal decoder: the smallest that splits `count` frames into at most `count // 4` clips.

    As in the release; fewer than four frames are one clip.
    """
    return -(-count // max(1, count // CHUNK_FRAMES))


def in_chunks(pieces: Iterable[NDArray[np.float32]], chunk_frames: int) -> Iterator[NDArray[np.float32]]:
    """Latents that come in pieces [n, 4, h, w] of any n, as chunks of `chunk_frames`, the last one shorter.

    A chunk is given as soon as its last latent has come.
    """
    held: list[NDArray[np.float32]] = []
    count = 0
    for piece in pieces:
        start = 0
        while count + len(piece) - start >= chunk_frames:
            stop = start + chunk_frames - count
            yield np.concatenate([*held, piece[start:stop]])
            held, count, start = [], 0, stop
        if start < len(piece):
            held.append(piece[start:])
            count += len(piece) - start
    if held:
        yield np.concatenate(held)


def decode_chunks(
    graph: Network,
    latents: NDArray[np.float32] | Iterable[NDArray[np.float32]],
    chunk_frames: int = CHUNK_FRAMES,
    fill: bool = False,
) -> Iterator[NDArray[np.uint8]]:
    """Latents [N, 4, h, w], or pieces of them in order, -> uint8 frames [n, H, W, 3], `chunk_frames` at a time.

    With `fill`, for decoders that see frames one by one, the last of several chunks repeats its last latent up to the
    size of the others and drops the surplus frames, so that a GPU meets one shape.
    """
    pieces = [latents] if isinstance(latents, np.ndarray) else latents
    for index, chunk in enumerate(in_chunks(pieces, chunk_frames)):
        surplus = chunk_frames - len(chunk) if fill and index > 0 else 0
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], surplus, axis=0)])
        yield to_frames(graph({"latent": filled})["image"][: len(chunk)])


def to_frames(image: NDArray[np.float32], rounded: bool = True) -> NDArray[np.uint8]:
    """Image [n, 3, H, W] in -1..1 -> uint8 [n, H, W, 3], rounded to the nearest level or cut to the one below."""
    levels = np.clip((image + 1) * np.float32(0.5), 0, 1) * np.float32(255)
    if rounded:
        levels = np.rint(levels)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))


def to_image(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 frames [n, H, W, 3] -> image float32 [n, 3, H, W] in -1..1."""
    image = frames.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(2 / 255) - 1
    return np.ascontiguousarray(image)


def check_frames(frames: object, multiple: int) -> None:
    """Raise RequestError unless `frames` is uint8 [N, H, W, 3] with N >= 1 and legal sides."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        got = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise RequestError(f"frames: expected a uint8 array [N, H, W, 3], got {got}")
    if len(frames) == 0:
        raise RequestError("frames: expected at least one frame, got none")
    check_side("height", frames.shape[1], multiple)
    check_side("width", frames.shape[2], multiple)


def encode_image(graph: Network, frames: NDArray[np.uint8], chunk_frames: int = CHUNK_FRAMES) -> NDArray[np.float32]:
    """uint8 frames [N, H, W, 3] -> latents float32 [N, 4, h, w]."""
    chunks = range(0, len(frames), chunk_frames)
    return np.concatenate([graph({"image": to_image(frames[i : i + chunk_frames])})["latent"] for i in chunks])
