"""How one stage denoises, no default left open."""

from __future__ import annotations

from dataclasses import dataclass

from ffrt.sampling.solvers import SOLVERS


@dataclass(frozen=True)
class Sampling:
    """Steps, guidance scale and sampler of one stage; its deep levels run in every `cache_interval`-th step."""

    num_inference_steps: int
    guidance_scale: float
    sampler: str
    cache_interval: int = 1

    @property
    def draws(self) -> int:
        """Noise tensors that the sampler takes: the start, and for a noisy one another per step but the last."""
        return self.num_inference_steps if SOLVERS[self.sampler].noisy else 1

    @property
    def rows(self) -> int:
        """Rows of guidance that run in a step: without guidance the unconditional one is left out."""
        return 1 if self.guidance_scale == 0 else 2
