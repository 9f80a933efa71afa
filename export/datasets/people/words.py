"""Sentences of people: the words, the canonical sentence, its variants, and which combinations are kept for tests.

A third of the combinations of colour, ground and action is never drawn in training, and of a quarter of the pairs of
actions neither follows the other there. No PyTorch is needed to read this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.datasets.wording import dressed, mostly_first, noun_phrase, pick
from export.errors import SceneError

COLOURS = ("red", "green", "blue", "yellow", "purple")
GROUNDS = ("brown", "grey", "teal")
SPEEDS: dict[str | None, float] = {None: 0.5, "slowly": 0.25}
"""Of captured speed: at 2 fps a step of a walk at full speed would look like any other step."""
DOES: dict[str, tuple[str, ...]] = {
    "walk": ("walks", "strolls"),
    "run": ("runs", "jogs"),
    "jump": ("jumps", "hops"),
    "crawl": ("crawls", "crawls on the belly"),
    "roll": ("rolls forward", "does a forward roll", "does a somersault"),
    "cartwheel": ("does a cartwheel", "turns a cartwheel", "cartwheels"),
    "backflip": ("does a backflip", "flips backwards"),
    "spin": ("spins around", "does a pirouette"),
    "kick": ("kicks", "gives a kick"),
    "spinkick": ("does a spin kick", "does a spinning kick"),
    "punch": ("punches", "throws a punch", "boxes"),
    "dance_a": ("dances in turns", "does a turning dance"),
    "dance_b": ("dances on the spot", "dances in place"),
    "getup_facedown": ("gets up from the belly", "stands up from the belly"),
    "getup_faceup": ("gets up from the back", "stands up from the back"),
}
"""What captions call every action, in the order of their numbers."""
ACTIONS = tuple(DOES)
ONCE = ("getup_facedown", "getup_faceup")
"""Come first only, and are not repeated: who has got up stays."""
ONLY_SLOWLY = ("run", "roll", "backflip", "kick", "spinkick", "dance_a")
"""At half speed these turn by more than a quarter between two keyframes."""
_COLOURS = {"red": ("red", "scarlet"), "yellow": ("yellow", "golden"), "purple": ("purple", "violet")}
_GROUNDS = {"grey": ("grey", "gray"), "teal": ("teal", "turquoise")}
_PEOPLE = ("person", "person", "human", "figure", "man")
_SLOWLY = ("slowly", "slowly", "in slow motion")


@dataclass(frozen=True)
class Step:
    """One action of a chain and how it is done: None, or "slowly"."""

    action: str
    manner: str | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise SceneError(f"action must be one of {ACTIONS}, got {self.action!r}")
        if self.manner not in SPEEDS:
            raise SceneError(f"manner must be one of {list(SPEEDS)}, got {self.manner!r}")
        if self.manner is None and self.action in ONLY_SLOWLY:
            raise SceneError(f"{self.action} is done slowly only: at 2 fps it would turn the other way")


STEPS = tuple(Step(action, manner) for action in ACTIONS for manner in SPEEDS if manner or action not in ONLY_SLOWLY)


def is_kept(colour: str, ground: str, steps: Sequence[Step]) -> bool:
    """Whether a colour and ground with one of these actions, or two that follow each other, are kept for tests."""
    base = COLOURS.index(colour) + GROUNDS.index(ground)
    numbers = [ACTIONS.index(step.action) for step in steps]
    pairs = itertools.pairwise(numbers)
    return any((base + number) % 3 == 0 for number in numbers) or any(map(pair_is_kept, pairs))


def pair_is_kept(pair: tuple[int, int]) -> bool:
    """Whether two actions, by number, are never trained one after the other, in either order."""
    return sum(pair) % 4 == 0


def canonical(colour: str, ground: str, steps: Sequence[Step]) -> str:
    """Such as ``a red person walks, then slowly does a cartwheel, on brown ground``."""
    done = [f"{step.manner} {DOES[step.action][0]}" if step.manner else DOES[step.action][0] for step in steps]
    comma = "," if len(steps) > 1 else ""
    return f"a {colour} person {', then '.join(done)}{comma} on {ground} ground"


def variant(colour: str, ground: str, steps: Sequence[Step], rng: np.random.Generator) -> str:
    """A free wording; a third leaves out how slowly something is done, a tenth the ground."""
    person = noun_phrase(
        pick(("a", "a", "the"), rng), mostly_first(_COLOURS.get(colour, (colour,)), rng), pick(_PEOPLE, rng)
    )
    slow = rng.random() > 1 / 3
    parts = [_done(step, slow, rng) for step in steps]
    joint = pick((", then ", ", then ", " and then ", ", and then "), rng)
    done = joint.join(parts)
    shade = mostly_first(_GROUNDS.get(ground, (ground,)), rng)
    place = pick((f"on {shade} ground", f"on a {shade} floor", f"on the {shade} ground"), rng)
    if rng.random() < 0.1:
        text = f"{person} {done}"
    elif rng.random() < 0.25:
        text = f"{place}, {person} {done}"
    else:
        text = f"{person} {done}{',' if len(steps) > 1 else ''} {place}"
    return dressed(text, rng)


def caption(colour: str, ground: str, steps: Sequence[Step], rng: np.random.Generator) -> str:
    """What somebody might type: 40 % the canonical sentence, otherwise a variant."""
    return canonical(colour, ground, steps) if rng.random() < 0.4 else variant(colour, ground, steps, rng)


def _done(step: Step, slow: bool, rng: np.random.Generator) -> str:
    does = mostly_first(DOES[step.action], rng)
    if step.manner is None or not slow:
        return does
    how = pick(_SLOWLY, rng)
    return f"{how} {does}" if how == "slowly" and rng.random() < 0.5 else f"{does} {how}"
