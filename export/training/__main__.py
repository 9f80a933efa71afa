"""Train the demo weights: ``python -m export.training STAGE``.

Stages, in order: ``movq`` and ``text``; then, once ``python -m export.training.latents`` has encoded the clips,
``image`` (spatial layers), ``keyframes`` (temporal blocks; ``--unfreeze`` trains everything), ``interpolation`` and
``masked_interpolation``, the baseline it is measured against.
Each may be stopped at any time (Ctrl-C) and goes on from its last checkpoint when the same command is given again; the
same command runs on a CPU or on CUDA. ``torchrun --nproc-per-node 2 -m export.training STAGE`` shares every step among
processes, each with a batch of its own: on a CPU, two processes of one thread are faster than one of two. When a stage
ends, its averaged weights are written as float16 safetensors into ``--weights``, where
``python -m export demo --weights`` finds them.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from export.checkpoints.weights import WEIGHTS, save_half
from export.training.interpolation import InterpolationStage, MaskedInterpolationStage
from export.training.keyframes import KeyframeStage, TextStage
from export.training.precision import half_precision
from export.training.stages import Folders, MoVQStage, Stage

EMA_DECAY = 0.998
WARMUP_STEPS = 100

STAGES: dict[str, Callable[[Folders, argparse.Namespace], Stage]] = {
    "movq": lambda folders, _: MoVQStage(folders),
    "text": lambda folders, _: TextStage(folders),
    "image": lambda folders, _: KeyframeStage(folders, video=False),
    "keyframes": lambda folders, args: KeyframeStage(folders, True, args.unfreeze, args.strides),
    "interpolation": lambda folders, _: InterpolationStage(folders),
    "masked_interpolation": lambda folders, _: MaskedInterpolationStage(folders),
}


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential moving average of the parameters, short at first."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, 1 - decay)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside and rename: a killed run keeps its last whole checkpoint."""
    beside = path.with_suffix(".writing")
    torch.save(state, beside)
    os.replace(beside, path)


def plot(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Curves of every recorded figure over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted({name for row in history for name in row} - {"step", "seconds"})
    figure, axes = pyplot.subplots(1, len(names), figsize=(4.2 * len(names), 3.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        points = [(row["step"], row[name]) for row in history if name in row]
        axis.plot([x for x, _ in points], [y for _, y in points], linewidth=1.2)
        axis.set_xlabel("step")
        axis.set_title(f"{title}: {name}", fontsize=9)
        axis.grid(alpha=0.3)
        if name == "loss":
            axis.set_yscale("log")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def progress(step: int, steps: int, seconds_per_step: float, figures: dict[str, float]) -> None:
    """One line; in a terminal it is rewritten in place."""
    eta = (steps - step) * seconds_per_step
    shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
    bar = "#" * int(24 * step / steps)
    line = f"[{bar:<24}] {step}/{steps}  {seconds_per_step:.2f} s/step  ETA {eta / 60:.1f} min  {shown}"
    print(line, file=sys.stderr, end="\r" if sys.stderr.isatty() else "\n", flush=True)


def share_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients over all processes, in one message."""
    if not distributed.is_initialized():
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads]) / distributed.get_world_size()
    distributed.all_reduce(flat)
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def train(stage: Stage, args: argparse.Namespace) -> None:
    """Run one stage from its last checkpoint to ``args.steps``."""
    device = torch.device(args.device)
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    model = stage.model.to(device)
    if device.type == "cpu":
        model = model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    checkpoint = args.run / f"{stage.name}.pt"
    history: list[dict[str, float]] = []
    start, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        history, start, spent = state["history"], state["step"], state["seconds"]
        print(f"{stage.name}: going on from step {start}", file=sys.stderr)

    def keep(step: int) -> None:
        if rank > 0:
            return
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": history,
            "step": step,
            "seconds": spent,
        }
        save_checkpoint(checkpoint, state)

    running, tick = 0.0, time.perf_counter()
    step = start
    try:
        for step in range(start, args.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.steps, args.lr)
            rng = np.random.default_rng([args.seed, step, rank])
            torch.manual_seed(args.seed * 1_000_003 + step + rank * 500_009)
            with half_precision(device.type, enabled=not args.full_precision):
                loss: Tensor = stage.loss(model, rng, args.batch, device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            share_gradients(trained)
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            update_average(average, model, step)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise SystemExit(f"{stage.name}: the loss is {value} at step {step}; try a smaller --lr")
            running = value if step == start else 0.98 * running + 0.02 * value
            now = time.perf_counter()
            spent, tick = spent + now - tick, now
            if rank == 0 and ((step + 1) % args.log_every == 0 or step + 1 == args.steps):
                row = {"step": step + 1, "seconds": round(spent, 1), "loss": running}
                if (step + 1) % (args.log_every * 5) == 0 or step + 1 == args.steps:
                    row |= stage.measure(average, device)
                history.append(row)
                progress(step + 1, args.steps, spent / (step + 1), {k: v for k, v in row.items() if k != "step"})
            if (step + 1) % args.save_every == 0:
                keep(step + 1)
        keep(args.steps)
    except KeyboardInterrupt:
        keep(step)
        print(f"\nstopped at step {step}; give the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
    if rank > 0:
        return
    for name, module in stage.exported(average).items():
        save_half(module.state_dict(), args.weights / f"{name}.safetensors")
    (args.weights / f"{stage.name}.json").write_text(
        json.dumps(
            {"steps": args.steps, "batch": args.batch, "lr": args.lr, "seconds": round(spent), "history": history}
        )
    )
    plot(history, args.weights / f"{stage.name}.png", stage.name)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m export.train", description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("--steps", type=int, help="optimiser steps in all (default: the stage's own)")
    parser.add_argument("--batch", type=int, help="clips or images in a step (times the stride)")
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--unfreeze", action="store_true", help="keyframes: train the spatial layers and the text too")
    parser.add_argument(
        "--strides",
        type=int,
        nargs="+",
        default=[1],
        choices=(1, 2, 4, 8, 16),
        help="keyframes: show every s-th frame of s times as many clips, s drawn anew each step (default: whole clips)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--full-precision", action="store_true", help="no bfloat16")
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--run", type=Path, default=Path("runs"), help="folder of checkpoints and latents")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the weights that are kept")
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    args.weights.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)  # the same first weights in every process
    stage = STAGES[args.stage](Folders(args.run, args.weights), args)
    args.steps = stage.steps if args.steps is None else args.steps
    args.batch = stage.batch if args.batch is None else args.batch
    args.lr = stage.lr if args.lr is None else args.lr
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        distributed.init_process_group("gloo")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of stopping keep a checkpoint
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        train(stage, args)
    finally:
        if distributed.is_initialized():  # left to the interpreter's end, its threads now and then abort the process
            distributed.destroy_process_group()


if __name__ == "__main__":
    main()
