"""The domain "people" for training and benches: clips of actions, their captions and their split."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from export.datasets.domain import KEYFRAME_FPS, SEEDS, Part, Words, deck
from export.datasets.people import words
from export.datasets.people.chain import JOIN_S, Turn, least_seconds, poses, seconds_of, shared_out
from export.datasets.people.draw import Camera, draw
from export.datasets.people.motions import Motion
from export.datasets.people.words import ACTIONS, COLOURS, GROUNDS, ONCE, STEPS, Step
from export.errors import OptionError

LEAST_KEYFRAMES = 20
"""The least that have room for every action once, and for two of most."""
SECONDS_EACH = 8.0
"""Of a chain: one more action may follow for as many seconds."""
MEASURED = 24
TILT, TURN, METRES = (6.0, 16.0), 22.0, (2.4, 3.0)
"""Of the camera: degrees down, degrees to either side, metres in the height of a frame."""


@dataclass(frozen=True)
class Outfit:
    """Colour of a person and of the ground, and what the person does."""

    colour: str
    ground: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class PeopleClip:
    """An outfit, from where it is seen, how often each action is done, and the second of the chain at t = 0."""

    outfit: Outfit
    turns: tuple[Turn, ...]
    camera: Camera
    start_s: float


@dataclass(frozen=True)
class PeopleDomain:
    """Clips of these motions. Raises OptionError for clips too short to show them."""

    motions: Mapping[str, Motion]
    keyframes: int = 24
    name: ClassVar[str] = "people"
    preset: ClassVar[str] = "people"
    attributes: ClassVar[Mapping[str, tuple[str | None, ...]]] = {
        "colour": COLOURS,
        "ground": GROUNDS,
        "action": ACTIONS,
        "next_action": (None, *ACTIONS),
    }

    def __post_init__(self) -> None:
        if self.keyframes < LEAST_KEYFRAMES:
            raise OptionError(
                f"--length: expected {LEAST_KEYFRAMES} keyframes or more for people, got {self.keyframes}"
            )

    @property
    def seconds(self) -> float:
        """From the first keyframe to the last."""
        return (self.keyframes - 1) / KEYFRAME_FPS

    @cached_property
    def cells(self) -> Mapping[tuple[bool, bool], tuple[Outfit, ...]]:
        """All outfits of one action and of two that have room, by whether they are kept and whether two act."""
        found: dict[tuple[bool, bool], list[Outfit]] = {
            (kept, two): [] for kept in (False, True) for two in (False, True)
        }
        chains = [(step,) for step in STEPS] + list(itertools.product(STEPS, repeat=2))
        for steps in chains:
            if self.has_room(steps):
                for colour, ground in itertools.product(COLOURS, GROUNDS):
                    key = words.is_kept(colour, ground, steps), len(steps) > 1
                    found[key].append(Outfit(colour, ground, steps))
        return {key: tuple(some) for key, some in found.items()}

    def has_room(self, steps: Sequence[Step]) -> bool:
        """Whether a chain can be done in the time, with no action twice and none before getting up."""
        actions = [step.action for step in steps]
        distinct = len(set(actions)) == len(actions) and not set(actions[1:]) & set(ONCE)
        return distinct and least_seconds(steps, self.motions) <= self.seconds

    def sample(self, rng: np.random.Generator) -> PeopleClip:
        """A clip to train on, half of them of more than one action."""
        cells = self.cells[False, bool(rng.random() < 0.5)]
        return self.of_outfit(cells[int(rng.integers(len(cells)))], rng)

    def of_outfit(self, outfit: Outfit, rng: np.random.Generator) -> PeopleClip:
        """A clip of these words, and of more actions where there is room; camera and start are drawn."""
        kept = words.is_kept(outfit.colour, outfit.ground, outfit.steps)
        steps = outfit.steps
        for step in (STEPS[place] for place in rng.permutation(len(STEPS))):
            longer = (*steps, step)
            if len(steps) == 1 or len(steps) >= self.seconds // SECONDS_EACH:
                break
            if self.has_room(longer) and (kept or not words.is_kept(outfit.colour, outfit.ground, longer)):
                steps = longer
        turns = shared_out(steps, self.motions, self.seconds)
        spare = self.seconds - least_seconds(steps, self.motions)
        if len(steps) == 1 and steps[0].action not in ONCE:
            latest = seconds_of(steps[0], self.motions) + JOIN_S
        else:
            latest = min(0.25 * seconds_of(steps[0], self.motions), 0.5 * spare)
        camera = Camera(
            1 if rng.random() < 0.5 else -1,
            float(rng.uniform(-TURN, TURN)),
            float(rng.uniform(*TILT)),
            float(rng.uniform(*METRES)),
        )
        return PeopleClip(Outfit(outfit.colour, outfit.ground, steps), turns, camera, float(rng.uniform(0, latest)))

    def _dealt(self, kept: bool, count: int, seed: int) -> list[PeopleClip]:
        """One action and more in turn; all outfits of a kind come, each turn in a new order."""
        decks: list[Iterator[Outfit]] = [
            deck(self.cells[kept, two], np.random.default_rng([seed, int(two)])) for two in (False, True)
        ]
        return [
            self.of_outfit(next(decks[index % 2]), np.random.default_rng([seed, 2, index])) for index in range(count)
        ]

    def dealt(self, part: Part, count: int) -> list[PeopleClip]:
        """The first ``count`` clips of a part."""
        return self._dealt(part == "held_out", count, SEEDS[part])

    def between(self, fine: int, coarse: int) -> tuple[list[PeopleClip], list[PeopleClip]]:
        """Other clips of the same kind."""
        clips = self._dealt(False, fine + coarse, SEEDS["between"])
        return clips[:fine], clips[fine:]

    def between_held_out(self) -> Mapping[str, list[PeopleClip]]:
        """Clips of kept combinations, of one action and of more."""
        clips = self._dealt(True, MEASURED, SEEDS["between_held_out"])
        return {"one": clips[::2], "chains": clips[1::2]}

    def is_kept(self, clip: PeopleClip) -> bool:
        """Whether its words are kept for tests (`export.datasets.people.words`)."""
        return words.is_kept(clip.outfit.colour, clip.outfit.ground, clip.outfit.steps)

    def words(self, clip: PeopleClip) -> Words:
        """Colour, ground, and the first two actions."""
        outfit = clip.outfit
        later = outfit.steps[1].action if len(outfit.steps) > 1 else None
        return {
            "colour": outfit.colour,
            "ground": outfit.ground,
            "action": outfit.steps[0].action,
            "next_action": later,
        }

    def canonical(self, clip: PeopleClip) -> str:
        """Such as ``a red person walks, then slowly does a cartwheel, on brown ground``."""
        return words.canonical(clip.outfit.colour, clip.outfit.ground, clip.outfit.steps)

    def caption(self, clip: PeopleClip, rng: np.random.Generator) -> str:
        """The canonical sentence or a variant of it."""
        return words.caption(clip.outfit.colour, clip.outfit.ground, clip.outfit.steps, rng)

    def render(self, clip: PeopleClip, times_s: NDArray[np.floating] | Sequence[float], size_px: int = 64) -> Tensor:
        """Frames ``[N, 3, size_px, size_px]`` in -1..1."""
        clock = np.asarray(times_s, dtype=np.float64) + clip.start_s
        shown = poses(clip.turns, self.motions, clock)
        return draw(shown, clip.outfit.colour, clip.outfit.ground, clip.camera, size_px)
