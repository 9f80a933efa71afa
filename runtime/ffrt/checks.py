"""Checks of single values that a caller gives. Each returns the value to use or raises RequestError.

Nothing is rounded or converted but NumPy's numbers to Python's. What a caller should know though nothing failed is a
`Note`: a field of results, never a process-wide warning.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from ffrt.errors import RequestError

MAX_PROMPT_CHARACTERS = 10_000
MAX_THREADS = 256
"""Inside an operator; more than there are processors are slower, and give the bits of that many."""
Chosen = TypeVar("Chosen", bound=str)


@dataclass(frozen=True)
class Note:
    """What happened to the argument `argument`: a prompt that was cut, a picture that was too small."""

    argument: str
    text: str

    def __str__(self) -> str:
        return self.text


def whole(name: str, value: object, low: int, high: int) -> int:
    """An integer in [low, high]; bools, floats and strings are rejected."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= value <= high:
        return operator.index(value)
    raise RequestError(f"{name}: expected a whole number from {low} to {high}, got {describe(value)}")


def threads(value: object) -> int | None:
    """A number of threads, or None for one on each core."""
    return None if value is None else whole("threads", value, 1, MAX_THREADS)


def guidance(name: str, value: object) -> float:
    """A guidance scale: finite, from 0 (no guidance) to 1e6."""
    if _is_number(value) and 0 <= value <= 1e6:
        return float(value)
    raise RequestError(f"{name}: expected a number from 0 (no guidance) to 1e6, got {describe(value)}")


def interval(name: str, value: object, low: float, high: float) -> tuple[float, float]:
    """Two numbers in order, each in [low, high]."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        first, last = value
        if _is_number(first) and _is_number(last) and low <= first <= last <= high:
            return float(first), float(last)
    raise RequestError(
        f"{name}: expected two numbers from {low:g} to {high:g}, the smaller one first, such as (200, 800), got "
        f"{f'{value!r:.200}' if isinstance(value, (tuple, list)) else describe(value)}"
    )


def choice(name: str, value: object, choices: Collection[Chosen]) -> Chosen:
    """One of `choices`."""
    for known in choices:
        if isinstance(value, str) and value == known:
            return known
    raise RequestError(f"{name}: expected one of {list(choices)}, got {describe(value)}")


def rate(value: object, rates: Collection[int]) -> int:
    """A frame rate that the bundle can make."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value in rates:
        return operator.index(value)
    raise RequestError(f"fps: expected one of {list(rates)}, the rates of this bundle, got {describe(value)}")


def flag(name: str, value: object) -> bool:
    """True or False, NumPy's too; what is merely true or false is rejected."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise RequestError(f"{name}: expected True or False, got {describe(value)}")


def function(name: str, value: object) -> None:
    """Something that can be called."""
    if not callable(value):
        raise RequestError(f"{name}: expected a function, got {describe(value)}")


def texts(name: str, value: object) -> dict[str, str]:
    """A mapping of texts to texts that UTF-8 can hold."""
    if not isinstance(value, Mapping):
        raise RequestError(f"{name}: expected a mapping of text to text, got {type(value).__name__}")
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise RequestError(f"{name}: expected a mapping of text to text, got {describe(key)}: {describe(item)}")
        unicode(name, key), unicode(name, item)
    return dict(value)


def prompt(name: str, value: object) -> str:
    """Text with something in it, of at most 10,000 characters, that UTF-8 can hold."""
    if not isinstance(value, str):
        raise RequestError(f"{name}: expected a sentence (str), got {type(value).__name__}")
    if not value.strip():
        raise RequestError(f"{name}: expected a sentence, got {value[:20]!r}, which is empty")
    if len(value) > MAX_PROMPT_CHARACTERS:
        raise RequestError(f"{name}: expected at most {MAX_PROMPT_CHARACTERS} characters, got {len(value)}")
    return unicode(name, value)


def unicode(name: str, value: str) -> str:
    """Text that UTF-8 can hold, so without half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{name}: expected text that UTF-8 can hold, got {value[:80]!a} ({error})") from None
    return value


def negative_prompt(value: object) -> str | None:
    """As `prompt`; the empty text is none, as the metadata of a video without one say it."""
    return None if value is None or (isinstance(value, str) and not value) else prompt("negative_prompt", value)


def noise(value: object, draws: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Noise of the caller: float32 [K, *shape] with K >= draws, the start first, then one draw per noisy step."""
    if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.shape[1:] == shape and len(value) >= draws:
        return value
    wanted = f"float32 [at least {draws}, {', '.join(map(str, shape))}]"
    raise RequestError(f"noise: expected {wanted}, got {describe(value)}")


def frame_noise(value: object, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform noise for the latent of a first frame: float32 of `shape`."""
    if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.shape == shape:
        return value
    raise RequestError(f"frame_noise: expected float32 {list(shape)}, got {describe(value)}")


def latents(value: object, channels: int, least: int) -> NDArray[np.float32]:
    """Latents float32 [N, channels, h, w] with N >= least."""
    if (
        isinstance(value, np.ndarray)
        and value.dtype == np.float32
        and value.ndim == 4
        and len(value) >= least
        and value.shape[1] == channels
        and value.size
    ):
        return value
    raise RequestError(f"latents: expected float32 [at least {least}, {channels}, h, w], got {describe(value)}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def describe(value: Any) -> str:
    """What came, as an error says it: never more than a line, whatever it is."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.200}" if isinstance(value, (int, float, str, np.number, type(None))) else type(value).__name__
