"""What a person may type for a clip of the demo domain: the canonical sentence, its natural variants, a tokenizer.

Every phrase belongs to one class only, so a caption never says something untrue of its clip; it may leave out the size
or the background.
"""

from collections.abc import Iterator
from os import PathLike

import numpy as np

from export.datasets.shapes import Clip, sample_clip
from export.datasets.tokens import CORPUS, write_tokenizer
from export.datasets.wording import dressed, mostly_first, noun_phrase, pick

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet", "crimson"),
    "green": ("green", "emerald"),
    "blue": ("blue",),
    "yellow": ("yellow", "golden"),
    "white": ("white",),
    "purple": ("purple", "violet", "magenta"),
}
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "ball", "disc", "disk", "dot", "round shape"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge", "three-sided shape"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black", "dark"),
    "grey": ("grey", "gray"),
    "brown": ("brown", "chocolate"),
    "teal": ("teal", "turquoise"),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "tiny", "little"),
    "large": ("large", "big", "huge"),
}

_MOVING = (
    ("moving", "moves"),
    ("going", "goes"),
    ("sliding", "slides"),
    ("travelling", "travels"),
    ("traveling", "travels"),
    ("drifting", "drifts"),
    ("gliding", "glides"),
)
_TOWARDS: dict[str, tuple[str, ...]] = {
    "moving right": ("right", "to the right", "rightwards", "rightward", "from left to right"),
    "moving left": ("left", "to the left", "leftwards", "leftward", "from right to left"),
    "moving up": ("up", "upwards", "upward", "to the top", "from bottom to top"),
    "moving down": ("down", "downwards", "downward", "to the bottom", "from top to bottom"),
}
_DOING: dict[str, tuple[tuple[str, str], ...]] = {
    "moving up": (("rising", "rises"), ("climbing", "climbs"), ("ascending", "ascends")),
    "moving down": (("falling", "falls"), ("dropping", "drops"), ("sinking", "sinks"), ("descending", "descends")),
    "standing still": (
        ("standing still", "stands still"),
        ("staying still", "stays still"),
        ("staying in place", "stays in place"),
        ("not moving", "does not move"),
        ("resting", "rests"),
        ("still", "is still"),
        ("static", "is static"),
        ("motionless", "is motionless"),
    ),
    "growing": (
        ("growing", "grows"),
        ("getting bigger", "gets bigger"),
        ("getting larger", "gets larger"),
        ("expanding", "expands"),
        ("becoming bigger", "becomes bigger"),
    ),
    "shrinking": (
        ("shrinking", "shrinks"),
        ("getting smaller", "gets smaller"),
        ("becoming smaller", "becomes smaller"),
        ("contracting", "contracts"),
    ),
    "spinning": (
        ("spinning", "spins"),
        ("rotating", "rotates"),
        ("turning", "turns"),
        ("twirling", "twirls"),
        ("turning around", "turns around"),
        ("rotating clockwise", "rotates clockwise"),
    ),
}
ACTION_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    action: tuple((f"{ing} {way}", f"{s} {way}") for way in _TOWARDS.get(action, ()) for ing, s in _MOVING)
    + _DOING.get(action, ())
    for action in (*_TOWARDS, "standing still", "growing", "shrinking", "spinning")
}
"""Each action as (participle, finite verb): `moving right`, `moves right`."""

_ADJECTIVES: dict[str, tuple[str, ...]] = {
    "moving up": ("rising",),
    "moving down": ("falling", "sinking"),
    "standing still": ("static", "motionless", "still"),
    "growing": ("growing", "expanding"),
    "shrinking": ("shrinking",),
    "spinning": ("spinning", "rotating", "turning", "twirling"),
}
_SETTINGS = (
    "on a {} background",
    "on a {} background",
    "on {} background",
    "on the {} background",
    "on {}",
    "on a {} backdrop",
    "against a {} background",
    "against {}",
    "over a {} background",
    "in front of a {} background",
    "in front of a {} wall",
    "with a {} backdrop",
    "with a {} background",
)


def canonical(clip: Clip) -> str:
    """The sentence of the grammar: `a [small|large] COLOUR SHAPE ACTION on a BACKGROUND background`."""
    size = "" if clip.size is None else f"{clip.size} "
    return f"a {size}{clip.colour} {clip.shape} {clip.action} on a {clip.background} background"


def caption(clip: Clip, rng: np.random.Generator) -> str:
    """What somebody might type for a clip: 40 % the canonical sentence, otherwise a natural variant of it.

    A variant may leave out the size (always allowed) and, 8 % of the time, the background.
    """
    return canonical(clip) if rng.random() < 0.4 else variant(clip, rng)


def variant(clip: Clip, rng: np.random.Generator) -> str:
    """A free wording: synonyms, word order, articles, capitals and final punctuation drawn from `rng`."""
    colour = mostly_first(COLOUR_WORDS[clip.colour], rng)
    noun = mostly_first(SHAPE_WORDS[clip.shape], rng)
    size = pick(SIZE_WORDS[clip.size], rng) if clip.size is not None and rng.random() < 0.75 else ""
    background = mostly_first(BACKGROUND_WORDS[clip.background], rng)
    article = pick(("a", "a", "the", ""), rng)
    participle, finite = pick(ACTION_WORDS[clip.action], rng)
    subject = noun_phrase(article, size, colour, noun)
    setting = pick(_SETTINGS, rng).format(background)
    place = f"{background} {pick(('background', 'backdrop'), rng)}"
    adjectives = _ADJECTIVES.get(clip.action, ())
    described = noun_phrase(article, pick(adjectives, rng), size, colour, noun) if adjectives else ""

    if rng.random() < 0.08:
        sentences = [f"{subject} {participle}", f"{subject} {finite}", f"{subject}, {participle}"]
        sentences += [described] * bool(described)
    else:
        sentences = [
            f"{subject} {participle} {setting}",
            f"{subject} {participle} {setting}",
            f"{subject} {finite} {setting}",
            f"{subject} that {finite} {setting}",
            f"{subject} {setting} {participle}",
            f"{setting}, {subject} {finite}",
            f"{setting} {subject} {participle}",
            f"{subject} {participle}, {place}",
            f"{subject}, {participle}, {place}",
            f"{place}, {subject} {participle}",
        ]
        sentences += [f"{described} {setting}", f"{described}, {place}"] * bool(described)
    return dressed(pick(sentences, rng), rng)


def vocabulary_corpus(n: int, seed: int) -> Iterator[str]:
    """Yield `n` captions of random clips, the same for the same seed."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield caption(sample_clip(rng), rng)


def train_tokenizer(path: str | PathLike[str]) -> None:
    """Write the demo's `tokenizer.json`, the same file every time (`export.datasets.tokens`)."""
    write_tokenizer(path, vocabulary_corpus(CORPUS, seed=0))
