"""One table: a call, the error it raises, the words its message holds. No graph runs before the request is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ffrt import Bundle, Context, FfrtError, Pipeline, ProviderError, RequestError

P = "a red circle"
LATENTS = np.zeros((3, 4, 4, 4), np.float32)
FRAMES = np.zeros((2, 32, 32, 3), np.uint8)
CONTEXT = Context(np.zeros((1, 2, 4), np.float32), np.ones((1, 2), bool), np.zeros(4, np.float32))

CALLS: dict[str, tuple[Callable[[Pipeline], Any], type[Exception], list[str]]] = {
    "no prompt": (lambda p: p(""), RequestError, ["prompt: expected a sentence", "empty"]),
    "blank prompt": (lambda p: p(" \n\t"), RequestError, ["prompt", "empty"]),
    "None prompt": (lambda p: p(None), RequestError, ["prompt", "str", "NoneType"]),
    "bytes prompt": (lambda p: p(b"red"), RequestError, ["prompt", "str", "bytes"]),
    "list prompt": (lambda p: p([P]), RequestError, ["prompt", "str", "list"]),
    "endless prompt": (lambda p: p("a" * 10_001), RequestError, ["prompt", "10000 characters", "10001"]),
    "broken text": (lambda p: p("red \ud800"), RequestError, ["prompt", "UTF-8", "\\ud800"]),
    "blank negative": (lambda p: p(P, negative_prompt=" "), RequestError, ["negative_prompt", "empty"]),
    "number negative": (lambda p: p(P, negative_prompt=3), RequestError, ["negative_prompt", "int"]),
    "fps": (lambda p: p(P, fps=24), RequestError, ["fps: expected one of [2, 8, 30]", "24"]),
    "fps text": (lambda p: p(P, fps="8"), RequestError, ["fps", "'8'"]),
    "fps float": (lambda p: p(P, fps=8.0), RequestError, ["fps", "8.0"]),
    "height": (lambda p: p(P, height=40), RequestError, ["height", "multiple of 16", "40", "32 and 48"]),
    "width": (lambda p: p(P, width=-32), RequestError, ["width", "from 16 to 4096", "-32"]),
    "zero width": (lambda p: p(P, width=0), RequestError, ["width", "from 16", "got 0"]),
    "huge height": (lambda p: p(P, height=1 << 30), RequestError, ["height", "to 4096"]),
    "float height": (lambda p: p(P, height=32.0), RequestError, ["height", "32.0"]),
    "true height": (lambda p: p(P, height=True), RequestError, ["height", "True"]),
    "no steps": (lambda p: p(P, num_inference_steps=0), RequestError, ["num_inference_steps", "1 to 1000", "got 0"]),
    "minus steps": (lambda p: p(P, num_inference_steps=-5), RequestError, ["num_inference_steps", "-5"]),
    "many steps": (lambda p: p(P, num_inference_steps=1001), RequestError, ["num_inference_steps", "1001"]),
    "float steps": (lambda p: p(P, num_inference_steps=5.0), RequestError, ["num_inference_steps", "5.0"]),
    "true steps": (lambda p: p(P, num_inference_steps=True), RequestError, ["num_inference_steps", "True"]),
    "guidance": (lambda p: p(P, guidance_scale=-1), RequestError, ["guidance_scale", "from 0", "-1"]),
    "nan guidance": (lambda p: p(P, guidance_scale=float("nan")), RequestError, ["guidance_scale", "nan"]),
    "inf guidance": (lambda p: p(P, guidance_scale=float("inf")), RequestError, ["guidance_scale", "inf"]),
    "vast guidance": (lambda p: p(P, guidance_scale=10**400), RequestError, ["guidance_scale", "1329 bits"]),
    "text guidance": (lambda p: p(P, guidance_scale="2"), RequestError, ["guidance_scale", "'2'"]),
    "true guidance": (lambda p: p(P, guidance_scale=True), RequestError, ["guidance_scale", "True"]),
    "pass guidance": (
        lambda p: p(P, interpolation_guidance_scale=-0.5),
        RequestError,
        ["interpolation_guidance_scale", "-0.5"],
    ),
    "minus seed": (lambda p: p(P, seed=-1), RequestError, ["seed", "0 to 9223372036854775807", "-1"]),
    "big seed": (lambda p: p(P, seed=2**63), RequestError, ["seed", "9223372036854775808"]),
    "vast seed": (lambda p: p(P, seed=10**5000), RequestError, ["seed", "bits"]),
    "float seed": (lambda p: p(P, seed=1.0), RequestError, ["seed", "1.0"]),
    "None seed": (lambda p: p(P, seed=None), RequestError, ["seed", "None"]),
    "sampler": (lambda p: p(P, sampler="euler"), RequestError, ["sampler", "'ddim'", "'euler'"]),
    "sampler list": (lambda p: p(P, sampler=["ddim"]), RequestError, ["sampler", "list"]),
    "misspelt": (lambda p: p(P, guidence_scale=1), TypeError, ["guidence_scale"]),
    "positional": (lambda p: p(P, "blue"), TypeError, ["positional"]),
    "cache interval": (lambda p: p(P, cache_interval=0), RequestError, ["cache_interval", "1 to 1000", "got 0"]),
    "unknown preset": (lambda p: p(P, preset=3), RequestError, ["preset", "'fast'", "got 3"]),
    "stage steps": (lambda p: p.keyframes(CONTEXT, num_inference_steps=0), RequestError, ["num_inference_steps", "0"]),
    "stage sampler": (lambda p: p.keyframes(CONTEXT, sampler="euler"), RequestError, ["sampler", "'euler'"]),
    "generate checks at once": (lambda p: p.generate(P, fps=24), RequestError, ["fps", "24"]),
    "encode": (lambda p: p.encode(""), RequestError, ["prompt", "empty"]),
    "encode negative": (lambda p: p.encode(P, " "), RequestError, ["negative_prompt", "empty"]),
    "keyframes context": (lambda p: p.keyframes(P), RequestError, ["context", "pipe.encode(prompt)", "str"]),
    "keyframes mask": (
        lambda p: p.keyframes(replace(CONTEXT, mask=np.ones((1, 3), bool))),
        RequestError,
        ["context: expected mask bool [1, 2], got bool [1, 3]"],
    ),
    "keyframes rows": (
        lambda p: p.keyframes(replace(CONTEXT, context=np.zeros((2, 2, 4), np.float32))),
        RequestError,
        ["context: expected rows float32 [1, L, D], got float32 [2, 2, 4]"],
    ),
    "frame noise": (
        lambda p: p.keyframes(CONTEXT, frame_noise=np.zeros((4, 4, 4), np.float32)),
        RequestError,
        ["frame_noise: expected None", "of text alone"],
    ),
    "graph": (lambda p: p.graph("unet"), RequestError, ["name: expected one of ['", "'text_encoder'", "got 'unet'"]),
    "keyframes seed": (lambda p: p.keyframes(CONTEXT, seed=-1), RequestError, ["seed", "-1"]),
    "noise type": (lambda p: p.keyframes(CONTEXT, noise=[0]), RequestError, ["noise", "float32", "list"]),
    "noise shape": (
        lambda p: p.keyframes(CONTEXT, noise=np.zeros((4, 3, 4, 4, 5), np.float32)),
        RequestError,
        ["noise", "[at least 4, 3, 4, 4, 4]", "[4, 3, 4, 4, 5]"],
    ),
    "noise too short": (
        lambda p: p.keyframes(CONTEXT, noise=np.zeros((3, 3, 4, 4, 4), np.float32)),
        RequestError,
        ["noise", "at least 4", "[3, 3, 4, 4, 4]"],
    ),
    "noise dtype": (
        lambda p: p.interpolate(LATENTS, fps=8, noise=np.zeros((4, 2, 12, 4, 4))),
        RequestError,
        ["noise", "float64"],
    ),
    "pass fps": (lambda p: p.interpolate(LATENTS, fps=2), RequestError, ["fps", "[8, 30]", "got 2"]),
    "one keyframe": (
        lambda p: p.interpolate(LATENTS[:1], fps=8),
        RequestError,
        ["latents", "at least 2", "[1, 4, 4, 4]"],
    ),
    "latent dtype": (lambda p: p.interpolate(LATENTS.astype(float), fps=8), RequestError, ["latents", "float64"]),
    "latent size": (
        lambda p: p.interpolate(np.zeros((3, 4, 3, 4), np.float32), fps=8),
        RequestError,
        ["height of the latents", "16 and 32", "24"],
    ),
    "decode channels": (lambda p: p.decode(LATENTS[:, :3], 8), RequestError, ["latents", "4, h, w", "[3, 3, 4, 4]"]),
    "decode nothing": (lambda p: p.decode(LATENTS[:0], 8), RequestError, ["latents", "at least 1"]),
    "decode fps": (lambda p: p.decode(LATENTS, 0), RequestError, ["fps", "1 to 240"]),
    "frames dtype": (lambda p: p.encode_frames(FRAMES.astype(float)), RequestError, ["frames", "uint8", "float64"]),
    "frames list": (lambda p: p.encode_frames([1]), RequestError, ["frames", "list"]),
    "no frames": (lambda p: p.encode_frames(FRAMES[:0]), RequestError, ["frames", "none"]),
    "frames size": (lambda p: p.encode_frames(FRAMES[:, :20]), RequestError, ["height", "16 and 32", "20"]),
    "provider": (lambda p: Pipeline(p.bundle, provider="gpu"), ProviderError, ["'cpu'", "'gpu'"]),
    "memory": (lambda p: Pipeline(p.bundle, memory="tiny"), RequestError, ["memory", "'low'", "'tiny'"]),
    "picture": (lambda p: p("a circle", image="x.png"), RequestError, ["image", "of text alone", "'x.png'", "1.1"]),
    "motion": (lambda p: p("a circle", motion="high"), RequestError, ["motion", "of text alone", "'high'"]),
    "no threads": (lambda p: Pipeline(p.bundle, threads=0), RequestError, ["threads", "1 to 256", "got 0"]),
}


@pytest.mark.parametrize("case", CALLS)
def test_bad_input_is_refused_before_anything_runs(tiny: Bundle, case: str) -> None:
    call, kind, words = CALLS[case]
    pipe = Pipeline(tiny, provider="cpu", threads=1)
    with pytest.raises(kind) as caught:
        call(pipe)
    for word in words:
        assert word in str(caught.value)
    assert kind is TypeError or isinstance(caught.value, FfrtError)
    assert pipe.open_graphs == ()
