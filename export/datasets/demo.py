"""The domain "shapes" of the demo: sentences of one shape and what it does; for interpolation scenes as well."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from export.datasets.captions import canonical, caption
from export.datasets.domain import SEEDS, Part, Words, deck
from export.datasets.grammar import ACTIONS, BACKGROUNDS, COLOURS, SHAPES, SIZES, Combination, is_held_out, split
from export.datasets.scenes import Scene, held_out_scenes, render_scene, training_scenes
from export.datasets.shapes import Clip, render, sample_clip, sample_held_out, sample_parameters
from export.errors import SceneError

SPIN_EVERY = 4
"""Every fourth clip spins, and every third picture: what turns has the most outlines to learn."""
PICTURE_SPINS_EVERY = 3
HELD_OUT_DEMO, HELD_OUT_SCENES = 48, 24
"""Clips and scenes that interpolation is measured with."""


class ShapesDomain:
    """What the weights in `graphs/demo` are trained on."""

    name, preset, keyframes = "shapes", "demo", 16
    attributes: Mapping[str, tuple[str | None, ...]] = {
        "colour": COLOURS,
        "shape": SHAPES,
        "action": ACTIONS,
        "background": BACKGROUNDS,
        "size": (None, *SIZES),
    }

    def sample(self, rng: np.random.Generator) -> Clip:
        """A clip to train on."""
        return sample_clip(rng)

    def dealt(self, part: Part, count: int) -> list[Clip]:
        """The first ``count`` clips of a part; a quarter of them spins, and a third of the pictures."""
        spin_every = PICTURE_SPINS_EVERY if part == "pictures" else SPIN_EVERY
        return dealt_clips(split()[part == "held_out"], count, SEEDS[part], spin_every)

    def between(self, fine: int, coarse: int) -> tuple[list[Clip | Scene], list[Clip | Scene]]:
        """Half of each rate are clips of sentences, half scenes."""
        clips, scenes = demo_clips((fine + coarse) // 2), training_scenes((fine + coarse) // 2)
        half = fine // 2
        return [*clips[:half], *scenes[:half]], [*clips[half:], *scenes[half:]]

    def between_held_out(self) -> Mapping[str, list[Clip | Scene]]:
        """Clips by what moves, and scenes."""
        kept: dict[str, list[Clip | Scene]] = {"scenes": [*held_out_scenes(HELD_OUT_SCENES)]}
        for clip in held_out_clips():
            kept.setdefault(kind_of(clip), []).append(clip)
        return kept

    def is_kept(self, clip: Clip | Scene) -> bool:
        """Whether colour, shape, action and background together are kept; a scene has no words."""
        return not isinstance(clip, Scene) and is_held_out(clip.colour, clip.shape, clip.action, clip.background)

    def words(self, clip: Clip | Scene) -> Words:
        """The words of the grammar."""
        shown = sentence_of(clip)
        return {name: getattr(shown, name) for name in self.attributes}

    def canonical(self, clip: Clip | Scene) -> str:
        """The sentence of the grammar."""
        return canonical(sentence_of(clip))

    def caption(self, clip: Clip | Scene, rng: np.random.Generator) -> str:
        """The sentence or a natural variant of it."""
        return caption(sentence_of(clip), rng)

    def render(self, clip: Clip | Scene, times_s: NDArray[np.floating] | Sequence[float], size_px: int = 128) -> Tensor:
        """Frames ``[N, 3, size_px, size_px]`` in -1..1."""
        return render_scene(clip, times_s, size_px) if isinstance(clip, Scene) else render(clip, times_s, size_px)


DEMO = ShapesDomain()


def sentence_of(clip: Clip | Scene) -> Clip:
    """A clip that has words. Raises SceneError for a scene."""
    if isinstance(clip, Scene):
        raise SceneError("expected a clip of the grammar, got a scene, which has no words")
    return clip


def dealt_clips(cells: Sequence[Combination], count: int, seed: int, spin_every: int = SPIN_EVERY) -> list[Clip]:
    """Every ``spin_every``-th spins; both kinds go through all their cells in turn, each turn in a new order."""
    spinning = deck([cell for cell in cells if cell.action == "spinning"], np.random.default_rng([seed, 0]))
    others = deck([cell for cell in cells if cell.action != "spinning"], np.random.default_rng([seed, 1]))
    drawn = (next(others if index % spin_every else spinning) for index in range(count))
    return [sample_parameters(cell, np.random.default_rng([seed, 2, index])) for index, cell in enumerate(drawn)]


def demo_clips(count: int) -> list[Clip]:
    """The first ``count`` clips of the demo's sentences to train interpolation on; none of a kept combination.

    A quarter spins: what turns by a quarter between keyframes looks still, so only many of them teach a network that
    reads no words what to make of one.
    """
    return dealt_clips(split()[0], count, SEEDS["between"])


def held_out_clips(count: int = HELD_OUT_DEMO) -> list[Clip]:
    """Clips of kept combinations, to measure interpolation with."""
    rng = np.random.default_rng(SEEDS["between_held_out"])
    return [sample_held_out(rng) for _ in range(count)]


def kind_of(clip: Clip) -> str:
    """What a clip is counted under: "moving", "growing", "spinning" or "standing"."""
    return {"growing": "growing", "shrinking": "growing"}.get(clip.action, clip.action.split()[0])
