"""The loop of every stage: steps, rates, averages, and checkpoints that it goes on from, whatever stopped it."""

from __future__ import annotations

import copy
import json
import math
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal

import numpy as np
import torch
from torch import Tensor, distributed, nn

from export.checkpoints.weights import WEIGHTS, save_half
from export.errors import DivergedError
from export.training.curves import plot, progress
from export.training.precision import half_precision
from export.training.stages import M, Stage
from ffrt.output.whole_file import check_file, whole_file

WARMUP_STEPS = 100
RATE_LEFT = 0.02


@dataclass(frozen=True)
class Settings:
    """How a stage is run: ``steps`` of the optimiser in all, ``batch`` clips or images in each.

    ``rate`` "cosine" falls to 2 % of ``lr``; "constant" stays, so that a run may be made longer or ended at any step,
    and a stage of falling rate follows. ``average`` is the decay of the averaged weights, which a stage leaves.
    """

    steps: int
    batch: int
    lr: float
    rate: Literal["cosine", "constant"] = "cosine"
    average: float = 0.998
    seed: int = 1
    device: str = "cpu"
    full_precision: bool = False
    log_every: int = 20
    save_every: int = 100
    measure_every: int = 100
    run: Path = Path("runs")
    weights: Path = WEIGHTS


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then the peak, or a cosine from it to 2 % of it."""
    if step < WARMUP_STEPS:
        return settings.lr * (step + 1) / WARMUP_STEPS
    if settings.rate == "constant":
        return settings.lr
    done = (step - WARMUP_STEPS) / max(1, settings.steps - WARMUP_STEPS)
    return settings.lr * (RATE_LEFT + (1 - RATE_LEFT) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, longest: float) -> None:
    """Exponential moving average of the parameters, short at first."""
    decay = min(longest, (1 + step) / (10 + step))
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, 1 - decay)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write it whole or not at all: a killed run keeps its last whole checkpoint."""
    with whole_file(path) as part:
        torch.save(state, part)


def share_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients over all processes, in one message."""
    if not distributed.is_initialized():
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads]) / distributed.get_world_size()
    distributed.all_reduce(flat)
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def stop_alike() -> None:
    """Let SIGTERM stop a training as Ctrl-C does: both keep a checkpoint."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


def in_channels_last(model: nn.Module) -> None:
    """Lay the weights of convolutions out with the channels last, in place."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


class Training(Generic[M]):
    """A stage on its way: model, averaged weights, optimiser, history, and the checkpoint that they go on from."""

    def __init__(self, stage: Stage[M], settings: Settings) -> None:
        self.stage, self.settings = stage, settings
        self.device = torch.device(settings.device)
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        model = stage.model.to(self.device)
        if self.device.type == "cpu":
            in_channels_last(model)
        self.model = model
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.checkpoint = settings.run / f"{stage.name}.pt"
        left = [*(f"{graph}.safetensors" for graph in stage.exported(model)), f"{stage.name}.json", f"{stage.name}.png"]
        for path in (self.checkpoint, *(settings.weights / name for name in left)):
            check_file(path)
        self.history: list[dict[str, float]] = []
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history, self.step, self.seconds = state["history"], state["step"], state["seconds"]
            print(f"{stage.name}: going on from step {self.step}", file=sys.stderr)

    def keep(self) -> None:
        """Write the checkpoint."""
        if self.rank > 0:
            return
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "step": self.step,
            "seconds": self.seconds,
        }
        save_checkpoint(self.checkpoint, state)

    def one_step(self) -> float:
        """One step of the optimiser; returns the loss. Raises DivergedError where that is no number."""
        settings, step = self.settings, self.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        rng = np.random.default_rng([settings.seed, step, self.rank])
        torch.manual_seed(settings.seed * 1_000_003 + step + self.rank * 500_009)
        with half_precision(self.device.type, enabled=not settings.full_precision):
            loss: Tensor = self.stage.loss(self.model, rng, settings.batch, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        share_gradients(self.trained)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        update_average(self.average, self.model, step, settings.average)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(f"{self.stage.name}: the loss is {value} at step {step}; try a smaller --lr")
        self.step += 1
        return value

    def go_on(self) -> None:
        """All steps that are left, with a line, figures and a checkpoint now and then."""
        settings = self.settings
        running, tick = math.nan, time.perf_counter()
        while self.step < settings.steps:
            value = self.one_step()
            running = value if math.isnan(running) else 0.98 * running + 0.02 * value
            last = self.step == settings.steps
            row = {"step": self.step, "loss": running}
            measured = self.rank == 0 and (self.step % settings.measure_every == 0 or last)
            if measured:
                row |= self.stage.measure(self.average, self.device)
            now = time.perf_counter()
            self.seconds, tick = self.seconds + now - tick, now
            if self.rank == 0 and (measured or self.step % settings.log_every == 0):
                self.history.append({**row, "seconds": round(self.seconds, 1)})
                progress(
                    self.step, settings.steps, self.seconds / self.step, {k: v for k, v in row.items() if k != "step"}
                )
            if self.step % settings.save_every == 0:
                self.keep()
        self.keep()

    def leave(self) -> None:
        """Write averaged weights as float16, the history and its curves into the folder of weights."""
        settings, name = self.settings, self.stage.name
        for graph, module in self.stage.exported(self.average).items():
            save_half(module.state_dict(), settings.weights / f"{graph}.safetensors")
        about = {
            "steps": settings.steps,
            "batch": settings.batch,
            "lr": settings.lr,
            "rate": settings.rate,
            "average": settings.average,
            "seconds": round(self.seconds),
            "history": self.history,
        }
        with whole_file(settings.weights / f"{name}.json") as part:
            part.write_text(json.dumps(about))
        with whole_file(settings.weights / f"{name}.png") as part:
            plot(self.history, part, name)


def train(stage: Stage[M], settings: Settings) -> None:
    """Run one stage from its last checkpoint to ``settings.steps`` and leave its weights.

    Ctrl-C and SIGTERM keep a checkpoint and raise SystemExit with 130.
    """
    training = Training(stage, settings)
    try:
        training.go_on()
    except KeyboardInterrupt:
        training.keep()
        print(f"\nstopped at step {training.step}; give the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None
    if training.rank == 0:
        training.leave()
