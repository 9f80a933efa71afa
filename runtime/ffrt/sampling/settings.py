"""How one stage denoises, no default left open."""

from __future__ import annotations

from dataclasses import dataclass

from ffrt.sampling.solvers import SOLVERS


@dataclass(frozen=True)
class Sampling:
    """Steps, guidance scale and sampler of one stage; its deep levels run in every `cache_interval`-th step.

    `guidance_interval` are the times, of 0 (clean) to 1000, from and to which there is guidance; None is all.
    """

    num_inference_steps: int
    guidance_scale: float
    sampler: str
    cache_interval: int = 1
    guidance_interval: tuple[float, float] | None = None

    @property
    def draws(self) -> int:
        """Noise tensors that the sampler takes: the start, and for a noisy one another per step but the last."""
        return self.num_inference_steps if SOLVERS[self.sampler].noisy else 1

    @property
    def rows(self) -> int:
        """Rows that run in a step with guidance: at scale 0 the unconditional one is left out."""
        return 1 if self.guidance_scale == 0 else 2

    def is_guided(self, time: float) -> bool:
        """Whether the step at `time` has guidance (Kynkaanniemi et al. 2024, arXiv 2404.07724)."""
        if self.guidance_interval is None:
            return True
        low, high = self.guidance_interval
        return low <= max(time, 0.0) <= high  # a time that is worked out may round to a little below 0
