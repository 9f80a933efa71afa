"""How sentences of every domain vary: synonyms, articles, capitals and final punctuation, drawn from a generator."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def noun_phrase(article: str, *words: str) -> str:
    """Article and words that are not empty; "a" becomes "an" before a vowel and before 8."""
    phrase = " ".join(word for word in words if word)
    if article == "a" and phrase[0] in "aeiou8":
        article = "an"
    return f"{article} {phrase}".lstrip()


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of the options, all alike."""
    return options[int(rng.integers(len(options)))]


def mostly_first(words: Sequence[str], rng: np.random.Generator) -> str:
    """The first word half of the time, otherwise any."""
    return words[0] if rng.random() < 0.5 else pick(words, rng)


def dressed(text: str, rng: np.random.Generator) -> str:
    """A sentence as people type it: now and then with a capital, all in capitals, or with a mark at its end."""
    dress = rng.random()
    if dress < 0.3:
        text = text[0].upper() + text[1:]
    elif dress < 0.33:
        text = text.upper()
    return text + pick(("", "", "", ".", ".", "!"), rng)
