"""How many times longer the steps of a tokenizer can make a text, so that a short prompt stays one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ffrt.bundle.charsmap import longest_replacement
from ffrt.families.contract import require

MAX_GROWTH = 100
"""Of all normalisers together, in bytes. T5's come to 66."""
MAX_PIECE_GROWTH = 8
"""Of all pre-tokenizers together."""

_APOSTROPHES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
REGEXES = {
    r"\s+": 1,
    " {2,}": 2,
    _CLIP: 1,
    rf"<\|startoftext\|>|<\|endoftext\|>|{_CLIP}": 1,
    rf"{_APOSTROPHES}|{_WORDS}|\p{{N}}|{_REST}": 1,
    rf"{_APOSTROPHES}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}": 1,
}
"""The regular expressions that are allowed, and the fewest characters that each matches."""
_FORMS = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11, "Lowercase": 2}
"""UTF-8 bytes for one at most. A second time in a row, a form changes nothing."""
_EACH_TIME = {"ByteLevel": 2, "BertNormalizer": 2}
_PIECES = {"ByteLevel": 2, "Metaspace": 3}

Step = tuple[str, Mapping[str, Any]]


def check_normalizers(steps: Iterable[Step]) -> None:
    """Raise BundleError if the normalisers `steps`, each with its place, can make a text too long together."""
    growth = form = 1
    for name, step in steps:
        kind = step["type"]
        if kind in _FORMS or kind == "Precompiled":
            once = max(form, _FORMS[kind] if kind in _FORMS else _of_table(name, step))
            growth, form = growth // form * once, once
        else:
            growth *= _of_replace(step) if kind == "Replace" else _EACH_TIME.get(kind, 1)
            if kind in _EACH_TIME or not step.get("content", "").isascii():
                form = 1  # there may be something new to change
        require(growth <= MAX_GROWTH, name, f"text at most {MAX_GROWTH} times as long", f"{growth} times")


def check_pre_tokenizers(steps: Iterable[Step]) -> None:
    """Raise BundleError if the pre-tokenizers `steps` can make a text too long together."""
    growth = 1
    for name, step in steps:
        growth *= _PIECES.get(step["type"], 1)
        require(growth <= MAX_PIECE_GROWTH, name, f"text at most {MAX_PIECE_GROWTH} times as long", f"{growth} times")


def _of_table(name: str, step: Mapping[str, Any]) -> int:
    return max(1, longest_replacement(f"{name}.precompiled_charsmap", step.get("precompiled_charsmap")))


def _of_replace(step: Mapping[str, Any]) -> int:
    pattern = step["pattern"]
    least = REGEXES[pattern["Regex"]] if "Regex" in pattern else len(pattern["String"].encode())
    return max(1, -(-len(step["content"].encode()) // least))
