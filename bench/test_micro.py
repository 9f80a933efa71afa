"""Micro-benchmarks of the demo bundle: `pytest bench --benchmark-only`, apart from the tests, which assert no times.

Each is one step or one call at the size of the demo, noise and the sampler's arithmetic inside the timer where the
stage is measured whole, loading of the model outside. `FFRT_BENCH_BUNDLE` names another bundle, `FFRT_BENCH_THREADS`
the CPU threads.
"""

import os
from collections.abc import Callable
from itertools import repeat

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.harness.record import ROOT
from ffrt import Context, Pipeline, sampling
from ffrt.sampling import Array
from ffrt.stages.interpolate import GRAPHS, METHODS, Method

PROMPT = "a large purple square shrinking on a brown background"


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    """The bundle on the CPU; a graph is loaded by the first benchmark that runs it."""
    threads = os.environ.get("FFRT_BENCH_THREADS")
    bundle = os.environ.get("FFRT_BENCH_BUNDLE", str(ROOT / "graphs" / "demo"))
    return Pipeline.from_pretrained(bundle, provider="cpu", threads=None if threads is None else int(threads))


@pytest.fixture(scope="module")
def context(pipe: Pipeline) -> Context:
    """The conditioning of the keyframe network."""
    return pipe.encode(PROMPT)


def normal(pipe: Pipeline, channels: int) -> Array:
    """Normal float32 `[T, channels, h, w]`, T and the size of a latent as the bundle makes them."""
    video = pipe.bundle.video
    size = (video.height // video.downscale, video.width // video.downscale)
    rng = np.random.default_rng(0)
    return rng.standard_normal((pipe.bundle.keyframes.num_frames, channels, *size), dtype=np.float32)


@pytest.fixture(scope="module")
def keyframes(pipe: Pipeline) -> Array:
    """Latents `[T, 4, h, w]` of the size that the bundle makes."""
    return normal(pipe, pipe.bundle.video.latent_channels)


def test_text_encoding(benchmark: BenchmarkFixture, pipe: Pipeline) -> None:
    """Tokens and context of one prompt."""
    pipe.graph("text_encoder")
    benchmark(pipe.encode, PROMPT)


def test_keyframe_step(benchmark: BenchmarkFixture, pipe: Pipeline, context: Context) -> None:
    """One step of all T keyframes, with the bundle's guidance: two rows of the network unless it is 0."""
    pipe.graph("keyframe_unet")
    latents = benchmark(pipe.keyframes, context, num_inference_steps=1)
    assert len(latents) == pipe.bundle.keyframes.num_frames


@pytest.mark.parametrize("method", METHODS)
def test_interpolation_step(benchmark: BenchmarkFixture, pipe: Pipeline, keyframes: Array, method: Method) -> None:
    """One step of all 3 (T - 1) frames between the keyframes."""
    if GRAPHS[method] not in pipe.bundle.graphs:
        pytest.skip(f"this bundle has no graph {GRAPHS[method]}")
    pipe.graph(GRAPHS[method])
    fps = pipe.bundle.interpolation.passes[0].fps
    latents = benchmark(pipe.interpolate, keyframes, fps=fps, num_inference_steps=1, method=method)
    assert len(latents) == 4 * len(keyframes) - 3


def test_decoder(benchmark: BenchmarkFixture, pipe: Pipeline, keyframes: Array) -> None:
    """T latents to pictures."""
    pipe.graph("movq_decoder")
    frames = benchmark(lambda: pipe.decode(keyframes, fps=2).frames)
    assert len(frames) == len(keyframes)


ARITHMETIC: dict[str, Callable[[Array, Array], Array]] = {
    "dynamic_threshold": lambda x, other: sampling.dynamic_threshold(x, 0.98),
    "guide": lambda x, other: sampling.guide(x, other, 3.0),
    "normal_noise": lambda x, other: next(sampling.normal_noise(0, 0, x.shape)),
}


@pytest.mark.parametrize("stage", ["keyframes", "interpolation"])
@pytest.mark.parametrize("name", ARITHMETIC)
def test_sampler_arithmetic(benchmark: BenchmarkFixture, pipe: Pipeline, name: str, stage: str) -> None:
    """One function of the sampler on arrays of one step, `[T, 4, h, w]` or three frames in one, `[T-1, 12, h, w]`."""
    x = normal(pipe, pipe.bundle.video.latent_channels * {"keyframes": 1, "interpolation": 3}[stage])
    x = x if stage == "keyframes" else x[1:]
    assert benchmark(ARITHMETIC[name], x, x[::-1].copy()).shape == x.shape


@pytest.mark.parametrize("name", sampling.SOLVERS)
def test_sampler_loop(benchmark: BenchmarkFixture, pipe: Pipeline, keyframes: Array, name: str) -> None:
    """Ten steps of keyframes with a network that takes no time, and noise that is drawn already."""

    def run() -> sampling.Denoised:
        config = pipe.bundle.keyframes
        steps = sampling.denoise(lambda x, time: keyframes, repeat(keyframes), config, steps=10, sampler=name)
        return list(steps)[-1]

    assert benchmark(run).total == 10
