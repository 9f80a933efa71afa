"""One stage in this process: what it runs, what that is estimated to take, and what it took. For a fresh child."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ffrt import Bundle, Context, Pipeline
from ffrt.generation.needs import (
    TEXT,
    decoding_runs,
    encoding_runs,
    first_frame_runs,
    interpolation_runs,
    keyframe_runs,
    need_of_request,
)
from ffrt.generation.plan import first_frame_sampling, image_conditioning, sampling_of
from ffrt.memory.estimate import Run
from ffrt.memory.room import Need, wanted

PROMPT = "a red circle moves to the right"
FRAMES = 4
"""Frames that are encoded and decoded, one chunk, of a whole video too: further chunks take no more."""
TOKENS = 12
EVERY_S = 0.002


def measured(argument: Mapping[str, Any]) -> dict[str, Any]:
    """Run a stage; the estimate in bytes, and the peak of what no file backs, above that of the open pipeline.

    `argument`: `bundle` (folder), `context` (its channels), `stage`, `fps`, `height`, `width`, `memory`.
    """
    pipe = Pipeline.from_pretrained(Path(argument["bundle"]), provider="cpu", memory=argument["memory"])
    height, width = argument["height"], argument["width"]
    need = need_of(pipe.bundle, argument["stage"], argument["fps"], height, width)
    guess = wanted(pipe.bundle, need, argument["memory"])
    with watched() as peak:
        before = anonymous()
        call(pipe, argument["stage"], argument["fps"], height, width, argument["context"])()
    return {"process": guess.process, "taken": guess.taken, "anonymous": max(peak()) - before}


def need_of(bundle: Bundle, stage: str, fps: int, height: int, width: int) -> Need:
    """What the memory of a stage's call depends on, as the call itself has it."""
    config = bundle.keyframes
    keyframes = sampling_of(config, 1, None, None)
    between = sampling_of(bundle.interpolation, 1, None, None)
    image = image_conditioning(config, None, None, None)
    first = None if image is None else first_frame_sampling(config, keyframes)
    if stage == "generate":
        return need_of_request(bundle, height, width, fps, keyframes, between, image, first)
    runs: Mapping[str, Callable[[], tuple[Run, ...]]] = {
        "encode": lambda: (TEXT,),
        "encode_frames": lambda: encoding_runs(FRAMES),
        "first_frame": lambda: first_frame_runs(keyframes if first is None else first),
        "keyframes": lambda: keyframe_runs(bundle, keyframes, image),
        "interpolate": lambda: interpolation_runs(config.num_frames, bundle.video.latent_channels, between),
        "decode": lambda: decoding_runs(bundle, FRAMES),
    }
    return Need(stage, height, width, runs[stage]())


def call(pipe: Pipeline, stage: str, fps: int, height: int, width: int, context_width: int) -> Callable[[], object]:
    """The call of a stage, in one step, on random input."""
    bundle, rng = pipe.bundle, np.random.default_rng(0)
    side = (bundle.video.latent_channels, height // bundle.video.downscale, width // bundle.video.downscale)
    frames = np.zeros((FRAMES, height, width, 3), np.uint8)

    def latents(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.standard_normal((count, *side), dtype=np.float32)

    def context() -> Context:
        rows = rng.standard_normal((1, TOKENS, context_width), dtype=np.float32)
        return Context(rows, np.ones((1, TOKENS), np.bool_), rows[0, 0], interpolation_null_embedding=rows[0, 0])

    picture = frames[0] if bundle.family.follows_image else None
    calls: Mapping[str, Callable[[], object]] = {
        "encode": lambda: pipe.encode(PROMPT),
        "encode_frames": lambda: pipe.encode_frames(frames),
        "first_frame": lambda: pipe.first_frame(context(), num_inference_steps=1, height=height, width=width),
        "keyframes": lambda: pipe.keyframes(
            context(), image=picture, num_inference_steps=1, height=height, width=width
        ),
        "interpolate": lambda: pipe.interpolate(
            latents(bundle.keyframes.num_frames), context(), fps=bundle.rates[1], num_inference_steps=1
        ),
        "decode": lambda: list(pipe.decode(latents(FRAMES), 2)),
        "generate": lambda: list(
            islice(pipe(PROMPT, fps=fps, num_inference_steps=1, height=height, width=width), FRAMES)
        ),
    }
    return calls[stage]


def anonymous() -> int:
    """Bytes of this process that no file backs: what a container cannot take back."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))


@contextmanager
def watched() -> Iterator[Callable[[], list[int]]]:
    """A block whose `anonymous` memory is looked at every two milliseconds; what was seen."""
    seen, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_S):
            seen[0] = max(seen[0], anonymous())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: [seen[0], anonymous()]
    finally:
        done.set()
        thread.join()
