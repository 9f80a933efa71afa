"""Named defaults for fewer denoising steps, chosen from what `python -m bench.step_quality` measured on the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ffrt.errors import RequestError


@dataclass(frozen=True)
class Steps:
    """How one stage denoises where a request does not say."""

    sampler: str
    num_inference_steps: int

    def at_most(self, few: Steps | None) -> Steps:
        """These, a bundle's own, or the `few` of a preset where they are fewer: a preset never adds steps."""
        return self if few is None or few.num_inference_steps >= self.num_inference_steps else few


@dataclass(frozen=True)
class Preset:
    """Defaults of the stages in place of the bundle's; None leaves those. An argument that is given wins over both."""

    keyframes: Steps | None = None
    interpolation: Steps | None = None


PRESETS: Mapping[str, Preset] = {
    "quality": Preset(),
    "fast": Preset(keyframes=Steps("dpm++", 8), interpolation=Steps("ddim", 4)),
}


def preset_of(value: object) -> Preset:
    """The preset of that name; None is "quality". Raises RequestError for any other, which names what there is."""
    if value is None:
        return PRESETS["quality"]
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    told = f"{value!r:.200}" if isinstance(value, (str, int, float)) else type(value).__name__
    raise RequestError(f"preset: expected one of {list(PRESETS)}, got {told}")
