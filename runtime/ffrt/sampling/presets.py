"""Named defaults for fewer denoising steps, chosen from what `python -m bench.step_quality` measured on the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """Sampler and number of steps of one stage where a request does not name them."""

    sampler: str
    num_inference_steps: int

    def at_most(self, few: Steps | None) -> Steps:
        """These, a bundle's own, or the `few` of a preset if they are fewer: a preset never adds steps."""
        return self if few is None or few.num_inference_steps >= self.num_inference_steps else few


@dataclass(frozen=True)
class Preset:
    """Defaults of the stages in place of the bundle's; None keeps those. An argument of the request wins over both."""

    keyframes: Steps | None = None
    interpolation: Steps | None = None


PRESETS: Mapping[str, Preset] = {
    "quality": Preset(),
    "fast": Preset(keyframes=Steps("dpm++", 8), interpolation=Steps("ddim", 4)),
}
"""Every value of `preset`."""
