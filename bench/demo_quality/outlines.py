"""What happens to outlines, sizes and turns: of made clips, of rendered ones, and one step away from the truth.

Rendered clips say what the measure itself adds, encoded and decoded ones how good any sampler could be (the bound), and
the one-step table where in the noise a shape is decided: true latents are noised to a time, and one run of the network
estimates them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from bench.datasets.prompts import Case
from bench.datasets.shapes import clip_of, truth
from bench.demo_quality.latents import Codec
from bench.demo_quality.prompts import Generator, Sampling
from bench.harness.run import progress
from bench.metrics.base import Frames
from bench.metrics.figures import KINDS, Figures, as_record, figures, kind_of, summary
from bench.metrics.intervals import mean_interval
from ffrt.sampling.schedule import cosine_betas
from ffrt.stages.keyframes import temporal_positions

TIMES = (100, 200, 300, 400, 500, 650, 800, 950)
"""Time indices of the one-step table, of 1000."""
NOISE_SEED = 19


class Denoiser(Codec, Protocol):
    """The part of `ffrt.Pipeline` that runs one step."""

    @property
    def bundle(self) -> Any:
        """Says how many keyframes there are and where they stand."""

    def encode(self, prompt: str) -> Any:
        """What the network is told of a prompt."""

    def graph(self, name: str) -> Any:
        """The network itself."""


def measured(case: Case, frames: Frames) -> tuple[str, str, Figures]:
    """A clip against its prompt, as `bench.metrics.figures.summary` takes it."""
    return case.shape, case.action, figures(frames, case.shape, case.action)


def samples(pipe: Generator, wanted: Sequence[Case], sampling: Sampling) -> dict[str, Any]:
    """Figures of the keyframes of every prompt, and of each prompt by itself."""
    found = []
    for index in progress("outlines", len(wanted)):
        case = wanted[index]
        found.append(measured(case, pipe(case.prompt, fps=2, seed=case.seed, **asdict(sampling)).frames))
    clips = [
        {"prompt": case.prompt, "seed": case.seed, **as_record(one)}
        for case, (_, _, one) in zip(wanted, found, strict=True)
    ]
    return {**summary(found), "by_prompt": clips}


def bound(pipe: Codec, wanted: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Figures of rendered clips of the same words, as they are and through the autoencoder."""
    exact, coded = [], []
    for index in progress("rendered outlines", len(wanted)):
        frames = truth(clip_of(wanted[index]), 2)
        exact.append(measured(wanted[index], frames))
        coded.append(measured(wanted[index], pipe.decode(pipe.encode_frames(frames), 2).frames))
    return {"rendered": summary(exact), "encoded": summary(coded)}


def one_step(pipe: Denoiser, wanted: Sequence[Case], times: Sequence[int] = TIMES) -> list[dict[str, Any]]:
    """One row a time: error of v, of the latents by kind, and figures of the decoded estimates.

    Every clip is noised by the same draw at all times. Without guidance: what is measured is the network. A bundle of
    fewer keyframes sees the first of them.
    """
    alpha_bars = np.cumprod(1 - cosine_betas(1000))
    positions = temporal_positions(pipe.bundle.keyframes.num_frames, pipe.bundle.keyframes.position_range)
    errors: list[list[float]] = [[] for _ in times]
    latents_off: list[list[tuple[str, float]]] = [[] for _ in times]
    clips: list[list[tuple[str, str, Figures]]] = [[] for _ in times]
    for index in progress("one step", len(wanted)):
        case = wanted[index]
        clean = np.asarray(pipe.encode_frames(truth(clip_of(case), 2)[: len(positions)]), np.float32)
        noise = np.random.default_rng([NOISE_SEED, case.seed]).standard_normal(clean.shape, dtype=np.float32)
        context = pipe.encode(case.prompt)
        for row, time in enumerate(times):
            signal, rest = np.float32(alpha_bars[time] ** 0.5), np.float32((1 - alpha_bars[time]) ** 0.5)
            x = signal * clean + rest * noise
            fed = {
                "x": x,
                "time": np.array([time], np.float32),
                "context": context.context,
                "context_mask": context.mask,
                "temporal_positions": positions,
            }
            v = pipe.graph("keyframe_unet")(fed)["prediction"]
            estimate = signal * x - rest * v
            errors[row].append(float(np.mean((v - (signal * noise - rest * clean)) ** 2)))
            off = float(np.sqrt(np.mean((estimate - clean) ** 2)))
            latents_off[row].append((kind_of(case.shape, case.action), off))
            clips[row].append(measured(case, pipe.decode(estimate, 2).frames))
    return [
        {
            "time": time,
            "v_mse": mean_interval(errors[row]),
            "latent_rms": {
                kind: mean_interval([off for one, off in latents_off[row] if one == kind]) for kind in KINDS
            },
            **summary(clips[row]),
        }
        for row, time in enumerate(times)
    ]
