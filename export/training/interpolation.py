"""How the two interpolation networks are trained: the group model (paper section 4.2) and its masked baseline.

Both see the same clips, skips, noise levels and disturbances; both say what linear blending leaves
(`export.models.residual`), and an error counts by how far it is from that of linear blending.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.datasets.demo import DEMO
from export.datasets.domain import Domain
from export.models.configs import PRESETS
from export.models.residual import KEY, alpha_bar
from export.training.between import Run, Runs, held_out_runs, training_runs
from export.training.forms import GroupForm, MaskedForm, noised
from export.training.stages import UNCONDITIONAL, Folders

SKIPS = range(1, 13)
CHANCE = np.array([0.05, 0.05, 0.2, *[0.075] * 4, *[0.08] * 5])
"""Of each skip value; two thirds of it where linear blending is far from right."""
DISTURBED, WORST_DISTURBANCE = 0.3, 250
FLOOR = 1e-4
"""Added to the error of linear blending that errors are counted in: where that has none, little is to be gained."""


class InterpolationStage:
    """v-prediction, s in 1..12, disturbed keyframes, 10 % without keyframes; a run is one example of 4 groups."""

    steps, batch, lr = 6300, 4, 1e-3
    form: GroupForm = GroupForm()

    def __init__(self, folders: Folders, domain: Domain[Any] = DEMO) -> None:
        self.name = self.form.name
        self.model = self.form.network(PRESETS[domain.preset])
        self.runs, self.held_out = self.shown(folders.run)

    @staticmethod
    def shown(run: Path) -> tuple[Runs, Mapping[str, NDArray[np.float16]]]:
        """What is trained on, and what is only measured, by kind: latents at 8 fps, ``[clips, N, 4, h, w]``."""
        return training_runs(run), held_out_runs(run)

    def loss(self, model: nn.Module, rng: np.random.Generator, batch: int, device: torch.device) -> Tensor:
        """The loss of a fresh batch that `rng` draws."""
        run = self.runs.draw(int(rng.choice(SKIPS, p=CHANCE)), batch, rng, device)
        keys = run.latents[:, ::KEY]
        disturbed = torch.rand(batch, device=device) < DISTURBED
        strength = torch.where(disturbed, torch.rand(batch, device=device) * WORST_DISTURBANCE, 0.0)
        keys = torch.where(disturbed.reshape(-1, 1, 1, 1, 1), noised(keys, alpha_bar(strength)), keys)
        keys = keys * (torch.rand(batch, device=device) >= UNCONDITIONAL).reshape(-1, 1, 1, 1, 1)
        spread = (torch.randperm(batch, device=device) + torch.rand(batch, device=device)) / batch
        error, reference = self.form.relative(model, run, keys, 999 * spread.sqrt(), strength)
        return (error / (reference + FLOOR)).mean()

    @torch.no_grad()
    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Gain over linear blending of latents on held-out clips in dB, by what moves and by s, in one step.

        Clips that stand still are left out: blending two equal frames leaves nothing to gain.
        """
        found: dict[str, float] = {}
        with torch.random.fork_rng():
            torch.manual_seed(7)
            for kind, latents in self.held_out.items():
                if kind == "standing":
                    continue
                for skip in (3, 6, 12):
                    run = Run(torch.from_numpy(latents[:, :: skip // 3].astype(np.float32)).to(device), skip)
                    run = Run(run.latents[:, : (run.latents.shape[1] - 1) // KEY * KEY + 1], skip)
                    error, reference = self.form.one_step(model, run)
                    found[f"{kind}_s{skip}"] = float(10 * (reference.mean() / error.mean()).log10())
        return found

    def exported(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """The trained networks, by the name of their graph."""
        return {f"{self.name}_unet": model}


class MaskedInterpolationStage(InterpolationStage):
    """The baseline, from the same draws."""

    form = MaskedForm()
