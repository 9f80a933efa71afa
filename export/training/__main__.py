"""Train weights of the demo or, with ``--domain``, of another domain: ``python -m export.training STAGE``.

Stages, in order: ``movq`` and ``text``; then, once ``python -m export.training.latents`` has encoded the clips,
``image`` (spatial layers) and ``keyframes`` (temporal blocks; ``--unfreeze`` trains everything); once
``python -m export.training.between`` has encoded others, ``interpolation`` and ``masked_interpolation``, the baseline
it is measured against.
Each may be stopped at any time (Ctrl-C) and goes on from its last checkpoint when the same command is given again; the
same command runs on a CPU or on CUDA. ``torchrun --nproc-per-node 2 -m export.training STAGE`` shares every step among
processes, each with a batch of its own: on a CPU, two processes of one thread are faster than one of two. When a stage
ends, its averaged weights are written as float16 safetensors into ``--weights``, where
``python -m export demo --weights`` finds them. ``python -m export.training.recipe`` runs the stages of the keyframes
one after the other.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffrt.cli.loading import loading

with loading("python -m export.training" if __name__ == "__main__" else None):
    import torch
    from torch import distributed

    from export.checkpoints.weights import WEIGHTS
    from export.datasets.domain import Domain
    from export.datasets.domains import add_domain, asked_domain
    from export.training.interpolation import InterpolationStage, MaskedInterpolationStage
    from export.training.keyframes import IMAGE, KeyframeStage, clip_lesson
    from export.training.loop import Settings, stop_alike, train
    from export.training.stages import Folders, MoVQStage, Stage
    from export.training.text import TextStage
    from ffrt import FfrtError
    from ffrt.files import typed_path

STAGES: dict[str, Callable[[Folders, argparse.Namespace, Domain[Any]], Stage[Any]]] = {
    "movq": lambda folders, _, domain: MoVQStage(folders, domain),
    "text": lambda folders, _, domain: TextStage(folders, domain),
    "image": lambda folders, _, domain: KeyframeStage(folders, IMAGE, domain=domain),
    "keyframes": lambda folders, args, domain: KeyframeStage(
        folders, clip_lesson(args.unfreeze, args.strides), domain=domain
    ),
    "interpolation": lambda folders, _, domain: InterpolationStage(folders, domain),
    "masked_interpolation": lambda folders, _, domain: MaskedInterpolationStage(folders, domain),
}


def main() -> None:
    """Train one stage."""
    parser = argparse.ArgumentParser(prog="python -m export.training", description=__doc__.splitlines()[0])
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
    parser.add_argument("--measure-every", type=int, default=100, help="steps between figures on held-out data (100)")
    parser.add_argument("--rate", choices=("cosine", "constant"), default="cosine", help="of learning (cosine)")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the averaged weights (0.998)")
    parser.add_argument("--run", type=typed_path, default=Path("runs"), help="folder of checkpoints and latents")
    parser.add_argument("--weights", type=typed_path, default=WEIGHTS, help="folder of the weights that are kept")
    add_domain(parser)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    args.weights.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)  # the same first weights in every process
    try:
        stage = STAGES[args.stage](Folders(args.run, args.weights), args, asked_domain(args))
    except FfrtError as error:
        raise SystemExit(f"python -m export.training: {error}") from None
    settings = Settings(
        steps=stage.steps if args.steps is None else args.steps,
        batch=stage.batch if args.batch is None else args.batch,
        lr=stage.lr if args.lr is None else args.lr,
        rate=args.rate,
        average=args.average,
        seed=args.seed,
        device=args.device,
        full_precision=args.full_precision,
        log_every=args.log_every,
        save_every=args.save_every,
        measure_every=args.measure_every,
        run=args.run,
        weights=args.weights,
    )
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        distributed.init_process_group("gloo")
    stop_alike()
    try:
        train(stage, settings)
    except FfrtError as error:
        raise SystemExit(f"python -m export.training: {error}") from None
    finally:
        if distributed.is_initialized():  # left to the interpreter's end, its threads now and then abort the process
            distributed.destroy_process_group()


if __name__ == "__main__":
    main()
