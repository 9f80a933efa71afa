"""Which colour a person has and which the ground is, from the pixels of a clip. numpy only.

Limbs are shaded and the ground has a shadow, so that colours are told by their hue and not by their brightness. What
the person does is for a classifier: a :data:`ActionReader` is given whole clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.metrics.base import Frames

Floats = NDArray[np.float64]
ActionReader = Callable[[Frames], tuple[str, ...]]
"""The actions that a clip ``[N, H, W, 3]`` shows, one after another."""
PERSON_RGB = {
    "red": (215, 45, 40),
    "green": (45, 170, 65),
    "blue": (50, 80, 225),
    "yellow": (235, 205, 50),
    "purple": (160, 60, 195),
}
GROUND_RGB = {"brown": (115, 85, 55), "grey": (110, 112, 118), "teal": (30, 105, 105)}
OTHERS_RGB = ((205, 218, 230), (232, 190, 160), *GROUND_RGB.values())
"""Sky, skin and grounds, which are no clothes."""
LEAST_SHARE = 0.01
"""Of all pixels that a person covers."""
OTHER_SHARE = 0.25
"""Of the clothes in a second colour, before a clip is at fault."""
STRIP = 0.06
"""Of the height at the foot of a frame, where there is only ground."""
DARK = 60


@dataclass(frozen=True)
class PersonLook:
    """What a clip shows; a colour that cannot be told is None."""

    colour: str | None
    ground: str
    faults: tuple[str, ...]


def look(frames: Frames) -> PersonLook:
    """The colours of a clip ``[N, H, W, 3]``."""
    foot = max(1, round(STRIP * frames.shape[1]))
    strip = np.median(frames[:, -foot:].reshape(-1, 3), axis=0)
    ground = min(GROUND_RGB, key=lambda name: float(np.linalg.norm(strip - np.array(GROUND_RGB[name]))))
    shown = frames.astype(np.float64).reshape(len(frames), -1, 3)
    bright = shown.sum(2) > DARK
    table = np.array([*PERSON_RGB.values(), *OTHERS_RGB], dtype=np.float64)
    away = np.linalg.norm(hue(shown)[:, :, None] - hue(table), axis=3)
    votes = np.where(bright, away.argmin(2), -1)
    counts = np.array([(votes == place).sum() for place in range(len(PERSON_RGB))])
    faults = []
    missing = [(row >= 0).any() and (row < len(PERSON_RGB))[row >= 0].mean() < LEAST_SHARE for row in votes]
    if np.mean(missing) > 0.25:
        faults.append("no person")
    if counts.sum() < LEAST_SHARE * votes.size:
        return PersonLook(None, ground, tuple(faults))
    if np.sort(counts)[-2] > OTHER_SHARE * counts.sum():
        faults.append("more than one colour")
    return PersonLook(list(PERSON_RGB)[int(counts.argmax())], ground, tuple(faults))


def hue(rgb: Floats) -> Floats:
    """Colours ``[..., 3]`` without their brightness: shares of red, green and blue."""
    shares: Floats = rgb / np.maximum(rgb.sum(-1, keepdims=True), 1.0)
    return shares
