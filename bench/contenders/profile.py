"""A stage of `ffrt` under watch: the share of its loop outside the graphs, its operators and its FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.contenders.ours import Ours
from bench.contenders.work import Inputs, Scale, Stage, opened, runner
from bench.harness.profile import host_share, kernels, shares, step_flops
from ffrt import Bundle

WATCHED_STEPS = 4


def host_overhead(ours: Ours, stage: Stage, scale: Scale, inputs: Inputs, row: int, runs: int) -> float:
    """Share of the denoising loop of a stage that is not inside its graphs: sampler, guidance, inputs, checks."""
    return host_share(runner(ours, stage, scale, inputs, row), runs)


def operators(
    bundle: Bundle, threads: int | None, provider: str, stage: Stage, scale: Scale, inputs: Inputs
) -> list[dict[str, Any]]:
    """A stage's kernel time by operator."""
    run = repeated(stage, scale, inputs, WATCHED_STEPS)
    return shares(kernels(partial(watched, bundle, provider, threads, run), optimised=True))


def flops(bundle: Bundle, threads: int | None, stage: Stage, scale: Scale, inputs: Inputs) -> int:
    """The FLOPs of one step, frame or prompt, counted on the CPU."""
    run = repeated(stage, scale, inputs, 2)
    counted = kernels(partial(watched, bundle, "cpu", threads, run), optimised=False)
    per = len(inputs.pictures) if stage == "decode_frame" else 1
    return step_flops(counted, 2) // per


def watched(bundle: Bundle, provider: str, threads: int | None, run: Callable[[Ours], None]) -> None:
    """Open `ffrt`, run something of it, and drop it."""
    run(Ours(bundle, provider, threads))


def repeated(stage: Stage, scale: Scale, inputs: Inputs, count: int) -> Callable[[Ours], None]:
    """`count` steps of a stage, or as many times its frames or its prompt."""

    def run(ours: Ours) -> None:
        if stage in ("decode_frame", "text"):
            for _ in range(count):
                runner(ours, stage, scale, inputs, 1)()
            return
        steps = opened(ours, stage, scale, inputs)
        for _ in range(count):
            next(steps)
        steps.close()

    return run
