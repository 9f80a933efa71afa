"""How much is measured: a whole run, or a quick one for a look and for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPTS = ("a red circle moving right on a black background", "a blue square moving left on a black background")


@dataclass(frozen=True)
class Sizes:
    """What is repeated how often. Times in seconds."""

    bundle: Path
    threads: int
    rounds: int = 5
    block: int = 2
    """Videos in a row of one contender."""
    loaded: int = 2
    """Videos that are made under each load."""
    waiting: int = 24
    """Videos that wait behind them."""
    pollers: int = 200
    streams: int = 50
    cancels: int = 5
    kills: int = 5
    soak_s: float = 7200.0
    sample_s: float = 5.0
    window_s: float = 10.0
    """The least that a load lasts; more videos are made where they are quick."""
    steps: int | None = None
    """Denoising steps, where they are not those of the fast preset."""

    def fields(self, number: int, **more: Any) -> dict[str, Any]:
        """A request for a video at the bundle's own size and rate; the same for the same number."""
        steps = {} if self.steps is None else {"num_inference_steps": self.steps}
        return {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, "preset": "fast", **steps, **more}


def sizes_of(bundle: Path, threads: int, soak_min: float, quick: bool, steps: int | None) -> Sizes:
    """Those of a whole run, or of a quick one."""
    if not quick:
        return Sizes(bundle, threads, soak_s=60 * soak_min, steps=steps)
    return Sizes(
        bundle,
        threads,
        rounds=1,
        block=1,
        loaded=1,
        waiting=4,
        pollers=20,
        streams=5,
        cancels=1,
        kills=1,
        soak_s=60 * soak_min,
        sample_s=0.5,
        window_s=2.0,
        steps=steps,
    )
