"""The `model` of tokenizer.json: the vocabulary, and what makes any text end up in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ffrt.errors import BundleError
from ffrt.families.contract import require

MAX_ID = 2**31 - 1
MAX_PIECES = 1 << 21
MAX_PIECE_CHARACTERS = 4096
MAX_UNIGRAM_CHARACTERS = 128
"""Unigram looks up every piece that begins at a character. SentencePiece's own have 16 characters at most."""
MAX_WORD_CHARACTERS = 1000
"""WordPiece takes the square of a word's length."""


def kind_of(model: Mapping[str, Any]) -> str:
    """The kind of a model; files of before 2020 do not name it."""
    if "type" in model or not isinstance(model.get("vocab"), (dict, list)):
        return str(model.get("type"))
    if "merges" in model:
        return "BPE"
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def check_model(model: object) -> str:
    """Check a model; its kind. Raises BundleError."""
    members = an_object("model", model)
    kind = kind_of(members)
    require(kind in _MODELS, "model.type", f"one of {list(_MODELS)}", kind)
    _MODELS[kind](members)
    return kind


def an_object(name: str, value: object) -> Mapping[str, Any]:
    """`value`, if it is a JSON object with something in it. Raises BundleError."""
    if isinstance(value, dict) and value:
        return value
    raise BundleError(f"{name}: expected an object, got {value!r:.80}")


def a_list(name: str, value: object, most: int) -> Sequence[Any]:
    """`value`, if it is a JSON list of 1 to `most` entries. Raises BundleError."""
    if isinstance(value, list) and 0 < len(value) <= most:
        return value
    got = f"{len(value)} entries" if isinstance(value, list) else f"{value!r:.80}"
    raise BundleError(f"{name}: expected a list of 1 to {most} entries, got {got}")


def _bpe(model: Mapping[str, Any]) -> None:
    vocabulary = _vocabulary(model)
    unknown, dropout = model.get("unk_token"), model.get("dropout")
    if unknown is not None:
        _known("model.unk_token", unknown, vocabulary)
    steady = dropout is None or (type(dropout) in (int, float) and dropout == 0)
    require(steady, "model.dropout", "null, as a prompt always has the same tokens", dropout)
    prefix, suffix = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    for name, mark in (("continuing_subword_prefix", prefix), ("end_of_word_suffix", suffix)):
        ok = mark is None or (isinstance(mark, str) and len(mark) <= 64)
        require(ok, f"model.{name}", "null or a text of at most 64 characters", mark)
    dropped = "" if prefix is None else prefix
    merges = model.get("merges")
    for i, merge in enumerate(() if merges == [] else a_list("model.merges", merges, MAX_PIECES)):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        known = isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) and p in vocabulary for p in pair)
        require(known, f"model.merges[{i}]", "two tokens of the vocabulary", merge)
        whole = pair[1].startswith(dropped) and pair[0] + pair[1][len(dropped) :] in vocabulary
        require(whole, f"model.merges[{i}]", "two tokens that make a third", merge)


def _unigram(model: Mapping[str, Any]) -> None:
    vocabulary, unknown = a_list("model.vocab", model.get("vocab"), MAX_PIECES), model.get("unk_id")
    for i, entry in enumerate(vocabulary):
        ok = isinstance(entry, list) and len(entry) == 2 and _piece(entry[0]) and type(entry[1]) in (int, float)
        require(ok and math.isfinite(entry[1]) and abs(entry[1]) <= 1e6, f"model.vocab[{i}]", "[text, score]", entry)
    known = type(unknown) is int and 0 <= unknown < len(vocabulary)
    require(known, "model.unk_id", f"0 to {len(vocabulary) - 1}, for text outside the vocabulary", unknown)


def _word_piece(model: Mapping[str, Any]) -> None:
    _known("model.unk_token", model.get("unk_token"), _vocabulary(model))
    most, prefix = model.get("max_input_chars_per_word"), model.get("continuing_subword_prefix")
    ok = type(most) is int and 1 <= most <= MAX_WORD_CHARACTERS
    require(ok, "model.max_input_chars_per_word", f"1 to {MAX_WORD_CHARACTERS}", most)
    ok = isinstance(prefix, str) and len(prefix) <= 64
    require(ok, "model.continuing_subword_prefix", "a text of at most 64 characters", prefix)


def _word_level(model: Mapping[str, Any]) -> None:
    _known("model.unk_token", model.get("unk_token"), _vocabulary(model))


_MODELS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "BPE": _bpe,
    "Unigram": _unigram,
    "WordPiece": _word_piece,
    "WordLevel": _word_level,
}


def _vocabulary(model: Mapping[str, Any]) -> Mapping[str, int]:
    vocabulary = an_object("model.vocab", model.get("vocab"))
    for token, number in vocabulary.items():
        ok = len(token) <= MAX_PIECE_CHARACTERS and type(number) is int and 0 <= number <= MAX_ID
        require(ok, f"model.vocab[{token[:80]!r}]", f"an id from 0 to {MAX_ID}", number)
    return vocabulary


def _piece(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_UNIGRAM_CHARACTERS


def _known(name: str, token: object, vocabulary: Mapping[str, int]) -> None:
    require(isinstance(token, str) and token in vocabulary, name, "a token of the vocabulary", token)
